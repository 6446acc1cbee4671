"""Uploads: ``multipart/form-data`` into the blob store part by part, so that one part is in memory at a time.

What is stored has the form of ``framemesh.steps.files``: parts, and a list of them. What does not become a
job's is deleted again; what a crash leaves goes with its time to live.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, MultipartReader, web
from pydantic import BaseModel

from framemesh.blobs import BlobError, BlobStore
from framemesh.steps.files import BYTES, LIST, MARK, PART_BYTES, Part, Parts
from services.gateway.bodies import BROKEN, invite, parse_json
from services.gateway.patience import Patience
from services.gateway.problems import Problem, away

JSON_FIELD = "metadata"
"""The text field that is JSON."""
_MOST_TEXT = 128 * 1024
_CHUNK = 256 * 1024
_PATIENCE_S = 30.0
"""Longest time that the store may be away."""
_SLACK = 1 << 20
"""What a form may have beside its files."""


@dataclass(frozen=True)
class Shape:
    """What a form is made of: text fields, which are those of a model, and one file or more."""

    file: str
    """Name of the field that has the file, or of each that has one."""
    texts: type[BaseModel]
    what: str
    """What the file is: a video."""
    setting: str
    """What bounds the bytes of a file, and in all where there are many."""
    many: int = 1
    """Most files."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that there may be."""
        return (self.file, *(each.alias or name for name, each in self.texts.model_fields.items()))


@dataclass(frozen=True)
class Bounds:
    """Most bytes: of a file, and of all."""

    file: int
    all: int


@dataclass
class Stored:
    """A file that lies in the store."""

    blobs: BlobStore
    parts: list[Part] = field(default_factory=list)
    size: int = 0
    address: str = ""
    name: str = ""
    """As the client calls the file."""
    refused: str = ""
    """Why it was read over, where others of the form are taken."""

    async def add(self, data: bytes) -> None:
        """Store one more part. Raises Problem."""
        self.parts.append(Part(url=await self._put(data, BYTES), bytes=len(data)))
        self.size += len(data)

    async def close(self) -> None:
        """Store the list of the parts. Raises Problem."""
        listed = Parts(bytes=self.size, parts=self.parts).model_dump_json().encode()
        self.address = await self._put(listed, LIST) + MARK

    async def delete(self) -> None:
        """Delete all of it; what the store does not delete now goes with its time to live."""
        urls = [part.url for part in self.parts]
        if self.address:
            urls.append(self.address.removesuffix(MARK))
        for url in urls:
            with contextlib.suppress(BlobError):
                await self.blobs.delete(url)

    async def _put(self, data: bytes, content_type: str) -> str:
        try:
            return await self.blobs.put_patiently(data, content_type=content_type, patience=_PATIENCE_S)
        except BlobError as error:
            raise away("the blob store does not take the upload: try again later") from error


Look = Callable[[str, bytes], None]
"""Told the name of a file and its first bytes; raises Problem for what is not taken."""


def _anything(name: str, head: bytes) -> None:
    pass


@dataclass
class Form:
    """What a form says; its files lie in the store, unless they were only read over."""

    values: dict[str, Any] = field(default_factory=dict)
    files: list[Stored] = field(default_factory=list)

    @property
    def file(self) -> Stored | None:
        """The only file."""
        return self.files[0] if self.files else None

    async def delete(self) -> None:
        """Delete its files."""
        for each in self.files:
            await each.delete()


async def receive(
    request: web.Request,
    blobs: BlobStore,
    shape: Shape,
    bounds: Bounds,
    *,
    keep: bool = True,
    look: Look = _anything,
) -> Form:
    """Read a form; without ``keep`` its files are read over.

    Raises Problem; where there may be many files, what is wrong with one of them is noted in ``refused`` instead.
    """
    if (request.content_length or 0) > bounds.all + _SLACK:
        raise _too_large(shape, bounds.all)
    reading = _Reading(request, blobs, shape, bounds, look, keep=keep)
    try:
        await reading.run()
    except BaseException:
        await asyncio.shield(reading.form.delete())
        raise
    return reading.form


class _Reading:
    """One form that is being read."""

    def __init__(
        self, request: web.Request, blobs: BlobStore, shape: Shape, bounds: Bounds, look: Look, *, keep: bool
    ) -> None:
        self.form = Form()
        self._request, self._blobs, self._shape, self._bounds = request, blobs, shape, bounds
        self._look, self._keep = look, keep
        self._files, self._bytes = 0, 0
        self._patience = Patience()

    async def run(self) -> None:
        """Read all of it. Raises Problem."""
        try:
            reader = await self._request.multipart()
            await invite(self._request)
            while part := await self._patience.within(reader.next()):
                await self._part(part)
        except (ValueError, AssertionError, RuntimeError, *BROKEN) as error:
            raise Problem(400, f"the body is no complete multipart/form-data: {error}") from error
        if not self._files:
            name = self._shape.file
            raise Problem(400, f"{name}: missing: send the file in a field of this name", field=name)

    async def _part(self, part: MultipartReader | BodyPartReader) -> None:
        name = self._name(part)
        if name == self._shape.file:
            await self._file(part)
        elif name in self.form.values:
            raise Problem(400, f"{name}: given more than once: give it once", field=name)
        else:
            self.form.values[name] = await self._text(part, name)

    def _name(self, part: MultipartReader | BodyPartReader) -> str:
        name = part.name if isinstance(part, BodyPartReader) else None
        if name is None or name not in self._shape.fields:
            known = ", ".join(self._shape.fields)
            raise Problem(400, f"{(name or '')[:100]!r} is no field of the form; it takes: {known}")
        return name

    async def _file(self, part: Any) -> None:
        name, most = self._shape.file, self._shape.many
        self._files += 1
        if self._files > most:
            wrong = (
                f"more than {most} files: send the others by themselves"
                if most > 1
                else "given more than once: give it once"
            )
            raise Problem(400, f"{name}: {wrong}", field=name)
        stored = Stored(self._blobs, name=part.filename or "")
        if self._keep:
            self.form.files.append(stored)
        try:
            await self._store(part, stored)
        except Problem as problem:
            if most == 1 or problem.status not in {400, 413, 415} or problem.field != name:
                raise
            await stored.delete()
            stored.refused = str(problem).removeprefix(f"{name}: ")
            await self._read_over(part)

    async def _store(self, part: Any, file: Stored) -> None:
        held, size = bytearray(), 0
        while data := await self._chunk(part):
            if not size:
                self._look(file.name, data)
            size += len(data)
            if size > self._bounds.file:
                raise _too_large(self._shape, self._bounds.file)
            if self._keep:
                held += data
            while len(held) >= PART_BYTES:
                await file.add(bytes(memoryview(held)[:PART_BYTES]))
                del held[:PART_BYTES]
        if not size:
            raise Problem(
                400, f"{self._shape.file}: the file is empty: send {self._shape.what}", field=self._shape.file
            )
        if self._keep:
            if held:
                await file.add(bytes(held))
            await file.close()

    async def _read_over(self, part: Any) -> None:
        while await self._chunk(part):
            pass

    async def _chunk(self, part: Any) -> bytes:
        data: bytes = await self._patience.within(part.read_chunk(_CHUNK))
        self._bytes += len(data)
        if self._bytes > self._bounds.all + _SLACK:
            raise Problem(413, _over(self._shape, self._bounds.all))
        return data

    async def _text(self, part: Any, name: str) -> Any:
        held = bytearray()
        while data := await self._chunk(part):
            held += data
            if len(held) > _MOST_TEXT:
                raise Problem(400, f"{name}: more than {_MOST_TEXT} bytes: keep the rest elsewhere", field=name)
        if name == JSON_FIELD:
            return parse_json(bytes(held), name, name)
        try:
            return held.decode()
        except UnicodeDecodeError:
            raise Problem(400, f"{name}: no text in UTF-8", field=name) from None


def _too_large(shape: Shape, most: int) -> Problem:
    return Problem(413, _over(shape, most), field=shape.file)


def _over(shape: Shape, most: int) -> str:
    return f"{shape.file}: more than {most >> 20} MiB: send less, or let the operator raise {shape.setting}"
