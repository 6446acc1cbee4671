"""Files that are served as RFC 9110 says: whole, in part, or not again."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from services.gateway.problems import Problem

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*")


@dataclass(frozen=True)
class File:
    """A small file, and how long it may be kept."""

    data: bytes
    content_type: str
    cache: str

    @property
    def tag(self) -> str:
        """Its strong validator: what its bytes are."""
        return hashlib.sha256(self.data).hexdigest()[:32]


def served(request: web.Request, file: File) -> web.Response:
    """The file, the part of it that a GET asks for, or that it has not changed. Raises Problem."""
    headers = {"ETag": f'"{file.tag}"', "Cache-Control": file.cache, "Accept-Ranges": "bytes"}
    if is_known(request, file.tag):
        return web.Response(status=304, headers=headers)
    size = len(file.data)
    wanted = _wanted(request, file.tag, size) if request.method == "GET" else None
    if wanted is None:
        return web.Response(body=file.data, content_type=file.content_type, headers=headers)
    first, last = wanted
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    body = file.data[first : last + 1]
    return web.Response(status=206, body=body, content_type=file.content_type, headers=headers)


def is_known(request: web.Request, tag: str) -> bool:
    """Whether the client has the file of that tag already (If-None-Match, RFC 9110)."""
    given: Any = request.if_none_match or ()
    return any(each.value in {tag, "*"} for each in given)


def _wanted(request: web.Request, tag: str, size: int) -> tuple[int, int] | None:
    """First and last byte; None for all of it. What is not understood, or is of another file, asks for all."""
    condition = request.headers.get("If-Range")
    found = _RANGE.fullmatch(request.headers.get("Range", ""))
    if not found or (condition is not None and condition.strip() != f'"{tag}"'):
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:
        begin, end = max(0, size - int(last)), size - 1
        empty = int(last) == 0
    else:
        begin, end = int(first), min(int(last or size - 1), size - 1)
        empty = begin >= size
        if last and int(last) < int(first):
            return None
    if empty:
        raise Problem(
            416, f"Range: there are {size} bytes", field="Range", headers={"Content-Range": f"bytes */{size}"}
        )
    return begin, end
