"""The images service."""

from __future__ import annotations

from framemesh.blobs import BlobError
from framemesh.errors import FramemeshError
from framemesh.steps.functions import functions_of
from framemesh.steps.worker import StepWorker
from services.images import means
from services.images.defaults import make_schedules
from services.images.settings import ImagesSettings


class Images(StepWorker[ImagesSettings]):
    """Processes pictures that were uploaded, and keeps their files in order."""

    kind = "Images"
    settings_type = ImagesSettings
    functions = tuple(functions_of("services.images.functions"))

    async def prepare(self) -> None:
        """Open the database and the bucket, and make the schedules."""
        try:
            opened = await means.begin(self.settings)
        except BlobError as error:
            raise FramemeshError(f"setting s3_url: {error}") from error
        await super().prepare()
        await make_schedules(self.bus, opened.marks)

    async def finish(self) -> None:
        """End the processes."""
        await means.end()
        await super().finish()
