"""Finds passages: by words and by meaning, merged by reciprocal rank fusion."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace

from framemesh.memo import Memo
from framemesh.messages import SearchHit, SearchKind, SearchRequest
from services.search.embedder import Embedder
from services.search.passages import Found, Vector, Where
from services.search.shelf import Shelf

DEPTH = 50
"""How far down each of the two lists is looked."""
CONSTANT = 60
"""Of reciprocal rank fusion (Cormack, Clarke and Buettcher, 2009): how little the first rank counts more."""
LEAST = 0.15
"""Cosine below which two texts have nothing to do with each other."""
SNIPPET = 240
"""Characters."""
MEMORY = 1024
BY_WORDS, BY_MEANING = "words", "meaning"
_WORD = re.compile(r"\w+")


class Finder:
    """Searches one shelf."""

    def __init__(self, shelf: Shelf, embedder: Embedder) -> None:
        self._shelf, self._embedder = shelf, embedder
        self._questions: Memo[Vector] = Memo(MEMORY)

    async def find(self, asked: SearchRequest) -> list[Found]:
        """The best of both lists."""
        words, meaning = await asyncio.gather(self.by_words(asked), self.by_meaning(asked))
        return fused({BY_WORDS: words, BY_MEANING: meaning})[: asked.limit]

    async def by_words(self, asked: SearchRequest) -> list[Found]:
        """The words alone."""
        return await self._shelf.worded(asked.q, _where(asked), max(DEPTH, asked.limit))

    async def by_meaning(self, asked: SearchRequest) -> list[Found]:
        """The meaning alone."""
        vector = self._questions.get(asked.q)
        if vector is None:
            (vector,) = await self._embedder.embed([asked.q])
            self._questions.keep(asked.q, vector)
        return await self._shelf.near(vector, _where(asked), max(DEPTH, asked.limit), LEAST)


def fused(lists: dict[str, Sequence[Found]]) -> list[Found]:
    """One list of several: each passage by the sum of 1 / (60 + its rank), scaled so that 1 is the most."""
    merged: dict[str, Found] = {}
    for name, found in lists.items():
        for rank, each in enumerate(found, 1):
            share = (CONSTANT + 1) / (CONSTANT + rank) / len(lists)
            before = merged.get(each.passage.id, replace(each, score=0.0))
            merged[each.passage.id] = replace(before, score=before.score + share, matched=(*before.matched, name))
    return sorted(merged.values(), key=lambda each: -each.score)


def hit(found: Found, question: str) -> SearchHit:
    """As it is told."""
    passage = found.passage
    return SearchHit(
        kind=passage.kind, text=passage.text, snippet=snippet(passage.text, question),
        score=round(min(1.0, found.score), 6), matched=list(found.matched),
        media=None if passage.kind is SearchKind.LABEL else passage.media, source=passage.source,
        title=passage.title, start=passage.start, end=passage.end, time=passage.time, link=passage.link or None,
    )  # fmt: skip


def snippet(text: str, question: str) -> str:
    """The stretch of a text that has the most of a question's words; all of it where it is short."""
    if len(text) <= SNIPPET:
        return text
    wanted = set(_WORD.findall(question.casefold()))
    words = list(_WORD.finditer(text))
    hits = [at.start() for at in words if at.group().casefold() in wanted and len(at.group()) > 2]  # noqa: PLR2004
    starts = [0, *(at.start() for at in words)]
    best = max(starts, key=lambda start: (sum(start <= at < start + SNIPPET - 20 for at in hits), -start))
    cut = text[best : best + SNIPPET]
    end = "" if best + SNIPPET >= len(text) else "…"
    whole = cut.rpartition(" ")[0] or cut  # not every script has blanks
    return ("…" if best else "") + (whole if end else cut) + end


def _where(asked: SearchRequest) -> Where:
    return Where(kind=asked.kind, source=asked.source, since=asked.since, reader=asked.reader)
