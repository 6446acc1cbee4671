"""What the functions of the images service work with; opened once a process, by the settings."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from framemesh.buckets import Bucket
from framemesh.database.engine import open_database
from framemesh.database.images import ImageTable
from framemesh.database.marks import Marks
from framemesh.pool import Pool
from framemesh.settings import load
from services.images.settings import ImagesSettings


@dataclass(frozen=True)
class Means:
    """Connections, and processes for the work on pixels."""

    settings: ImagesSettings
    engine: AsyncEngine
    table: ImageTable
    marks: Marks
    bucket: Bucket
    pool: Pool

    @classmethod
    async def open(cls, settings: ImagesSettings) -> Means:
        """Connect. Raises FramemeshError or BlobError."""
        bucket = Bucket(settings.s3_url, settings.images_bucket, settings.s3_access_key, settings.s3_secret_key)
        await bucket.create(settings.connect_patience)
        engine = await open_database(settings.jobs_database, settings.connect_patience)
        pool = Pool(settings.images_processes, settings.images_memory_mb << 20, settings.images_timeout)
        return cls(settings, engine, ImageTable(engine), Marks(engine), bucket, pool)

    async def close(self) -> None:
        """End the processes and the connections."""
        await self.pool.close()
        await self.engine.dispose()

    @property
    def most_pixels(self) -> float:
        """Pixels of the largest picture."""
        return self.settings.images_max_megapixels * 1e6


_opened: Means | None = None
_opening = asyncio.Lock()


async def begin(settings: ImagesSettings) -> Means:
    """Open them with these settings."""
    global _opened  # noqa: PLW0603 - functions are found by name, and given nothing but their input
    _opened = await Means.open(settings)
    return _opened


async def means() -> Means:
    """Those of this process."""
    async with _opening:
        return _opened or await begin(load(ImagesSettings))


async def end() -> None:
    """Close them, where they are open."""
    global _opened  # noqa: PLW0603 - as above
    if _opened:
        await _opened.close()
    _opened = None
