"""The steps of media: ``embed``, ``index`` and ``unindex``."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar
from urllib.parse import quote
from weakref import WeakValueDictionary

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from framemesh.blobs import BlobMissing
from framemesh.errors import FramemeshError
from framemesh.llm.reading import explain
from framemesh.messages import SearchKind
from framemesh.steps.context import Context
from framemesh.steps.functions import Function, Skip
from services.search.chunks import SpokenSegment, chunks
from services.search.embedder import Embedder
from services.search.passages import Passage, Point, Vector, Where
from services.search.settings import SearchSettings
from services.search.shelf import Shelf

TIMEOUT = 3600.0
BATCH = 64
MOST_PASSAGES = 50_000

M = TypeVar("M", bound=BaseModel)


Locks = Callable[[str], AbstractAsyncContextManager[Any]]
"""Who changes the passages of one media does it alone."""


class _Given(BaseModel):
    model_config = ConfigDict(extra="ignore")


class About(_Given):
    """What a passage tells of its media."""

    media: str = Field(min_length=1, max_length=256)
    title: str | None = Field(None, max_length=500)
    source: str | None = Field(None, max_length=256)
    owner: str | None = Field(None, min_length=1, max_length=256)


class EmbedInput(About):
    """Input of ``embed``."""

    transcript: Any = None


class IndexInput(About):
    """Input of ``index``."""

    passages: str | None = Field(None, min_length=1)
    version: int | None = None
    """Null where nothing of the media was looked at: an older version, which says nothing of the newest."""


class UnindexInput(_Given):
    """Input of ``unindex``."""

    media: str = Field(min_length=1, max_length=256)


class Transcript(_Given):
    """What the step ``transcribing`` has stored."""

    segments: list[SpokenSegment]


class Embedded(_Given):
    """A passage with its vector, base64 of float32."""

    text: str
    start: float
    end: float
    vector: str


class Embeddings(_Given):
    """What ``embed`` stores for ``index``."""

    model: str
    title: str = ""
    passages: list[Embedded] = Field(max_length=MOST_PASSAGES)


class MediaIndex:
    """Transcripts of media on a shelf."""

    def __init__(self, settings: SearchSettings, shelf: Shelf, embedder: Embedder, locks: Locks) -> None:
        self._settings, self._shelf, self._embedder, self._locks = settings, shelf, embedder, locks

    @property
    def functions(self) -> tuple[Function, ...]:
        """The steps."""
        return (
            Function("embed", self.embed, TIMEOUT, description="Cut a transcript into passages, with vectors."),
            Function("index", self.index, TIMEOUT, description="Let the passages of a media be found."),
            Function("unindex", self.unindex, TIMEOUT, description="Let a media be found no more."),
        )

    async def embed(self, ctx: Context, given: Any) -> dict[str, Any]:
        """Passages of a ``transcript`` and their vectors; those that the index has already are not made again."""
        asked = _input("embed", EmbedInput, given)
        spoken = await _transcript(ctx, asked.transcript)
        made = self._passages(asked, spoken)
        if not made:
            raise Skip("nothing was said: the transcript has no words")
        vectors = await self._vectors(ctx, made)
        found = Embeddings(
            model=self._embedder.name,
            title=asked.title or "",
            passages=[
                Embedded(text=p.text, start=p.start, end=p.end, vector=_packed(v))
                for p, v in zip(made, vectors, strict=True)
            ],
        )
        digest = hashlib.sha256(json.dumps([self._embedder.name, *map(_essence, made)]).encode()).hexdigest()
        url = await ctx.put(found.model_dump_json().encode())
        return {"passages": url, "count": len(made), "model": self._embedder.name, "digest": digest}

    async def index(self, ctx: Context, given: Any) -> dict[str, Any]:
        """Lay the ``passages`` of a ``media`` down, and take away those that it has no more."""
        asked = _input("index", IndexInput, given)
        if asked.passages is None:
            if asked.version is None:
                raise Skip("there are no passages")
            return {"indexed": 0, "kept": 0} | await self.unindex(ctx, {"media": asked.media})
        stored = await _stored(ctx, asked.passages)
        wanted = _numbered(self._passage(asked, each.text, each.start, each.end) for each in stored.passages)
        async with self._locks(asked.media):
            before = await self._of(asked.media)
            # Of another model, or under another title: vectors are made anew.
            usable = stored.model == self._embedder.name and stored.title == (asked.title or "")
            known = {
                passage.id: _unpacked(each.vector)
                for passage, each in zip(wanted, stored.passages, strict=True)
                if usable
            }
            wanted = [p if p.id not in before else p.known_since(before[p.id].passage.time) for p in wanted]
            changed = [p for p in wanted if p.id not in before or before[p.id].passage != p]
            for at in range(0, len(changed), BATCH):
                await ctx.progress(95 * at / len(changed), f"passage {at} of {len(changed)}")
                await self._put(changed[at : at + BATCH], known)
            stale = before.keys() - {passage.id for passage in wanted}
            await self._shelf.drop(list(stale))
            await self._shelf.flush()
        return {"indexed": len(changed), "removed": len(stale), "kept": len(wanted) - len(changed)}

    async def unindex(self, ctx: Context, given: Any) -> dict[str, Any]:
        """Take away every passage of a ``media``."""
        asked = _input("unindex", UnindexInput, given)
        async with self._locks(asked.media):
            before = await self._of(asked.media)
            await self._shelf.clear(Where(kind=SearchKind.TRANSCRIPT, media=asked.media))
            await self._shelf.flush()
        return {"removed": len(before)}

    # -- inside -------------------------------------------------------------------------------------

    def _passages(self, asked: EmbedInput, spoken: Transcript) -> list[Passage]:
        settings = self._settings
        cut = chunks(spoken.segments, settings.chunk_words, settings.chunk_overlap)
        if len(cut) > MOST_PASSAGES:
            raise FramemeshError(
                f"input.transcript: {len(cut)} passages, {MOST_PASSAGES} are allowed: cut the media"
            )
        return _numbered(self._passage(asked, each.text, each.start, each.end) for each in cut)

    def _passage(self, asked: About, text: str, start: float, end: float) -> Passage:
        return Passage(
            kind=SearchKind.TRANSCRIPT, text=text, start=round(start, 3), end=round(end, 3), time=time.time(),
            media=asked.media, source=asked.source or asked.media, title=asked.title or "",
            link=f"/media/{quote(asked.media, safe='')}/index.m3u8#t={start:.1f}",
            owner=asked.owner,
        )  # fmt: skip

    async def _vectors(self, ctx: Context, made: Sequence[Passage]) -> list[Vector]:
        known = {p.passage.digest: p.vector for p in (await self._of(made[0].media)).values()}
        fresh = [p.spoken for p in made if p.digest not in known]
        found: list[Vector] = []
        for at in range(0, len(fresh), BATCH):
            await ctx.progress(95 * at / len(fresh), f"passage {at} of {len(fresh)}")
            found += await self._embedder.embed(fresh[at : at + BATCH])
        ctx.log.info("%d passages, %d of them new", len(made), len(fresh))
        new = iter(found)
        return [known[p.digest] if p.digest in known else next(new) for p in made]

    async def _put(self, passages: Sequence[Passage], known: dict[str, Vector]) -> None:
        unknown = [p for p in passages if p.id not in known]
        made = await self._embedder.embed([p.spoken for p in unknown]) if unknown else []
        vectors = known | {p.id: v for p, v in zip(unknown, made, strict=True)}
        await self._shelf.put([Point(p, vectors[p.id]) for p in passages])

    async def _of(self, media: str) -> dict[str, Point]:
        where = Where(kind=SearchKind.TRANSCRIPT, media=media)
        return {point.passage.id: point async for point in self._shelf.all(where)}


class LocalLocks:
    """For the one process that has the index."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __call__(self, media: str) -> asyncio.Lock:
        """The lock of one media; forgotten with the last who wants it."""
        return self._locks.setdefault(media, asyncio.Lock())


def _numbered(passages: Iterable[Passage]) -> list[Passage]:
    """Those that say the same told apart."""
    seen: Counter[str] = Counter()
    made = []
    for passage in passages:
        made.append(passage.model_copy(update={"ordinal": seen[passage.text]}))
        seen[passage.text] += 1
    return made


def _essence(passage: Passage) -> list[Any]:
    return [passage.spoken, passage.source, passage.start, passage.end]


def _packed(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _unpacked(text: str) -> Vector:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)


def _input(step: str, model: type[M], given: Any) -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise FramemeshError(f"input of {step}: {explain(error)}") from None


async def _transcript(ctx: Context, given: Any) -> Transcript:
    """By its address, or as ``transcribing`` outputs it: a summary with the address of the whole."""
    if given is None:
        raise Skip("there is no transcript")
    where = given.get("transcript", given) if isinstance(given, dict) else given
    if isinstance(where, dict):
        return _input("embed: transcript", Transcript, where)
    if not isinstance(where, str) or not where:
        raise FramemeshError("input.transcript: want the address of a transcript, or an object with segments")
    return await _read(ctx, "transcript", where, Transcript)


async def _stored(ctx: Context, url: str) -> Embeddings:
    return await _read(ctx, "passages", url, Embeddings)


async def _read(ctx: Context, field: str, url: str, model: type[M]) -> M:
    try:
        data = await ctx.get(url)
    except BlobMissing as error:
        raise FramemeshError(f"input.{field}: {error}; its time may be over (jobs_ttl): begin anew") from error
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise FramemeshError(f"input.{field}: {explain(error)}") from None
