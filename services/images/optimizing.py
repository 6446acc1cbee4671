"""Makes pictures smaller that nobody has tried to make smaller yet; once each, so that no loss adds up."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from framemesh.blobs import BlobMissing
from framemesh.database.images import Image
from framemesh.errors import FramemeshError
from framemesh.images import new_key
from framemesh.steps.context import Context
from framemesh.tasks import gathered
from services.images.means import Means
from services.images.process import on_pixels


async def optimize_all(ctx: Context, means: Means) -> dict[str, Any]:
    """Go through all that are left. Output: how many were looked at and made smaller, and the bytes that saved."""
    looked, smaller, saved, after = 0, 0, 0, ""
    while page := await means.table.to_optimize(after):
        free = asyncio.Semaphore(means.settings.images_processes)
        gains = await gathered(_within(free, ctx, means, image) for image in page)
        looked, after = looked + len(page), page[-1].id
        smaller, saved = smaller + sum(gain > 0 for gain in gains), saved + sum(gains)
        await ctx.progress(0, f"{looked} looked at, {smaller} made smaller")
    return {"images": looked, "smaller": smaller, "saved_bytes": saved}


async def _within(free: asyncio.Semaphore, ctx: Context, means: Means, image: Image) -> int:
    async with free:
        ctx.check()
        try:
            return await _optimize(ctx, means, image)
        except (FramemeshError, BlobMissing) as error:
            ctx.log.warning("%s/%s stays as it is: %s", image.collection, image.name, error)
            await means.table.note_optimized(image.id)
            return 0


async def _optimize(ctx: Context, means: Means, image: Image) -> int:
    """Bytes that were saved. The file before is an orphan then: who is just reading it reads on."""
    data = await means.bucket.get(image.key)
    given = {"most_pixels": means.most_pixels, "least": means.settings.images_likeness}
    told, blobs = await on_pixels(means, "optimize", given, data)
    if not blobs:
        await means.table.note_optimized(image.id)
        return 0
    (made,) = blobs
    key = new_key(image.id, image.type)
    await means.bucket.put(key, made, f"image/{image.type}")
    if not await means.table.replace(
        image, key, len(made), hashlib.sha256(made).hexdigest()
    ):  # it was deleted meanwhile
        await means.bucket.delete([key])
        return 0
    ctx.log.info(
        "%s/%s: %d bytes instead of %d, likeness %.4f",
        image.collection, image.name, len(made), len(data), told["likeness"],
    )  # fmt: skip
    return len(data) - len(made)
