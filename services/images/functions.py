"""The steps of the images service. What works on pixels runs in processes of a pool, which can be ended."""

from __future__ import annotations

from typing import Any

from framemesh.blobs import BlobMissing
from framemesh.database.images import CollectionMissing, Image
from framemesh.errors import FramemeshError
from framemesh.steps.context import Context
from framemesh.steps.functions import step
from framemesh.steps.given import checked
from services.images.bulk import bulk
from services.images.cleanup import cleanup
from services.images.means import means
from services.images.optimizing import optimize_all
from services.images.process import Upload, make_thumbnails, process

HOUR = 3600.0


@step("process_image", timeout=HOUR / 2)
async def process_image(ctx: Context, given: Any) -> Any:
    """Check a picture that was uploaded, store it without its metadata, record it, count it.

    Input: ``upload``, ``collection``, ``name``, ``owner``. Output: ``image``, its id, and what it is.
    """
    upload = checked(Upload, given)
    try:
        image = await process(ctx, await means(), upload, ctx.key)
    except FramemeshError:  # it will never be taken
        await ctx.delete(upload.upload)
        raise
    await ctx.delete(upload.upload)
    return _told(image)


def _told(image: Image) -> dict[str, Any]:
    names = ("collection", "name", "type", "bytes", "width", "height", "animated", "sha256")
    return {"image": image.id} | {name: getattr(image, name) for name in names}


@step("generate_thumbnails", timeout=HOUR / 2)
async def generate_thumbnails(ctx: Context, given: Any) -> Any:
    """Make a picture's thumbnails: 150, 300 and 600 pixels, as WebP and JPEG.

    Input: ``image``, its id. Output: ``thumbnails``.
    """
    work, wanted = await means(), given.get("image") if isinstance(given, dict) else None
    image = await work.table.get(wanted) if isinstance(wanted, str) else None
    if image is None:
        raise FramemeshError(f"input.image: there is no image {wanted!r}; it may have been deleted")
    try:
        found = await make_thumbnails(work, image)
    except BlobMissing as error:
        raise FramemeshError(f"image {image.name}: {error}") from error
    return {"thumbnails": [{"size": each.size, "type": each.type, "bytes": each.bytes} for each in found]}


@step("bulk_process_images", timeout=6 * HOUR)
async def bulk_process_images(ctx: Context, given: Any) -> Any:
    """Process many pictures, and make their thumbnails; those that fail are listed.

    Input: ``files``, ``collection``, ``owner``. Output: ``done``, ``failed``, ``failures``, ``report``.
    """
    return await bulk(ctx, await means(), given)


@step("cleanup_orphaned_files", timeout=6 * HOUR)
async def cleanup_orphaned_files(ctx: Context, given: Any) -> Any:
    """Delete files of the bucket that are no picture's and are older than ``images_grace``.

    Output: ``files``, ``young``, ``strange``, ``deleted``, ``deleted_bytes``.
    """
    return await cleanup(ctx, await means())


@step("update_collection_stats", timeout=HOUR)
async def update_collection_stats(ctx: Context, given: Any) -> Any:
    """Count anew what each collection has. Output: ``collections``."""
    table, after, count = (await means()).table, "", 0
    while page := await table.collections(after):
        for each in page:
            count += await _recounted(ctx, each.name)
        after = page[-1].name
        await ctx.progress(0, f"{count} collections")
    return {"collections": count}


async def _recounted(ctx: Context, name: str) -> bool:
    try:
        await (await means()).table.recount(name)
    except CollectionMissing:  # it was deleted meanwhile
        return False
    ctx.check()
    return True


@step("optimize_images", timeout=6 * HOUR)
async def optimize_images(ctx: Context, given: Any) -> Any:
    """Make pictures smaller where the result is equal to the eye (SSIM of at least ``images_likeness``).

    Output: ``images``, ``smaller``, ``saved_bytes``.
    """
    return await optimize_all(ctx, await means())
