"""Files of any size in the blob store: parts, and a small list of them.

The address of the list ends in ``#parts``, which no server ever sees: so the bytes of a stranger's file are never
taken for a list of addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from pydantic import BaseModel, Field, ValidationError

from framemesh.blobs import BlobError, BlobMissing
from framemesh.errors import FramemeshError
from framemesh.steps.functions import Skip
from framemesh.telemetry import redact

if TYPE_CHECKING:
    from framemesh.steps.context import Blobs, Context

COLLECTION = "jobs"
"""Of the blob store: where steps keep what is theirs."""
PART_BYTES = 8 << 20
MARK = "#parts"
BYTES, LIST = "application/octet-stream", "application/json"
"""Media types of what is known by its bytes only, a file's parts too, and of the list of them."""
TRIES = 6
"""With rests of half a minute in all: SeaweedFS takes three seconds to start again, on a busy machine ten."""
REST_S = 0.5
MOST_PARTS = 65_536

T = TypeVar("T")
Say = Callable[[float], Awaitable[None]]
"""Told the share of a file that is through, 0 to 1."""


class Part(BaseModel):
    """A part of a file, and where it lies."""

    url: str
    bytes: int = Field(ge=0)


class Parts(BaseModel):
    """The list of a file's parts, as it is stored under an address that ends in ``MARK``."""

    bytes: int = Field(ge=0)
    parts: list[Part] = Field(max_length=MOST_PARTS)


def type_of(name: str) -> str:
    """The media type of what is called so."""
    return mimetypes.guess_type(name)[0] or BYTES


async def put(blobs: Blobs, data: bytes, content_type: str = BYTES) -> str:
    """Store bytes, in parts where they are many; their address. Raises BlobError."""
    if len(data) <= PART_BYTES:
        return await _patiently(partial(blobs.put, content_type=content_type), data)
    return await _put_parts(blobs, io.BytesIO(data), len(data), None)


async def get(blobs: Blobs, url: str) -> bytes:
    """Bytes by the address that ``put`` or ``put_file`` gave. Raises BlobMissing or BlobError."""
    if not url.endswith(MARK):
        return await _patiently(blobs.get, url)
    return b"".join([data async for data, _ in _parts_of(blobs, url)])


async def delete(blobs: Blobs, url: str) -> None:
    """Delete what ``put`` or ``put_file`` stored; what cannot be deleted now goes with its time to live."""
    with contextlib.suppress(BlobError, BlobMissing):
        if url.endswith(MARK):
            url = url.removesuffix(MARK)
            for part in _parsed(url, await blobs.get(url)).parts:
                await blobs.delete(part.url)
        await blobs.delete(url)


async def put_file(blobs: Blobs, path: Path, say: Say | None = None) -> str:
    """Store a file part by part, so that no more than one is in memory; its address. Raises BlobError."""
    with path.open("rb") as file:
        return await _put_parts(blobs, file, path.stat().st_size, say)


async def get_file(blobs: Blobs, url: str, path: Path, say: Say | None = None) -> Path:
    """Write what ``put_file`` or ``put`` stored to ``path``. Raises BlobMissing or BlobError."""
    if not url.endswith(MARK):
        path.write_bytes(await _patiently(blobs.get, url))
        return path
    with path.open("wb") as file:
        async for data, share in _parts_of(blobs, url):
            await asyncio.to_thread(file.write, data)
            if say:
                await say(share)
    return path


async def _put_parts(blobs: Blobs, file: BinaryIO, size: int, say: Say | None) -> str:
    parts: list[Part] = []
    done = 0
    while data := await asyncio.to_thread(file.read, PART_BYTES):
        url = await _patiently(partial(blobs.put, content_type=BYTES), data)
        parts.append(Part(url=url, bytes=len(data)))
        done += len(data)
        if say:
            await say(min(1.0, done / max(1, size)))
    listed = Parts(bytes=done, parts=parts)
    return await _patiently(partial(blobs.put, content_type=LIST), listed.model_dump_json().encode()) + MARK


async def _parts_of(blobs: Blobs, url: str) -> AsyncIterator[tuple[bytes, float]]:
    """Part after part, with the share that is through then."""
    listed = _parsed(url, await _patiently(blobs.get, url.removesuffix(MARK)))
    done = 0
    for part in listed.parts:
        data = await _patiently(blobs.get, part.url)
        if len(data) != part.bytes:
            raise BlobMissing(f"{redact(part.url)}: {len(data)} bytes are there, {part.bytes} were stored")
        done += len(data)
        yield data, min(1.0, done / max(1, listed.bytes))


async def named_file(ctx: Context, given: Any, field: str, say: Say | None = None) -> Path:
    """The file whose address a step's input has under ``field``, in the step's own folder. Raises FramemeshError.

    What is not there any more is not tried again; a store that is away is. Null, as of a step before that was
    skipped, skips this one too.
    """
    url = given.get(field) if isinstance(given, dict) else None
    if url is None and isinstance(given, dict) and field in given:
        raise Skip(f"there is no {field}")
    if not isinstance(url, str) or not url:
        raise FramemeshError(f"input.{field}: want the address of a stored file, got {url!r}")
    try:
        return await get_file(ctx.blobs, url, ctx.scratch / field, say)
    except BlobMissing as error:
        raise FramemeshError(f"input.{field}: {error}; its time may be over (jobs_ttl): begin anew") from error


def _parsed(url: str, data: bytes) -> Parts:
    try:
        return Parts.model_validate_json(data)
    except ValidationError as error:
        raise BlobMissing(f"{redact(url)}: no list of parts") from error


async def _patiently(work: Callable[[Any], Awaitable[T]], value: Any) -> T:
    """A store that starts again, or makes room, must not cost what the step has done before."""
    for tried in range(1, TRIES):
        try:
            return await work(value)
        except BlobError:
            await asyncio.sleep(REST_S * 2**tried)
    return await work(value)
