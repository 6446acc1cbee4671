"""Shelves on a Qdrant server, by its client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from qdrant_client import AsyncQdrantClient
from qdrant_client import models as m

from services.search.passages import INDEXED, Found, Point, Vector, Where
from services.search.shelf import DENSE, PAGE, WORDS, parsed
from services.search.words import Words

PREFIX = "framemesh-"
TIMEOUT_S = 30
_SCHEMAS = {"keyword": m.PayloadSchemaType.KEYWORD, "float": m.PayloadSchemaType.FLOAT}


class QdrantLibrary:
    """Collections of a server whose names begin with ``framemesh-``."""

    def __init__(self, client: AsyncQdrantClient, language: str) -> None:
        self._client, self._words = client, Words(language)

    @classmethod
    def at(cls, url: str, key: str, language: str) -> QdrantLibrary:
        """Those of the server at an address."""
        client = AsyncQdrantClient(url=url, api_key=key or None, timeout=TIMEOUT_S, check_compatibility=False)
        return cls(client, language)

    async def open(self, name: str, size: int) -> tuple[QdrantShelf, bool]:
        """A collection, and whether it is new."""
        known = await self._client.collection_exists(PREFIX + name)
        if not known:
            await self._create(PREFIX + name, size)
        return QdrantShelf(self._client, PREFIX + name, self._words), not known

    async def names(self) -> list[str]:
        """Collections of ours."""
        found = (await self._client.get_collections()).collections
        return sorted(each.name.removeprefix(PREFIX) for each in found if each.name.startswith(PREFIX))

    async def remove(self, name: str) -> None:
        """Delete a collection."""
        await self._client.delete_collection(PREFIX + name)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _create(self, name: str, size: int) -> None:
        await self._client.create_collection(
            name,
            vectors_config={DENSE: m.VectorParams(size=size, distance=m.Distance.COSINE)},
            sparse_vectors_config={WORDS: m.SparseVectorParams(modifier=m.Modifier.IDF)},
        )
        for field, kind in INDEXED.items():
            await self._client.create_payload_index(name, field, _SCHEMAS[kind])


class QdrantShelf:
    """One collection."""

    def __init__(self, client: AsyncQdrantClient, name: str, words: Words) -> None:
        self._client, self._name, self._words = client, name, words

    async def put(self, points: Sequence[Point]) -> None:
        """Lay down passages."""
        for at in range(0, len(points), PAGE):
            made = [self._made(point) for point in points[at : at + PAGE]]
            await self._client.upsert(self._name, made, wait=True)

    async def drop(self, ids: Sequence[str]) -> None:
        """Take passages away."""
        if ids:
            await self._client.delete(self._name, m.PointIdsList(points=list(ids)), wait=True)

    async def clear(self, where: Where) -> None:
        """Take away all of a kind."""
        if found := _filter(where):
            await self._client.delete(self._name, m.FilterSelector(filter=found), wait=True)

    async def get(self, ids: Sequence[str]) -> dict[str, Point]:
        """Those that are there."""
        found = await self._client.retrieve(self._name, list(ids), with_payload=True, with_vectors=[DENSE])
        return {point.passage.id: point for point in map(_point, found)}

    async def all(self, where: Where) -> AsyncIterator[Point]:
        """Page by page."""
        offset: Any = None
        while True:
            found, offset = await self._client.scroll(
                self._name, _filter(where), limit=PAGE, offset=offset, with_payload=True, with_vectors=[DENSE]
            )
            for record in found:
                yield _point(record)
            if offset is None:
                return

    async def near(self, vector: Vector, where: Where, limit: int, least: float) -> list[Found]:
        """By meaning."""
        return await self._query(vector.tolist(), DENSE, where, limit, least)

    async def worded(self, text: str, where: Where, limit: int) -> list[Found]:
        """By words."""
        asked = self._words.asked(text)
        return await self._query(_sparse(asked), WORDS, where, limit) if asked.indices else []

    async def count(self) -> int:
        """How many there are."""
        return (await self._client.count(self._name, exact=True)).count

    async def flush(self) -> None:
        """Nothing: each update waits until the server has it."""

    async def tidy(self) -> None:
        """Nothing: the server does it by itself."""

    async def close(self) -> None:
        """Nothing: the connections are the library's."""

    async def _query(
        self, query: Any, using: str, where: Where, limit: int, least: float | None = None
    ) -> list[Found]:
        answer = await self._client.query_points(
            self._name, query=query, using=using, query_filter=_filter(where), limit=limit, score_threshold=least
        )
        return [Found(parsed(each.payload), each.score) for each in answer.points]

    def _made(self, point: Point) -> m.PointStruct:
        vectors: Any = {DENSE: point.vector.tolist(), WORDS: _sparse(self._words.of(point.passage.spoken))}
        return m.PointStruct(id=point.passage.id, vector=vectors, payload=point.passage.model_dump(mode="json"))


def _sparse(words: Any) -> m.SparseVector:
    pairs = sorted(zip(words.indices, words.values, strict=True))
    return m.SparseVector(indices=[at for at, _ in pairs], values=[value for _, value in pairs])


def _filter(where: Where) -> m.Filter | None:
    must: list[Any] = [m.FieldCondition(key=name, match=m.MatchValue(value=v)) for name, v in where.equal.items()]
    if where.since is not None or where.before is not None:
        must.append(m.FieldCondition(key="time", range=m.Range(gte=where.since, lt=where.before)))
    if where.reader is not None:
        own = m.FieldCondition(key="owner", match=m.MatchValue(value=where.reader))
        must.append(m.Filter(should=[m.IsEmptyCondition(is_empty=m.PayloadField(key="owner")), own]))
    return m.Filter(must=must) if must else None


def _point(record: Any) -> Point:
    return Point(parsed(record.payload), np.asarray(record.vector[DENSE], np.float32))
