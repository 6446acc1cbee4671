"""Finds files in the bucket that are no picture's, and deletes them.

Safe whatever runs beside it: a key is written once and belongs to one id for ever, a picture is recorded right
after its file was written, and a file is left alone until it is older than that ever takes (``images_grace``). So
a file that is that old and has no record never gets one.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel

from framemesh.buckets import Entry
from framemesh.images import image_of, orphans
from framemesh.steps.context import Context
from services.images.means import Means

MARK = "images/cleanup"


class Swept(BaseModel):
    """How far a cleanup is: kept, so that one that was killed goes on from there."""

    key: str
    """Of the step: the same for every try."""
    after: str = ""
    """Last key that was looked at."""
    files: int = 0
    young: int = 0
    """Left alone as they are younger than the grace time."""
    strange: int = 0
    """Left alone as their keys are none of this service's."""
    deleted: int = 0
    deleted_bytes: int = 0


async def cleanup(ctx: Context, means: Means) -> dict[str, Any]:
    """Delete the files that are no picture's. Output: how many files there are, and were deleted."""
    swept = await _begun(ctx, means)
    before = time.time() - means.settings.images_grace
    async for page in means.bucket.pages(swept.after):
        gone = await _sweep(means, page, before, swept)
        swept.after = page[-1].key
        await means.marks.put(MARK, swept.model_dump_json())
        await ctx.progress(0, f"{swept.files} files, {swept.deleted} deleted")
        for entry in gone:
            ctx.log.info("deleted %s, %d bytes", entry.key, entry.bytes)
    return swept.model_dump(exclude={"key", "after"})


async def _begun(ctx: Context, means: Means) -> Swept:
    noted = await means.marks.get(MARK)
    known = Swept.model_validate_json(noted) if noted else None
    return known if known and known.key == ctx.key else Swept(key=ctx.key)


async def _sweep(means: Means, page: list[Entry], before: float, swept: Swept) -> list[Entry]:
    """Delete the orphans of a page; those that were."""
    old = [entry for entry in page if entry.modified < before]
    ids = {image for entry in old if (image := image_of(entry.key))}
    lost = set(orphans([entry.key for entry in old], await means.table.keys(ids)))
    gone = [entry for entry in old if entry.key in lost]
    await means.bucket.delete([entry.key for entry in gone])
    swept.files += len(page)
    swept.young += len(page) - len(old)
    swept.strange += sum(image_of(entry.key) is None for entry in old)
    swept.deleted += len(gone)
    swept.deleted_bytes += sum(entry.bytes for entry in gone)
    return gone
