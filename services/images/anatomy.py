"""What a picture's file is made of: its size before anything is decoded, and the file without what is no picture.

Walks the segments of JPEG (ITU-T T.81 annex B), the chunks of PNG (W3C, 3rd edition) and WebP (RFC 9649), and the
blocks of GIF (89a). What is kept is what a decoder needs and the colour profile: no EXIF, no XMP, no comments,
nothing behind the picture's end, where polyglots keep their other half. Which side is up is written down anew.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from framemesh.errors import FramemeshError
from framemesh.images import HEAD_BYTES, sniffed

CUT_SHORT = "file: it ends before its picture does: send all of it"
DAMAGED = "file: it is damaged: send another"


@dataclass
class Anatomy:
    """A file's kind, the pixels that it claims, and what is kept of it."""

    type: str
    width: int = 0
    height: int = 0
    kept: list[bytes] = field(default_factory=list)


def dissected(data: bytes, exif: bytes = b"") -> Anatomy:
    """Walk through a file; ``exif`` is a TIFF block that is put in. Raises FramemeshError."""
    kind = sniffed(data[:HEAD_BYTES])
    if kind is None:
        raise FramemeshError("file: neither JPEG, PNG, WebP nor GIF, whatever its name says: send one of these")
    found = Anatomy(kind)
    try:
        _WALKS[kind](data, exif, found)
    except (IndexError, OverflowError):
        raise FramemeshError(CUT_SHORT) from None
    if not found.width or not found.height:
        raise FramemeshError(DAMAGED)
    return found


def _cut(data: bytes, start: int, size: int) -> bytes:
    """That many bytes. Raises IndexError when they are not there."""
    if start + size > len(data):
        raise IndexError
    return data[start : start + size]


# -- JPEG ---------------------------------------------------------------------------------------------

_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SOS, _EOI, _APPS, _COMMENT = 0xDA, 0xD9, range(0xE0, 0xF0), 0xFE
_KEPT_APPS = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
_JFIF_BYTES = 18
"""Of a segment without a thumbnail in it."""


def _jpeg(data: bytes, exif: bytes, found: Anatomy) -> None:
    found.kept.append(data[:2])
    at, inserted = 2, not exif
    while True:
        if data[at] != 0xFF:  # noqa: PLR2004
            raise FramemeshError(DAMAGED)
        while data[at + 1] == 0xFF:  # noqa: PLR2004 - fill bytes
            at += 1
        marker = data[at + 1]
        if marker == _EOI:
            found.kept.append(data[at : at + 2])
            return
        segment = _cut(data, at, 2 + int.from_bytes(_cut(data, at + 2, 2)))
        if not inserted and marker != 0xE0:  # noqa: PLR2004 - JFIF comes first
            found.kept.append(_exif_segment(exif))
            inserted = True
        if marker in _SIZES:
            found.height, found.width = _pair(segment, 5)
        if _is_kept(marker, segment):
            found.kept.append(segment)
        at += len(segment)
        if marker == _SOS:
            ends = _AFTER_SCAN.search(data, at)
            if ends is None:
                raise IndexError
            found.kept.append(data[at : ends.start()])
            at = ends.start()


def _is_kept(marker: int, segment: bytes) -> bool:
    if marker == 0xE0:  # noqa: PLR2004
        return segment[4:].startswith(_KEPT_APPS[marker]) and len(segment) == _JFIF_BYTES
    if marker in _APPS:
        return segment[4:].startswith(_KEPT_APPS.get(marker, b"\0nothing"))
    return marker != _COMMENT


def _exif_segment(exif: bytes) -> bytes:
    body = b"Exif\0\0" + exif
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2) + body


def _pair(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 2 : at + 4])


# -- PNG ----------------------------------------------------------------------------------------------

_CRITICAL = 0x20
"""Of the first letter: an ancillary chunk's is small."""
_KEPT_CHUNKS = frozenset(
    {b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"cICP", b"pHYs", b"acTL", b"fcTL", b"fdAT"}
)


def _png(data: bytes, exif: bytes, found: Anatomy) -> None:
    found.kept.append(data[:8])
    at = 8
    while True:
        chunk = _cut(data, at, 12 + int.from_bytes(_cut(data, at, 4)))
        name = chunk[4:8]
        if name == b"IHDR":
            found.width, found.height = int.from_bytes(chunk[8:12]), int.from_bytes(chunk[12:16])
        if name in _KEPT_CHUNKS or not name[0] & _CRITICAL:
            found.kept.append(chunk)
        if name == b"IHDR" and exif:
            body = b"eXIf" + exif
            found.kept.append(len(exif).to_bytes(4) + body + zlib.crc32(body).to_bytes(4))
        if name == b"IEND":
            return
        at += len(chunk)


# -- WebP ---------------------------------------------------------------------------------------------

_KEPT_RIFF = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"})
_EXIF_FLAG, _XMP_FLAG = 0x08, 0x04


def _webp(data: bytes, exif: bytes, found: Anatomy) -> None:
    chunks = dict[int, tuple[bytes, bytes]]()
    for number, (name, body) in enumerate(_riff(data)):
        if name in _KEPT_RIFF:
            chunks[number] = name, body
    names = [name for name, _ in chunks.values()]
    if not {b"VP8 ", b"VP8L", b"ANMF"} & set(names):
        raise IndexError
    found.width, found.height = _webp_size(*next(iter(chunks.values())))
    written = [_riff_chunk(name, _flagged(name, body, bool(exif))) for name, body in chunks.values()]
    if exif and names[0] == b"VP8X":  # else there is no place for it
        written.append(_riff_chunk(b"EXIF", exif))
    body = b"WEBP" + b"".join(written)
    found.kept = [b"RIFF", len(body).to_bytes(4, "little"), body]


def _riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, end = 12, 8 + int.from_bytes(_cut(data, 4, 4), "little")
    while at + 8 <= end:
        size = int.from_bytes(_cut(data, at + 4, 4), "little")
        yield data[at : at + 4], _cut(data, at + 8, size)
        at += 8 + size + size % 2


def _riff_chunk(name: bytes, body: bytes) -> bytes:
    return name + len(body).to_bytes(4, "little") + body + bytes(len(body) % 2)


def _flagged(name: bytes, body: bytes, has_exif: bool) -> bytes:
    if name != b"VP8X":
        return body
    flags = body[0] & ~(_EXIF_FLAG | _XMP_FLAG) | (_EXIF_FLAG if has_exif else 0)
    return bytes([flags]) + body[1:]


def _webp_size(name: bytes, body: bytes) -> tuple[int, int]:
    if name == b"VP8X":
        width, height = _cut(body, 4, 3), _cut(body, 7, 3)
        return 1 + int.from_bytes(width, "little"), 1 + int.from_bytes(height, "little")
    if name == b"VP8L":
        bits = int.from_bytes(_cut(body, 1, 4), "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = _cut(body, 6, 2), _cut(body, 8, 2)
    return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF


# -- GIF ----------------------------------------------------------------------------------------------

_TABLE = 0x80
_IMAGE, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B
_CONTROL, _APPLICATION = 0xF9, 0xFF
_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")


def _gif(data: bytes, exif: bytes, found: Anatomy) -> None:
    found.width = int.from_bytes(_cut(data, 6, 2), "little")
    found.height = int.from_bytes(_cut(data, 8, 2), "little")
    at = 13 + _colours(data[10])
    found.kept.append(_cut(data, 0, at))
    while (block := data[at]) != _TRAILER:
        if block == _IMAGE:
            end = _sub_blocks(data, at + 10 + _colours(data[at + 9]) + 1)
            kept = True
        elif block == _EXTENSION:
            label, end = data[at + 1], _sub_blocks(data, at + 2)
            kept = label == _CONTROL or (label == _APPLICATION and data[at + 3 : at + 14] in _LOOPS)
        else:
            raise FramemeshError(DAMAGED)
        if kept:
            found.kept.append(data[at:end])
        at = end
    found.kept.append(b";")


def _colours(flags: int) -> int:
    """Bytes of the colour table that flags tell of."""
    return 3 << (flags & 7) + 1 if flags & _TABLE else 0


def _sub_blocks(data: bytes, at: int) -> int:
    """Where the sub-blocks end that begin at a place."""
    while size := data[at]:
        at += 1 + size
    return at + 1


_WALKS: dict[str, Callable[[bytes, bytes, Anatomy], None]] = {
    "jpeg": _jpeg, "png": _png, "webp": _webp, "gif": _gif,
}  # fmt: skip
