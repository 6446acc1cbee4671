"""One picture from its upload to its record, and its thumbnails."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from framemesh.blobs import BlobMissing
from framemesh.database.images import CollectionMissing, Image, Taken, Thumbnail
from framemesh.errors import FramemeshError
from framemesh.images import new_image_id, new_key, thumbnail_key
from framemesh.labels import checked_label
from framemesh.pool import Answer, CallFailed, ChildEnded
from framemesh.steps.context import Context
from services.images.means import Means

_MIB = 1 << 20
TRIES = 2
"""Of a picture whose process ends: the first may have been an accident."""


class Upload(BaseModel):
    """A file that lies in the blob store, and what is to become of it."""

    model_config = ConfigDict(extra="forbid")

    upload: str
    collection: str
    name: str
    owner: str


async def process(ctx: Context, means: Means, given: Upload, task: str) -> Image:
    """Check a picture, store it without its metadata, and record it once for a task.

    Raises FramemeshError for what is not taken, and never will be.
    """
    if known := await means.table.made_by(task):
        return known
    name = checked_label(given.name, "name")
    examined = await _examined(ctx, means, given)
    return await _recorded(means, given, name, examined, task)


async def _examined(ctx: Context, means: Means, given: Upload) -> Answer:
    try:
        data = await ctx.get(given.upload)
    except BlobMissing as error:
        raise FramemeshError("file: it is not there any more (jobs_ttl): send it again") from error
    if len(data) > means.settings.images_max_mb * _MIB:
        raise FramemeshError(f"file: more than {means.settings.images_max_mb} MiB: send a smaller one")
    return await on_pixels(means, "examine", {"most_pixels": means.most_pixels}, data)


async def _recorded(means: Means, given: Upload, name: str, examined: Answer, task: str) -> Image:
    told, (clean,) = examined
    new = new_image_id()
    image = Image(
        id=new, collection=given.collection, name=name, owner=given.owner, key=new_key(new, told["type"]),
        type=told["type"], bytes=len(clean), width=told["width"], height=told["height"], animated=told["animated"],
        sha256=hashlib.sha256(clean).hexdigest(), created=time.time(), task=task,
    )  # fmt: skip
    await means.bucket.put(image.key, clean, f"image/{image.type}")
    try:
        found = await means.table.add(image)
    except (CollectionMissing, Taken):
        await means.bucket.delete([image.key])
        raise
    if found.id != image.id:  # another try of this task was quicker
        await means.bucket.delete([image.key])
    return found


async def make_thumbnails(means: Means, image: Image) -> list[Thumbnail]:
    """Make and record the thumbnails of a picture; one that never had any, and gets none, is forgotten.

    Raises FramemeshError, also when it has gone meanwhile.
    """
    data = await means.bucket.get(image.key)
    try:
        told, blobs = await on_pixels(means, "thumbnails", {"most_pixels": means.most_pixels}, data)
    except FramemeshError:
        if not (await means.table.thumbnails([image.id]))[image.id]:
            await forget(means, image)
        raise
    found = [
        Thumbnail(**each, bytes=len(blob), sha256=hashlib.sha256(blob).hexdigest())
        for each, blob in zip(told["thumbnails"], blobs, strict=True)
    ]
    await _store(means, image, found, blobs)
    if not await means.table.set_thumbnails(image, found):
        await means.bucket.delete([thumbnail_key(image.id, each.size, each.type) for each in found])
        raise FramemeshError(f"image {image.name} has been deleted")
    return found


async def forget(means: Means, image: Image) -> None:
    """Remove a picture that has no thumbnails."""
    await means.table.delete(image)
    await means.bucket.delete([image.key])


async def _store(means: Means, image: Image, found: Sequence[Thumbnail], blobs: Sequence[bytes]) -> None:
    async with asyncio.TaskGroup() as group:
        for each, blob in zip(found, blobs, strict=True):
            key = thumbnail_key(image.id, each.size, each.type)
            group.create_task(means.bucket.put(key, blob, f"image/{each.type}"))


async def on_pixels(means: Means, function: str, given: dict[str, Any], data: bytes) -> Answer:
    """Call a function of ``pixels`` in a process of the pool. Raises FramemeshError for what it is no use with."""
    for _ in range(TRIES):
        try:
            return await means.pool.call(f"services.images.pixels:{function}", given, data)
        except (ChildEnded, CallFailed) as error:
            why = error
    raise FramemeshError(f"file: {why}: it may be made to harm decoders")
