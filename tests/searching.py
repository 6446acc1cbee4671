"""The written set of passages and questions that search is measured with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from framemesh.messages import SearchKind, SearchRequest
from services.search.embedder import Embedder
from services.search.finder import Finder
from services.search.passages import Found, Passage, Point
from services.search.projector import label_passage
from services.search.shelf import Shelf

DATA = Path(__file__).parent / "data" / "search"
BEGAN = 1_790_000_000.0
CAMERAS = (
    "harbour-gate", "car-park-north", "loading-dock-2", "school-yard", "bakery-door", "museum-hall",
    "bicycle-rack", "stable", "pool-deck", "roof-east", "lobby", "warehouse-aisle-7",
)  # fmt: skip
SIGHTS = (
    ("person",), ("dog", "person"), ("car", "truck"), ("bicycle", "person"), ("cat",), ("horse",), ("boat",),
    ("fire hydrant", "umbrella"), ("backpack", "person", "suitcase"),
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What is asked, and a piece of each passage that answers it."""

    q: str
    kind: str
    expect: tuple[str, ...]

    def answered(self, found: Sequence[Found]) -> bool:
        """Whether one of the passages answers it."""
        return any(piece in each.passage.text for each in found for piece in self.expect)


def questions() -> list[Question]:
    """All thirty."""
    told = json.loads((DATA / "questions.json").read_text("utf-8"))
    return [Question(each["q"], each["kind"], tuple(each["expect"])) for each in told]


def passages() -> list[Passage]:
    """Of recordings and of cameras."""
    return [*_recordings(), *_cameras()]


def _recordings() -> list[Passage]:
    made: list[Passage] = []
    title = ""
    for line in (DATA / "recordings.txt").read_text("utf-8").splitlines():
        if line.startswith("# "):
            title = line[2:]
            continue
        media, start = title.split(":")[0].replace(" ", "-").lower(), 20.0 * len(made)
        made.append(
            Passage(
                kind=SearchKind.TRANSCRIPT,
                text=line,
                start=start,
                end=start + 20,
                time=BEGAN,
                media=media,
                source=media,
                title=title,
            )
        )
    return made


def _cameras() -> list[Passage]:
    made = []
    for number, (camera, labels) in enumerate((camera, sight) for camera in CAMERAS for sight in SIGHTS):
        when = BEGAN + 600 * number
        made.append(label_passage(camera, f"60/{number}", dict.fromkeys(labels, (when, when + 30))))
    return made


async def fill(shelf: Shelf, embedder: Embedder, texts: Sequence[Passage]) -> None:
    """Lay passages down."""
    vectors = await embedder.embed([passage.spoken for passage in texts])
    await shelf.put([Point(passage, vector) for passage, vector in zip(texts, vectors, strict=True)])
    await shelf.flush()


async def recall(finder: Finder, most: int = 5) -> dict[str, float]:
    """Share of the questions that are answered by one of the first ``most``: by words, by meaning, by both."""
    answered = {"words": 0, "meaning": 0, "merged": 0}
    asked = questions()
    for question in asked:
        wanted = SearchRequest(q=question.q)
        lists = {
            "words": await finder.by_words(wanted),
            "meaning": await finder.by_meaning(wanted),
            "merged": await finder.find(wanted),
        }
        for name, found in lists.items():
            answered[name] += question.answered(found[:most])
    return {name: count / len(asked) for name, count in answered.items()}
