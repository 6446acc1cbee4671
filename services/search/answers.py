"""Answers questions from the passages that were found, with citations, by a language model."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from framemesh.llm import reading
from framemesh.llm.chat import Chat, Turn
from framemesh.llm.prompts import Prompts
from framemesh.messages import Citation, SearchHit, SearchReply, SearchTrouble
from framemesh.steps.functions import StepFailed
from services.search.settings import SearchSettings

log = logging.getLogger(__name__)

PROMPTS = Prompts(Path(__file__).parent / "prompts", "v1")
MOST_PASSAGES = 12
_HARMLESS = str.maketrans("[]<>\u3010\u3011", "()\u2039\u203a()")
_MARK = re.compile(r"\[(\d+(?:\s*,\s*\d+)*)\]")
_MARK_LIKE = re.compile(r"[\[\u3010]\s*\d[\d\s,;\u2013-]*[\]\u3011]")


class Answer(BaseModel):
    """What the language model is asked for."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"additionalProperties": False})

    answer: str | None = Field(max_length=4000, description="With numbers of passages in brackets; or null")
    citations: list[int] = Field(max_length=MOST_PASSAGES, description="Numbers of the passages it rests on")


class Answers:
    """Asks the language model that the settings name."""

    def __init__(self, settings: SearchSettings) -> None:
        self._unset = settings.unset
        self._chat = None if settings.unset else Chat(settings.server, settings.gpt_max_tokens, PROMPTS)

    async def close(self) -> None:
        """Close the connections."""
        if self._chat:
            await self._chat.close()

    async def answer(self, question: str, hits: Sequence[SearchHit]) -> SearchReply:
        """The answer, and the passages that it cites. Raises StepFailed for what may pass, FramemeshError else."""
        if self._chat is None:
            return SearchReply(
                trouble=SearchTrouble.UNSET, reason=f"{self._unset}: set them for the search service"
            )
        given = list(hits[:MOST_PASSAGES])
        if not given:
            return SearchReply(hits=list(hits))
        filled = PROMPTS.fill("question", question=question, passages=_numbered(given))
        turns: list[Turn] = [
            {"role": "system", "content": PROMPTS.text("system")},
            {"role": "user", "content": filled},
        ]
        read = await reading.ask(
            self._chat, turns, Answer.model_json_schema(), _silent, lambda text: checked(text, len(given)),
            PROMPTS, lambda problem: log.warning("the answer does not fit, asking once more: %s", problem),
        )  # fmt: skip
        cited = [Citation(number=n, **given[n - 1].model_dump()) for n in read.answer.citations]
        return SearchReply(
            hits=list(hits), answer=read.answer.answer, citations=cited, model=read.said.model[:200]
        )


def checked(text: str, count: int) -> Answer:
    """The answer in what a model wrote, if it cites only passages that were given. Raises ValueError."""
    found = reading.parse(text, Answer)
    if not (found.answer or "").strip():
        return Answer(answer=None, citations=[])
    if odd := [mark for mark in _MARK_LIKE.findall(found.answer or "") if not _MARK.fullmatch(mark)]:
        raise ValueError(f"it cites as {odd[0][:20]}: write [1] or [1, 2]")
    marked = [int(number) for marks in _MARK.findall(found.answer or "") for number in re.split(r"\s*,\s*", marks)]
    cited = list(dict.fromkeys([*marked, *found.citations]))
    if wrong := [number for number in cited if not 1 <= number <= count]:
        raise ValueError(f"it cites {', '.join(map(str, wrong))}, but only passages 1 to {count} were given")
    if not cited:
        raise ValueError("it cites no passage: name those that it rests on, or answer null")
    return found.model_copy(update={"citations": sorted(cited)})


def _numbered(hits: Sequence[SearchHit]) -> str:
    return "\n".join(f"[{number}] {_plain(_about(hit))}: {_plain(hit.text)}" for number, hit in enumerate(hits, 1))


def _about(hit: SearchHit) -> str:
    return f"{hit.kind} of {hit.title or hit.source}"


def _plain(text: str) -> str:
    """In one line, without what looks like the number or the end of a passage: those are written here alone."""
    return " ".join(text.split()).translate(_HARMLESS)


async def _silent(length: int) -> None:
    """Nobody watches the answer come."""


def troubled(error: Exception) -> SearchReply:
    """Why there is no answer."""
    kind = SearchTrouble.AWAY if isinstance(error, StepFailed) and error.retry else SearchTrouble.FAILED
    return SearchReply(trouble=kind, reason=str(error)[:500])
