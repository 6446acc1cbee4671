"""Shelves: both kinds give the same, and what lies on one outlives a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient

from framemesh.errors import FramemeshError
from framemesh.messages import SearchKind, SearchRequest
from framemesh.steps.functions import StepFailed
from services.search import edge
from services.search.edge import EdgeLibrary
from services.search.embedder import MiniLm
from services.search.finder import DEPTH, Finder, fused, snippet
from services.search.passages import Found, Passage, Point, Where
from services.search.qdrant import PREFIX, QdrantLibrary
from services.search.shelf import Library, Shelf
from tests.searching import fill, passages, recall

NAME = "test-384-english"


@pytest.fixture(scope="module")
def embedder() -> MiniLm:
    return MiniLm(1)


@pytest.fixture(params=["edge", "client", "server"])
async def library(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Library]:
    """A folder; Qdrant's client without a server; and, where QDRANT_URL names one, a server."""
    made: Library
    match request.param:
        case "edge":
            made = EdgeLibrary(str(tmp_path / "search"), "english")
        case "client":
            made = QdrantLibrary(AsyncQdrantClient(path=str(tmp_path / "qdrant")), "english")
        case _:
            url = os.environ.get("QDRANT_URL") or pytest.skip("no Qdrant server: set QDRANT_URL")
            made = QdrantLibrary.at(url, os.environ.get("QDRANT_API_KEY", ""), "english")
    yield made
    if request.param == "server" and NAME in await made.names():
        await made.remove(NAME)
    await made.close()


@pytest.fixture
async def shelf(library: Library) -> AsyncIterator[Shelf]:
    made, fresh = await library.open(NAME, 384)
    assert fresh
    yield made
    await made.close()


pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Api key is used")


def passage(text: str, **more: object) -> Passage:
    given = {"kind": SearchKind.TRANSCRIPT, "start": 1.5, "end": 3.0, "time": 100.0, "media": "m1", "source": "s1"}
    return Passage.model_validate(given | {"text": text} | more)


async def texts(shelf: Shelf, where: Where) -> set[str]:
    return {point.passage.text async for point in shelf.all(where)}


async def test_what_is_laid_down_is_there_and_goes_again(shelf: Shelf, embedder: MiniLm) -> None:
    given = [
        passage("a dog runs in the park"),
        passage("the bank raised its rates", media="m2", source="s2"),
        passage(
            "person at gate", kind="event", media="e1", time=200.0, labels={"person": (200.0, 201.5)}, version=3
        ),
    ]
    await fill(shelf, embedder, given)
    await fill(shelf, embedder, given)
    assert await shelf.count() == 3
    found = await shelf.get([each.id for each in given] + [passage("another").id])
    assert {point.passage.text: point.passage for point in found.values()} == {p.text: p for p in given}
    assert await texts(shelf, Where(kind=SearchKind.TRANSCRIPT)) == {given[0].text, given[1].text}
    assert await texts(shelf, Where(since=100.5)) == {given[2].text}
    await shelf.clear(Where(kind=SearchKind.EVENT, before=150.0))
    assert await shelf.count() == 3
    await shelf.clear(Where(kind=SearchKind.EVENT, before=250.0))
    await shelf.drop([given[0].id])
    assert await texts(shelf, Where()) == {given[1].text}


async def test_filters_hold_for_words_and_for_meaning(shelf: Shelf, embedder: MiniLm) -> None:
    await fill(
        shelf, embedder,
        [
            passage("a dog runs in the park"),
            passage("two dogs sleep", media="m2", source="s2", time=500.0),
            passage("dog at gate", kind="label", source="s2", media="60/1", time=900.0),
        ],
    )  # fmt: skip
    finder = Finder(shelf, embedder)

    async def found(**more: object) -> set[str]:
        return {each.passage.text for each in await finder.find(SearchRequest.model_validate({"q": "dog"} | more))}

    assert len(await found()) == 3
    assert await found(source="s2") == {"two dogs sleep", "dog at gate"}
    assert await found(since=500.0, kind="transcript") == {"two dogs sleep"}
    assert await found(kind="event") == set()
    assert len(await found(limit=1)) == 1


async def test_a_filter_holds_before_the_best_are_taken(shelf: Shelf, embedder: MiniLm) -> None:
    """More fit better than either list is long."""
    near, far = await embedder.embed(["dog", "a dog that is old, and many a word of something else"])
    better = [Point(passage("dog", media=f"m{at}"), near) for at in range(2 * DEPTH)]
    other = passage("a dog that is old, and many a word of something else", source="s2", time=900.0, kind="event")
    await shelf.put([*better, Point(other, far)])
    finder = Finder(shelf, embedder)
    for more in ({"source": "s2"}, {"since": 900.0}, {"kind": "event"}):
        (hit,) = await finder.find(SearchRequest.model_validate({"q": "dog"} | more))
        assert (hit.passage.text, hit.matched) == (other.text, ("words", "meaning"))


async def test_media_of_others_are_not_found(shelf: Shelf, embedder: MiniLm) -> None:
    owners = {"ada's dog": "ada", "bob's dog": "bob", "a dog at the gate": None}
    await fill(shelf, embedder, [passage(text, owner=owner) for text, owner in owners.items()])
    finder = Finder(shelf, embedder)

    async def found(reader: str | None) -> set[str]:
        hits = await finder.find(SearchRequest(q="dog", reader=reader, kind=SearchKind.TRANSCRIPT))
        return {each.passage.text for each in hits}

    assert await found("ada") == {"ada's dog", "a dog at the gate"}
    assert await found("eve") == {"a dog at the gate"}
    assert await found(None) == set(owners)


async def test_a_full_disk_is_said_and_what_lies_there_is_still_found(
    tmp_path: Path, embedder: MiniLm, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = EdgeLibrary(str(tmp_path), "english")
    shelf, _ = await library.open(NAME, 384)
    await fill(shelf, embedder, [passage("a dog")])
    monkeypatch.setattr(edge, "ROOM", 1 << 60)
    with pytest.raises(StepFailed, match=r"setting search_path: less than .* are free at .*: make room"):
        await fill(shelf, embedder, [passage("a cat")])
    assert [each.passage.text for each in await Finder(shelf, embedder).find(SearchRequest(q="dog"))] == ["a dog"]
    with pytest.raises(StepFailed, match="make room"):
        await library.open("other-384-english", 384)
    await shelf.close()
    await library.close()


async def test_the_room_of_what_was_taken_away_comes_back(tmp_path: Path) -> None:
    library = EdgeLibrary(str(tmp_path), "english")
    shelf, _ = await library.open(NAME, 384)
    vector = np.full(384, 384**-0.5, np.float32)
    await shelf.put([Point(passage(f"number {at}", time=float(at)), vector) for at in range(3000)])
    await shelf.clear(Where(before=2900.0))
    before = taken(tmp_path)
    await shelf.tidy()
    await shelf.flush()
    assert taken(tmp_path) < before / 2
    assert await shelf.count() == 100
    await shelf.close()
    await library.close()


def taken(folder: Path) -> int:
    """Bytes of its segments."""
    return sum(each.stat().st_blocks * 512 for each in folder.glob("*/segments/**/*") if each.is_file())


async def test_many_pages_are_read(shelf: Shelf, embedder: MiniLm) -> None:
    (vector,) = await embedder.embed(["x"])
    await shelf.put([Point(passage(f"number {at}"), vector) for at in range(600)])
    assert len(await texts(shelf, Where(media="m1"))) == 600


async def test_both_together_find_more_than_words(tmp_path: Path, embedder: MiniLm) -> None:
    """Of thirty questions that were written beforehand, nine in ten by the first five."""
    library = EdgeLibrary(str(tmp_path), "english")
    shelf, _ = await library.open(NAME, 384)
    given = passages()
    await fill(shelf, embedder, given)
    shares = await recall(Finder(shelf, embedder))
    print(f"recall@5 over {len(given)} passages: {shares}")
    assert len(given) >= 500
    assert shares["merged"] >= 0.9
    assert shares["merged"] > shares["words"]
    await shelf.close()
    await library.close()


async def test_a_folder_is_one_process_s(tmp_path: Path) -> None:
    library = EdgeLibrary(str(tmp_path), "english")
    with pytest.raises(FramemeshError, match="another search service has"):
        EdgeLibrary(str(tmp_path), "english")
    await library.close()
    await EdgeLibrary(str(tmp_path), "english").close()


def test_a_language_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="klingon"):
        EdgeLibrary(str(tmp_path), "klingon")


WRITER = """
import asyncio, sys
import numpy as np
from services.search.edge import EdgeLibrary
from services.search.passages import Passage, Point

async def main():
    shelf, _ = await EdgeLibrary(sys.argv[1], "english").open("test-384-english", 384)
    for number in range(100_000):
        made = Passage(kind="transcript", text=f"number {number}", start=0, end=1, time=1, media="m1")
        await shelf.put([Point(made, np.ones(384, np.float32))])
        print(number, flush=True)

asyncio.run(main())
"""


def write_until_killed(folder: Path) -> int:
    """The last passage that a process had laid down when it was killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.stdout is not None
    last = -1
    while last < 200:
        last = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    said = child.communicate()[0].split()
    return max([last, *map(int, said)])


async def test_what_was_laid_down_outlives_a_kill(tmp_path: Path) -> None:
    last = await asyncio.to_thread(write_until_killed, tmp_path)
    library = EdgeLibrary(str(tmp_path), "english")
    shelf, fresh = await library.open(NAME, 384)
    assert not fresh
    found = await texts(shelf, Where())
    assert {f"number {number}" for number in range(last + 1)} <= found
    assert await library.names() == [NAME]
    await shelf.close()
    await library.close()


def test_two_lists_become_one_by_their_ranks() -> None:
    a, b, c = (Found(passage(text), 9.0) for text in ("a", "b", "c"))
    made = fused({"words": [a, b], "meaning": [b, c]})
    assert [each.passage.text for each in made] == ["b", "a", "c"]
    assert made[0].matched == ("words", "meaning")
    assert made[0].score == pytest.approx((61 / 62 + 1) / 2)
    assert fused({"words": [a], "meaning": [a]})[0].score == pytest.approx(1.0)


def test_a_snippet_is_where_the_words_are() -> None:
    text = " ".join(["nothing"] * 60 + ["bread", "prices", "rose"] + ["nothing"] * 60)
    cut = snippet(text, "bread prices")
    assert "bread prices rose" in cut
    assert len(cut) < 250
    assert cut.startswith("…")
    assert cut.endswith("…")
    assert snippet("short", "x") == "short"
    assert len(snippet("\u6a4b" * 500, "\u6a4b")) > 200
    assert PREFIX == "framemesh-"
