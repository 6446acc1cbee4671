"""Many pictures in one step: so many at a time, each once, those that fail listed."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from pydantic import BaseModel, TypeAdapter

from framemesh.blobs import BlobMissing
from framemesh.errors import FramemeshError
from framemesh.steps import files
from framemesh.steps.context import Blobs, Context
from framemesh.tasks import gathered
from services.images.means import Means
from services.images.process import Upload, make_thumbnails, process

_LISTED_BYTES = 40 * 1024
"""Of failures in the output, which has 64 KiB; the report has them all."""


class Item(BaseModel):
    """One file of the upload; ``refused`` says why the gateway has not kept it."""

    name: str
    upload: str = ""
    refused: str = ""


_ITEMS = TypeAdapter(list[Item])


async def listed(blobs: Blobs, address: str) -> list[Item]:
    """The files of an upload. Raises BlobMissing or BlobError."""
    return _ITEMS.validate_json(await files.get(blobs, address))


async def bulk(ctx: Context, means: Means, given: Any) -> dict[str, Any]:
    """Process every file of the list under ``files``. What another try has done is not done again.

    Output: ``done`` and ``failed``, how many; ``failures``, of each its index, name and error, as many as fit; and
    where these are not all, ``report``, the address of the whole list.
    """
    try:
        items = await listed(ctx.blobs, given["files"])
    except BlobMissing as error:
        raise FramemeshError("files: they are not there any more (jobs_ttl): send them again") from error
    work = _Bulk(ctx, means, items, given["collection"], given["owner"])
    await work.run()
    return await _told(ctx, items, work.failed)


class _Bulk:
    """The list that is worked through."""

    def __init__(self, ctx: Context, means: Means, items: list[Item], collection: str, owner: str) -> None:
        self.failed: dict[int, str] = {}
        self._ctx, self._means, self._items = ctx, means, items
        self._collection, self._owner = collection, owner
        self._ended = 0

    async def run(self) -> None:
        """Work through all of it, as many at a time as keep the processes busy."""
        waiting = iter(self._numbered())
        await gathered(self._worker(waiting) for _ in range(2 * self._means.settings.images_processes))
        for index in self.failed:
            await self._ctx.delete(self._items[index].upload)

    def _numbered(self) -> list[tuple[int, Item]]:
        """Those to do; of two of one name the first."""
        seen: set[str] = set()
        found = []
        for index, item in enumerate(self._items):
            name = unicodedata.normalize("NFC", item.name)
            if item.refused or name in seen:
                self.failed[index] = item.refused or "name: another file of this upload has it, too"
                self._ended += 1
            else:
                seen.add(name)
                found.append((index, item))
        return found

    async def _worker(self, waiting: Any) -> None:
        for index, item in waiting:
            try:
                await self._one(index, item)
            except FramemeshError as error:
                self.failed[index] = str(error)
            self._ended += 1
            text = f"{self._ended} of {len(self._items)}, {len(self.failed)} failed"
            await self._ctx.progress(100 * self._ended / len(self._items), text)

    async def _one(self, index: int, item: Item) -> None:
        means = self._means
        given = Upload(upload=item.upload, collection=self._collection, name=item.name, owner=self._owner)
        image = await process(self._ctx, means, given, f"{self._ctx.key}/{index}")
        if not (await means.table.thumbnails([image.id]))[image.id]:
            await make_thumbnails(means, image)
        await self._ctx.delete(item.upload)


async def _told(ctx: Context, items: list[Item], failed: dict[int, str]) -> dict[str, Any]:
    listed = [{"index": index, "name": items[index].name, "error": failed[index]} for index in sorted(failed)]
    short, room = list[Any](), _LISTED_BYTES
    for each in listed:
        room -= len(json.dumps(each))
        if room < 0:
            break
        short.append(each)
    report = await ctx.put(json.dumps(listed).encode()) if len(short) < len(listed) else ""
    return {"done": len(items) - len(failed), "failed": len(failed), "failures": short, "report": report}
