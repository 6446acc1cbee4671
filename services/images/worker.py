"""The images service."""

from __future__ import annotations

import asyncio
import logging

from nats.aio.msg import Msg

from framemesh.blobs import BlobError
from framemesh.errors import FramemeshError
from framemesh.steps.functions import functions_of
from framemesh.steps.worker import StepWorker
from services.images import leavings, means
from services.images.defaults import make_schedules
from services.images.settings import ImagesSettings

log = logging.getLogger(__name__)

_LOOK_S = 0.05


class Images(StepWorker[ImagesSettings]):
    """Processes pictures that were uploaded, and keeps their files in order."""

    kind = "Images"
    settings_type = ImagesSettings
    functions = tuple(functions_of("services.images.functions"))

    async def prepare(self) -> None:
        """Open the database and the bucket, and make the schedules."""
        self._tidying: set[asyncio.Task[None]] = set()
        try:
            self._opened = await means.begin(self.settings)
        except BlobError as error:
            raise FramemeshError(f"setting s3_url: {error}") from error
        await super().prepare()
        await make_schedules(self.bus, self._opened.marks)

    async def finish(self) -> None:
        """End the processes."""
        for task in self._tidying:
            task.cancel()
        await means.end()
        await super().finish()

    async def _on_cancelled(self, msg: Msg) -> None:
        await super()._on_cancelled(msg)
        task = asyncio.create_task(self._tidy(msg.subject.rpartition(".")[2]))
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)

    async def _tidy(self, job_id: str) -> None:
        """Remove what a job has left, after its tries here have ended."""
        try:
            while any(attempt.job == job_id for attempt in self._attempts):
                await asyncio.sleep(_LOOK_S)
            if job := await self._store.find(job_id):
                await leavings.remove(job, self._opened, self._blobs)
        except Exception:
            log.exception("%s was cancelled, but what it has left could not be removed", job_id)
