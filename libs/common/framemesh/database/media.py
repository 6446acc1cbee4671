"""Media in the results database: what was asked for last, and what is published."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, delete, null, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncEngine

from framemesh.database.marks import insert_for
from framemesh.database.tables import MediaRow
from framemesh.errors import FramemeshError


@dataclass(frozen=True)
class Media:
    """A medium as it was asked for last, and what can be played and read of it."""

    id: str
    owner: str
    title: str
    source: str
    version: int
    job: str
    created: float
    updated: float
    deleted: bool
    published: dict[str, Any] | None


class MediaTable:
    """The media of a mesh."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = insert_for(engine)

    async def find(self, media: str) -> Media | None:
        """One medium, also one that is being deleted."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(select(MediaRow.__table__).where(MediaRow.id == media))).first()
        return _media(row) if row else None

    async def ask(self, media: str, *, owner: str, title: str, source: str, job: str, version: int) -> bool:
        """A version of a medium has been asked for: the next after that which is there, and of the same owner.

        False where somebody else was quicker. The same job may ask again.
        """
        now = time.time()
        values = {
            "title": title,
            "source": source,
            "job": job,
            "version": version,
            "updated": now,
            "deleted": False,
        }
        first = {"id": media, "owner": owner, "created": now, "published": None}
        wanted = self._insert(MediaRow).values(**first, **values)
        newer = (MediaRow.version == version - 1) | ((MediaRow.version == version) & (MediaRow.job == job))
        left = {"published": case((MediaRow.deleted, null()), else_=MediaRow.published)}
        wanted = wanted.on_conflict_do_update(
            index_elements=["id"], set_=values | left, where=newer & (MediaRow.owner == owner)
        )
        async with self._engine.begin() as connection:
            found = await connection.execute(wanted.returning(MediaRow.version))
            return found.first() is not None

    async def take_back(self, media: str, job: str, before: Media | None) -> None:
        """A version that was asked for never came to be: as it was before."""
        mine = (MediaRow.id == media) & (MediaRow.job == job)
        async with self._engine.begin() as connection:
            if before is None:
                await connection.execute(delete(MediaRow).where(mine))
            else:
                values = {name: getattr(before, name) for name in ("title", "source", "version", "job", "updated")}
                await connection.execute(update(MediaRow).where(mine).values(**values, deleted=before.deleted))

    async def work_on(self, media: str, version: int, job: str) -> bool:
        """A job works on a version: the one that was asked for, as after a replay; False for an older one."""
        wanted = update(MediaRow).where(
            MediaRow.id == media, MediaRow.version == version, MediaRow.deleted.is_(False)
        )
        async with self._engine.begin() as connection:
            found = await connection.execute(wanted.values(job=job).returning(MediaRow.id))
            return found.first() is not None

    async def publish(self, media: str, version: int, what: dict[str, Any]) -> bool:
        """From now on this can be played; False where a newer version has been asked for, or none at all."""
        wanted = update(MediaRow).where(
            MediaRow.id == media, MediaRow.version == version, MediaRow.deleted.is_(False)
        )
        async with self._engine.begin() as connection:
            found = await connection.execute(
                wanted.values(published=json.dumps(what, ensure_ascii=False)).returning(MediaRow.id)
            )
            return found.first() is not None

    async def mark_deleted(self, media: str, job: str, version: int) -> bool:
        """A medium is to be deleted, which is its next version; False where somebody else was quicker.

        What was published is forgotten with it, or when it is asked for again: the deletion may be taken back.
        """
        wanted = update(MediaRow).where(MediaRow.id == media, MediaRow.version == version - 1)
        values = {"deleted": True, "version": version, "job": job, "updated": time.time()}
        async with self._engine.begin() as connection:
            found = await connection.execute(wanted.values(**values).returning(MediaRow.id))
            return found.first() is not None

    async def remove(self, media: str, version: int) -> None:
        """Forget one that was to be deleted, unless it has been asked for again."""
        wanted = delete(MediaRow).where(
            MediaRow.id == media, MediaRow.version == version, MediaRow.deleted.is_(True)
        )
        async with self._engine.begin() as connection:
            await connection.execute(wanted)

    async def page(
        self, *, owner: str | None = None, source: str | None = None, limit: int = 50, after: str = ""
    ) -> list[Media]:
        """Media, the newest first; those after one. Raises FramemeshError where that is not there (any more)."""
        wanted = select(MediaRow.__table__).where(MediaRow.deleted.is_(False))
        if owner is not None:
            wanted = wanted.where(MediaRow.owner == owner)
        if source is not None:
            wanted = wanted.where(MediaRow.source == source)
        if after:
            if (last := await self.find(after)) is None:
                raise FramemeshError(f"cursor: {after} is not there (any more): leave it out to begin anew")
            wanted = wanted.where(tuple_(MediaRow.created, MediaRow.id) < tuple_(last.created, last.id))
        wanted = wanted.order_by(MediaRow.created.desc(), MediaRow.id.desc()).limit(limit)
        async with self._engine.connect() as connection:
            return [_media(row) for row in await connection.execute(wanted)]


def _media(row: Any) -> Media:
    values = row._asdict()
    published = values.pop("published")
    return Media(**values, published=json.loads(published) if published else None)
