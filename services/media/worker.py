"""The media service."""

from __future__ import annotations

from framemesh import subjects
from framemesh.blobs import BlobError
from framemesh.buckets import Bucket
from framemesh.database.engine import open_database
from framemesh.database.media import MediaTable
from framemesh.errors import FramemeshError
from framemesh.steps.functions import functions_of
from framemesh.steps.worker import StepWorker
from services.media.library import Library
from services.media.settings import MediaSettings

FETCHING, TRANSCODING = "services.media.functions", "services.media.transcoding"


class Media(StepWorker[MediaSettings]):
    """Fetches media, takes their sound out, and publishes renditions that can be played."""

    kind = "Media"
    settings_type = MediaSettings

    async def prepare(self) -> None:
        """Open the database and the bucket."""
        given = self.settings
        self._engine = await open_database(given.jobs_database, given.connect_patience)
        bucket = Bucket(given.s3_url, given.media_bucket, given.s3_access_key, given.s3_secret_key)
        try:
            await bucket.create(given.connect_patience)
        except BlobError as error:
            raise FramemeshError(f"{error}: check s3_url and the keys") from error
        await self.bus.declare(subjects.EVENTS)
        library = Library(self.bus, MediaTable(self._engine), bucket)
        self.functions = (*functions_of(FETCHING), *functions_of(TRANSCODING), *library.functions)
        await super().prepare()

    async def finish(self) -> None:
        """Close the database; called also when ``prepare`` failed half way."""
        if engine := getattr(self, "_engine", None):
            await engine.dispose()
        if getattr(self, "_blobs", None):
            await super().finish()
