"""Collections, pictures and statistics in the results database.

Whatever changes a collection changes its row of ``statistics`` first and in the same transaction: that row is the
collection's lock, so statistics are right at every moment, and no picture comes into a collection that goes.
"""

from __future__ import annotations

import time
from collections.abc import Collection as Several
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from framemesh.database.tables import CollectionRow, ImageRow, StatisticsRow, ThumbnailRow
from framemesh.errors import FramemeshError


class CollectionMissing(FramemeshError):
    """There is no collection of that name."""


class Taken(FramemeshError):
    """There is something of that name already, or still."""


@dataclass(frozen=True)
class Statistics:
    """How much a collection has."""

    images: int
    bytes: int
    thumbnails: int
    thumbnail_bytes: int
    updated: float


@dataclass(frozen=True)
class Collection:
    """A collection and what it has."""

    name: str
    owner: str
    created: float
    statistics: Statistics


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail; ``size`` is what its longer side was to be, pixels."""

    size: int
    type: str
    width: int
    height: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Image:
    """A picture as it is recorded; ``width`` and ``height`` are those of the upright picture."""

    id: str
    collection: str
    name: str
    owner: str
    key: str
    type: str
    bytes: int
    width: int
    height: int
    animated: bool
    sha256: str
    created: float
    task: str
    optimized: float | None = None


_COLUMNS = tuple(getattr(ImageRow, name) for name in Image.__dataclass_fields__)
_THUMBNAIL = tuple(getattr(ThumbnailRow, name) for name in Thumbnail.__dataclass_fields__)
_STATISTICS = tuple(getattr(StatisticsRow, name) for name in Statistics.__dataclass_fields__)


class ImageTable:
    """The pictures of a mesh."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    # -- collections --------------------------------------------------------------------------------

    async def create_collection(self, name: str, owner: str) -> Collection:
        """Make a collection. Raises Taken."""
        now = time.time()
        empty = Statistics(0, 0, 0, 0, now)
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(CollectionRow).values(name=name, owner=owner, created=now))
                await connection.execute(insert(StatisticsRow).values(collection=name, **asdict(empty)))
        except IntegrityError:
            raise Taken(f"name: there is a collection {name}: choose another name") from None
        return Collection(name, owner, now, empty)

    async def collections(self, after: str = "", limit: int = 100) -> list[Collection]:
        """Collections by name, from after a name."""
        wanted = _collections().where(CollectionRow.name > after).order_by(CollectionRow.name).limit(limit)
        async with self._engine.connect() as connection:
            return [_collection(row) for row in await connection.execute(wanted)]

    async def collection(self, name: str) -> Collection:
        """One collection. Raises CollectionMissing."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(_collections().where(CollectionRow.name == name))).first()
        if row is None:
            raise _no_collection(name)
        return _collection(row)

    async def delete_collection(self, name: str, *, force: bool = False) -> None:
        """Delete a collection; with ``force`` its pictures too, whose files are orphans then.

        Raises CollectionMissing, or Taken where it has pictures.
        """
        within = select(ImageRow.id).where(ImageRow.collection == name)
        async with self._engine.begin() as connection:
            await self._lock(connection, name)
            if not force and (await connection.execute(within.limit(1))).first():
                raise Taken(f"collection: {name} has images: delete them first, or give force=true")
            await connection.execute(delete(ThumbnailRow).where(ThumbnailRow.image.in_(within)))
            await connection.execute(delete(ImageRow).where(ImageRow.collection == name))
            await connection.execute(delete(StatisticsRow).where(StatisticsRow.collection == name))
            await connection.execute(delete(CollectionRow).where(CollectionRow.name == name))

    async def recount(self, name: str) -> Statistics:
        """Count anew what a collection has. Raises CollectionMissing."""
        async with self._engine.begin() as connection:
            await self._lock(connection, name)
            images, size = await _sums(connection, ImageRow.bytes, ImageRow.collection == name)
            thumbnails, small = await _sums(
                connection, ThumbnailRow.bytes,
                ThumbnailRow.image.in_(select(ImageRow.id).where(ImageRow.collection == name)),
            )  # fmt: skip
            found = Statistics(images, size, thumbnails, small, time.time())
            await connection.execute(
                update(StatisticsRow).where(StatisticsRow.collection == name).values(asdict(found))
            )
        return found

    async def _lock(self, connection: AsyncConnection, name: str, **by: int) -> None:
        """Hold a collection until the transaction ends, and count what is more. Raises CollectionMissing."""
        if not await self._locked(connection, name, **by):
            raise _no_collection(name)

    async def _locked(self, connection: AsyncConnection, name: str, **by: int) -> bool:
        """As ``_lock``, but whether there is one."""
        values: dict[str, Any] = {each: getattr(StatisticsRow, each) + more for each, more in by.items()}
        wanted = update(StatisticsRow).where(StatisticsRow.collection == name)
        return (await connection.execute(wanted.values(values | {"updated": time.time()}))).rowcount > 0

    # -- pictures -----------------------------------------------------------------------------------

    async def add(self, image: Image) -> Image:
        """Record a picture; what another try of the same task recorded stays, and is given back.

        Raises CollectionMissing, or Taken where there is another picture of that name.
        """
        try:
            async with self._engine.begin() as connection:
                await self._lock(connection, image.collection, images=1, bytes=image.bytes)
                await connection.execute(insert(ImageRow).values(asdict(image)))
        except IntegrityError:
            if known := await self.made_by(image.task):
                return known
            raise Taken(
                f"name: {image.collection} has an image {image.name}: choose another name, or delete that one"
            ) from None
        return image

    async def find(self, collection: str, name: str) -> Image | None:
        """A picture by its name."""
        return await self._first(ImageRow.collection == collection, ImageRow.name == name)

    async def get(self, image: str) -> Image | None:
        """A picture by its id."""
        return await self._first(ImageRow.id == image)

    async def unfinished(self, job: str) -> list[Image]:
        """What the tasks of a job have recorded that has no thumbnails."""
        small = select(ThumbnailRow.image).where(ThumbnailRow.image == ImageRow.id)
        mine = ImageRow.task.startswith(f"{job}/", autoescape=True)
        return await self._all(select(*_COLUMNS).where(mine, ~small.exists()))

    async def made_by(self, task: str) -> Image | None:
        """What a task has recorded."""
        return await self._first(ImageRow.task == task)

    async def page(self, collection: str, after: str = "", limit: int = 100) -> list[Image]:
        """Pictures of a collection by name, from after a name."""
        wanted = select(*_COLUMNS).where(ImageRow.collection == collection, ImageRow.name > after)
        return await self._all(wanted.order_by(ImageRow.name).limit(limit))

    async def to_optimize(self, after: str = "", limit: int = 100) -> list[Image]:
        """Pictures that nobody has tried to make smaller, by id, from after an id."""
        wanted = select(*_COLUMNS).where(ImageRow.optimized.is_(None), ImageRow.id > after)
        return await self._all(wanted.order_by(ImageRow.id).limit(limit))

    async def keys(self, images: Several[str]) -> dict[str, str]:
        """The key of each picture that there is, by its id."""
        wanted = select(ImageRow.id, ImageRow.key).where(ImageRow.id.in_(images))
        async with self._engine.connect() as connection:
            return {str(row.id): str(row.key) for row in await connection.execute(wanted)}

    async def replace(self, image: Image, key: str, size: int, sha256: str) -> bool:
        """A picture lies under another key now; whether it was as ``image`` says until then."""
        async with self._engine.begin() as connection:
            if not await self._locked(connection, image.collection):
                return False
            wanted = update(ImageRow).where(ImageRow.id == image.id, ImageRow.key == image.key)
            values = {"key": key, "bytes": size, "sha256": sha256, "optimized": time.time()}
            changed = (await connection.execute(wanted.values(values))).rowcount > 0
            if changed:
                await self._lock(connection, image.collection, bytes=size - image.bytes)
        return changed

    async def note_optimized(self, image: str) -> None:
        """It was tried to make a picture smaller."""
        async with self._engine.begin() as connection:
            await connection.execute(update(ImageRow).where(ImageRow.id == image).values(optimized=time.time()))

    async def delete(self, image: Image) -> None:
        """Forget a picture; one that has gone is no error."""
        async with self._engine.begin() as connection:
            if not await self._locked(connection, image.collection):
                return
            mine = ThumbnailRow.image == image.id
            thumbnails, small = await _sums(connection, ThumbnailRow.bytes, mine)
            await connection.execute(delete(ThumbnailRow).where(mine))
            _, size = await _sums(connection, ImageRow.bytes, ImageRow.id == image.id)
            if (await connection.execute(delete(ImageRow).where(ImageRow.id == image.id))).rowcount:
                less = {"images": -1, "bytes": -size, "thumbnails": -thumbnails, "thumbnail_bytes": -small}
                await self._lock(connection, image.collection, **less)

    # -- thumbnails ---------------------------------------------------------------------------------

    async def set_thumbnails(self, image: Image, found: Sequence[Thumbnail]) -> bool:
        """Record the thumbnails of a picture instead of those before; whether the picture is still there."""
        async with self._engine.begin() as connection:
            if not await self._locked(connection, image.collection):
                return False
            if not (await connection.execute(select(ImageRow.id).where(ImageRow.id == image.id))).first():
                return False
            mine = ThumbnailRow.image == image.id
            count, size = await _sums(connection, ThumbnailRow.bytes, mine)
            await connection.execute(delete(ThumbnailRow).where(mine))
            await connection.execute(insert(ThumbnailRow), [asdict(each) | {"image": image.id} for each in found])
            more = {"thumbnails": len(found) - count, "thumbnail_bytes": sum(t.bytes for t in found) - size}
            await self._lock(connection, image.collection, **more)
        return True

    async def thumbnails(self, images: Several[str]) -> dict[str, list[Thumbnail]]:
        """The thumbnails of pictures, by the id of each."""
        wanted = select(ThumbnailRow.image, *_THUMBNAIL).where(ThumbnailRow.image.in_(images))
        found: dict[str, list[Thumbnail]] = {image: [] for image in images}
        async with self._engine.connect() as connection:
            for image, *rest in await connection.execute(wanted.order_by(ThumbnailRow.size, ThumbnailRow.type)):
                found[image].append(Thumbnail(*rest))
        return found

    async def _first(self, *conditions: ColumnElement[bool]) -> Image | None:
        return next(iter(await self._all(select(*_COLUMNS).where(*conditions).limit(1))), None)

    async def _all(self, wanted: Select[Any]) -> list[Image]:
        async with self._engine.connect() as connection:
            return [Image(*row) for row in await connection.execute(wanted)]


def _collections() -> Select[Any]:
    columns = (CollectionRow.name, CollectionRow.owner, CollectionRow.created)
    return select(*columns, *_STATISTICS).join(StatisticsRow, StatisticsRow.collection == CollectionRow.name)


def _collection(row: Sequence[Any]) -> Collection:
    name, owner, created, *rest = row
    return Collection(name, owner, created, Statistics(*rest))


def _no_collection(name: str) -> CollectionMissing:
    return CollectionMissing(f"collection: there is none {name!r}: make it first, with POST /collections")


async def _sums(connection: AsyncConnection, column: Any, *conditions: ColumnElement[bool]) -> tuple[int, int]:
    """How many rows there are, and the sum of a column of them."""
    row = (await connection.execute(select(func.count(), func.sum(column)).where(*conditions))).one()
    return int(row[0]), int(row[1] or 0)
