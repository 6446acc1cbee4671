"""Uploads: ``multipart/form-data`` into the blob store part by part, so that one part is in memory at a time.

What is stored has the form of ``framemesh.steps.files``: parts, and a list of them. What does not become a
job's is deleted again; what a crash leaves goes with its time to live.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, ClientError, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from framemesh.blobs import BlobError, BlobStore
from framemesh.steps.files import MARK, PART_BYTES, Part, Parts
from services.gateway.bodies import parse_json
from services.gateway.problems import Problem, away

FILE_FIELD = "video"
_TEXT_FIELDS = ("metadata", "priority", "key")
_MOST_TEXT = 128 * 1024
_CHUNK = 256 * 1024
_PATIENCE_S = 30.0
"""Longest time that a client may send nothing, and that the store may be away."""
_BROKEN = (HttpProcessingError, ClientError, ConnectionResetError, web.RequestPayloadError)
_SLACK = 1 << 20
"""What a form may have beside its file."""


@dataclass
class Stored:
    """A file that lies in the store."""

    blobs: BlobStore
    parts: list[Part] = field(default_factory=list)
    size: int = 0
    address: str = ""

    async def add(self, data: bytes) -> None:
        """Store one more part. Raises Problem."""
        self.parts.append(Part(url=await self._put(data), bytes=len(data)))
        self.size += len(data)

    async def close(self) -> None:
        """Store the list of the parts. Raises Problem."""
        listed = Parts(bytes=self.size, parts=self.parts).model_dump_json().encode()
        self.address = await self._put(listed) + MARK

    async def delete(self) -> None:
        """Delete all of it; what the store does not delete now goes with its time to live."""
        urls = [part.url for part in self.parts]
        if self.address:
            urls.append(self.address.removesuffix(MARK))
        for url in urls:
            with contextlib.suppress(BlobError):
                await self.blobs.delete(url)

    async def _put(self, data: bytes) -> str:
        try:
            return await self.blobs.put_patiently(
                data, content_type="application/octet-stream", patience=_PATIENCE_S
            )
        except BlobError as error:
            raise away("the blob store does not take the upload: try again later") from error


@dataclass
class Form:
    """What a form says; without a file when it was only read over."""

    values: dict[str, Any]
    file: Stored | None = None


async def receive(request: web.Request, blobs: BlobStore, most: int, *, keep: bool = True) -> Form:
    """Read a form with a file of ``most`` bytes; without ``keep`` the file is read over. Raises Problem."""
    if (request.content_length or 0) > most + _SLACK:
        raise _too_large(most)
    form = Form({}, Stored(blobs))
    try:
        await _read(request, form, most, keep=keep)
    except BaseException:
        await asyncio.shield(_forget(form))
        raise
    if not keep:
        form.file = None
    return form


async def _forget(form: Form) -> None:
    if form.file:
        await form.file.delete()


async def _read(request: web.Request, form: Form, most: int, *, keep: bool) -> None:
    seen: set[str] = set()
    try:
        reader = await request.multipart()
        while part := await _within(reader.next()):
            name = _name(part)
            if name in seen:
                raise Problem(400, f"{name}: given more than once: give it once", field=name)
            seen.add(name)
            if name == FILE_FIELD and form.file:
                await _store(part, form.file, most, keep=keep)
            else:
                form.values[name] = await _text(part, name)
    except (ValueError, AssertionError, RuntimeError, *_BROKEN) as error:
        raise Problem(400, f"the body is no complete multipart/form-data: {error}") from error
    if FILE_FIELD not in seen:
        raise Problem(400, f"{FILE_FIELD}: missing: send the file in a field of this name", field=FILE_FIELD)


def _name(part: MultipartReader | BodyPartReader) -> str:
    name = part.name if isinstance(part, BodyPartReader) else None
    if name != FILE_FIELD and name not in _TEXT_FIELDS:
        known = ", ".join((FILE_FIELD, *_TEXT_FIELDS))
        raise Problem(400, f"{(name or '')[:100]!r} is no field of the form; it takes: {known}")
    return name


async def _store(part: Any, file: Stored, most: int, *, keep: bool) -> None:
    held, size = bytearray(), 0
    while data := await _within(part.read_chunk(_CHUNK)):
        size += len(data)
        if size > most:
            raise _too_large(most)
        if keep:
            held += data
        while len(held) >= PART_BYTES:
            await file.add(bytes(memoryview(held)[:PART_BYTES]))
            del held[:PART_BYTES]
    if not size:
        raise Problem(400, f"{FILE_FIELD}: the file is empty: send a video", field=FILE_FIELD)
    if not keep:
        return
    if held:
        await file.add(bytes(held))
    await file.close()


async def _text(part: Any, name: str) -> Any:
    held = bytearray()
    while data := await _within(part.read_chunk(_CHUNK)):
        held += data
        if len(held) > _MOST_TEXT:
            raise Problem(400, f"{name}: more than {_MOST_TEXT} bytes: keep the rest elsewhere", field=name)
    if name == "metadata":
        return parse_json(bytes(held), name)
    try:
        return held.decode()
    except UnicodeDecodeError:
        raise Problem(400, f"{name}: no text in UTF-8", field=name) from None


async def _within(work: Any) -> Any:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await work
    except TimeoutError:
        raise Problem(400, f"nothing came for {_PATIENCE_S:g} s: send the upload again") from None


def _too_large(most: int) -> Problem:
    return Problem(
        413,
        f"{FILE_FIELD}: more than {most >> 20} MiB: send less, or let the operator raise gateway_upload_mb",
        field=FILE_FIELD,
    )
