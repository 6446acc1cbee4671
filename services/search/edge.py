"""Shelves in a folder, by Qdrant's own engine inside this process (Qdrant Edge).

Searches are exact: its graph index is built while everything else of the process stands still.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import qdrant_edge as q

from framemesh.errors import FramemeshError
from framemesh.locks import lock
from framemesh.steps.functions import StepFailed
from services.search.passages import INDEXED, Found, Point, Vector, Where
from services.search.shelf import DENSE, PAGE, WORDS, parsed
from services.search.words import Words

T = TypeVar("T")
_SCHEMAS = {"keyword": q.PayloadSchemaType.Keyword, "float": q.PayloadSchemaType.Float}
_MARK = "edge_config.json"
ROOM = 256 << 20
"""Bytes that are to be free on the disk."""


class EdgeLibrary:
    """A folder of shelves, which one process has. Raises FramemeshError when another one has it."""

    def __init__(self, folder: str, language: str) -> None:
        self._words = Words(language)
        self._folder = Path(folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = lock(self._folder)
        except OSError as error:
            raise FramemeshError(
                f"setting search_path: {folder}: {error.strerror}: name another folder"
            ) from error
        if handle is None:
            raise FramemeshError(
                f"setting search_path: another search service has {folder}: end it, or give both a "
                "Qdrant server by search_url"
            )
        self._lock = handle

    async def open(self, name: str, size: int) -> tuple[EdgeShelf, bool]:
        """A shelf, and whether it is new."""
        self._check_room()
        path, known = self._folder / name, (self._folder / name / _MARK).exists()
        if not known:
            shutil.rmtree(path, ignore_errors=True)  # of a start that was killed
        thread = ThreadPoolExecutor(1, "edge")
        loop = asyncio.get_running_loop()
        shard = await loop.run_in_executor(thread, _load if known else _create, str(path), size)
        return EdgeShelf(shard, self._words, thread, self._check_room), not known

    async def names(self) -> list[str]:
        """Shelves that there are."""
        return sorted(found.parent.name for found in self._folder.glob(f"*/{_MARK}"))

    async def remove(self, name: str) -> None:
        """Take a shelf away."""
        await asyncio.to_thread(shutil.rmtree, self._folder / name)

    async def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock)

    def _check_room(self) -> None:
        """Edge writes through memory maps: where the disk is full, the kernel ends the process."""
        if shutil.disk_usage(self._folder).free < ROOM:
            raise StepFailed(
                f"setting search_path: less than {ROOM >> 20} MiB are free at {self._folder}: make room"
            )


class EdgeShelf:
    """One shelf, in one thread: Edge waits for its own locks with the interpreter held, so two would block all."""

    def __init__(
        self, shard: q.EdgeShard, words: Words, thread: ThreadPoolExecutor, check_room: Callable[[], None]
    ) -> None:
        self._shard, self._words, self._thread, self._check_room = shard, words, thread, check_room

    async def put(self, points: Sequence[Point]) -> None:
        """Lay down passages."""
        for at in range(0, len(points), PAGE):
            made = [self._made(point) for point in points[at : at + PAGE]]
            await self._update(q.UpdateOperation.upsert_points(made))

    async def drop(self, ids: Sequence[str]) -> None:
        """Take passages away."""
        if ids:
            await self._update(q.UpdateOperation.delete_points(list(ids)))

    async def clear(self, where: Where) -> None:
        """Take away all of a kind."""
        if found := _filter(where):
            await self._update(q.UpdateOperation.delete_points_by_filter(found))

    async def get(self, ids: Sequence[str]) -> dict[str, Point]:
        """Those that are there."""
        found = await self._do(lambda: self._shard.retrieve(list(ids), with_payload=True, with_vector=True))
        return {point.passage.id: point for point in map(_point, found)}

    async def all(self, where: Where) -> AsyncIterator[Point]:
        """Page by page."""
        offset = None
        while True:
            asked = q.ScrollRequest(
                offset=offset, limit=PAGE, filter=_filter(where), with_payload=True, with_vector=True
            )
            found, offset = await self._do(lambda asked=asked: self._shard.scroll(asked))  # type: ignore[misc]
            for record in found:
                yield _point(record)
            if offset is None:
                return

    async def near(self, vector: Vector, where: Where, limit: int, least: float) -> list[Found]:
        """By meaning."""
        return await self._query(q.Query.Nearest(vector.tolist(), using=DENSE), where, limit, least)

    async def worded(self, text: str, where: Where, limit: int) -> list[Found]:
        """By words."""
        asked = self._words.asked(text)
        return await self._query(q.Query.Nearest(asked, using=WORDS), where, limit) if asked.indices else []

    async def count(self) -> int:
        """How many there are."""
        return await self._do(lambda: self._shard.count(q.CountRequest(exact=True)))

    async def flush(self) -> None:
        """Write down."""
        await self._do(self._shard.flush)

    async def tidy(self) -> None:
        """Where a fifth was taken away or more, write the rest anew: 0.1 ms each, in which nothing else runs."""
        self._check_room()
        await self._do(self._shard.optimize)

    async def close(self) -> None:
        """Let go."""
        await self._do(self._shard.close)
        self._thread.shutdown(wait=False)

    async def _query(self, query: q.Query, where: Where, limit: int, least: float | None = None) -> list[Found]:
        asked = q.QueryRequest(limit, query=query, filter=_filter(where), with_payload=True, score_threshold=least)
        found = await self._do(lambda: self._shard.query(asked))
        return [Found(parsed(each.payload), each.score) for each in found]

    async def _update(self, operation: q.UpdateOperation) -> None:
        self._check_room()
        await self._do(lambda: self._shard.update(operation))

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _made(self, point: Point) -> q.Point:
        vectors: Any = {DENSE: point.vector.tolist(), WORDS: self._words.of(point.passage.spoken)}
        return q.Point(point.passage.id, vectors, point.passage.model_dump(mode="json"))


def _create(path: str, size: int) -> q.EdgeShard:
    shard = q.EdgeShard.create(path, _config(size))
    for field, kind in INDEXED.items():
        shard.update(q.UpdateOperation.create_field_index(field, _SCHEMAS[kind]))
    shard.flush()
    return shard


def _load(path: str, size: int) -> q.EdgeShard:
    """Open a shelf, and let it forget for good what was taken away."""
    shard = q.EdgeShard.load(path)
    shard.optimize()
    return shard


def _config(size: int) -> q.EdgeConfig:
    return q.EdgeConfig(
        vectors={DENSE: q.EdgeVectorParams(size=size, distance=q.Distance.Cosine)},
        sparse_vectors={WORDS: q.EdgeSparseVectorParams(modifier=q.Modifier.Idf)},
        optimizers=q.EdgeOptimizersConfig(indexing_threshold=0),
    )


def _filter(where: Where) -> q.Filter | None:
    must: list[Any] = [q.FieldCondition(key=name, match=q.MatchValue(v)) for name, v in where.equal.items()]
    if where.since is not None or where.before is not None:
        must.append(q.FieldCondition(key="time", range=q.RangeFloat(gte=where.since, lt=where.before)))
    if where.reader is not None:
        own = q.FieldCondition(key="owner", match=q.MatchValue(where.reader))
        must.append(q.Filter(should=[q.IsEmptyCondition("owner"), own]))
    return q.Filter(must=must) if must else None


def _point(record: q.Record) -> Point:
    vectors: Any = record.vector
    return Point(parsed(record.payload), np.asarray(vectors[DENSE], np.float32))
