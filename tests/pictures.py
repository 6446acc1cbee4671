"""Pictures that tests make: of every kind that is taken, and of kinds that harm."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def scene(width: int = 640, height: int = 480, seed: int = 0) -> Image.Image:
    """A picture whose corners differ: red at the top left, green at the right, blue below, with some noise."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    noise = np.random.default_rng(seed).normal(0, 6, (height, width))
    planes = [255 * (1 - across) * (1 - down), 255 * across, 255 * down]
    return Image.fromarray(np.stack([np.clip(plane + noise, 0, 255) for plane in planes], -1).astype(np.uint8))


def encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    found = Image.open(io.BytesIO(data))
    found.load()
    return found


def gps(orientation: int = 1) -> Image.Exif:
    """EXIF that tells who, where, and which side is up."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    return exif


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def png_bomb(side: int = 60_000) -> bytes:
    """A few kB that claim billions of pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return png((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1_000_000), 9)), (b"IEND", b""))


def jpeg_bomb() -> bytes:
    data = bytearray(encoded(scene(64, 64)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    return bytes(data)


def gif_bomb() -> bytes:
    data = bytearray(encoded(scene(64, 64), "GIF"))
    data[6:10] = b"\xff\xff\xff\xff"
    return bytes(data)


def gif_frame_bomb() -> bytes:
    """Its screen is small, its frame is not."""
    data = bytearray(encoded(scene(64, 64), "GIF"))
    at = data.index(b",", 13 + 3 * 256)
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    return bytes(data)


def webp_bomb() -> bytes:
    head = b"\x00\x00\x00\x00" + (16_382).to_bytes(3, "little") * 2
    frame = encoded(scene(64, 64), "WEBP")[12:]
    body = b"WEBP" + b"VP8X" + (10).to_bytes(4, "little") + head + frame
    return b"RIFF" + len(body).to_bytes(4, "little") + body
