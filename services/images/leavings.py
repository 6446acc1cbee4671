"""What a task leaves that was cancelled: what was uploaded, and pictures that have no thumbnails yet."""

from __future__ import annotations

import contextlib
import logging

from pydantic import ValidationError

from framemesh.blobs import BlobError, BlobMissing, BlobStore
from framemesh.images import BULK_PLAN, UPLOAD_PLAN
from framemesh.steps import files
from framemesh.steps.job import Job, JobStatus
from services.images.bulk import listed
from services.images.means import Means
from services.images.process import forget

log = logging.getLogger(__name__)


async def remove(job: Job, means: Means, blobs: BlobStore) -> None:
    """Remove what a cancelled job of this service has left; pictures that are done stay. Raises BlobError."""
    if job.status is not JobStatus.CANCELLED or job.plan.name not in {UPLOAD_PLAN, BULK_PLAN}:
        return
    for image in await means.table.unfinished(job.id):
        await forget(means, image)
        log.info("%s/%s is gone with its task %s", image.collection, image.name, job.id)
    for address in await _uploads(job, blobs):
        await files.delete(blobs, address)


async def _uploads(job: Job, blobs: BlobStore) -> list[str]:
    """Where the files lie that were uploaded for it."""
    found = [str(job.input[name]) for name in ("upload", "files") if name in job.input]
    with contextlib.suppress(BlobError, BlobMissing, ValidationError, KeyError):
        found += [item.upload for item in await listed(blobs, job.input["files"]) if item.upload]
    return found
