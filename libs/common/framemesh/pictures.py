"""Pictures as the models see them: decoded, cut, and findings put back to where they belong in the frame."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from framemesh.bus import Reject
from framemesh.messages import Box, Classification, Face, Finding, Point, Task

Image = NDArray[np.uint8]
"""A picture: BGR, uint8, height x width x 3."""
Size = tuple[int, int]
"""Height and width, pixels."""

MAX_PIXELS = 64 << 20
QUALITY = 95
_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
_UPRIGHT = 1
_LYING = 5
"""EXIF orientations from here on swap width and height."""


def decode(data: bytes, min_size: int = 0, claimed: Size | None = None) -> Image:
    """Decode a JPEG (or a PNG) to BGR, uint8, height x width x 3, upright. Raises Reject for what is none.

    With ``min_size``, a larger picture is decoded at half or a quarter of its size, for a third of the time, as
    long as its shorter side keeps that many pixels. With ``claimed``, height and width, it must have that size.
    """
    try:
        return _decode(data, min_size, claimed)
    except (ValueError, IndexError, cv2.error) as error:
        raise Reject(f"the frame is not a JPEG that can be read: {error}") from error


def _decode(data: bytes, min_size: int, claimed: Size | None) -> Image:
    if data.startswith(_PNG):
        _check_pixels(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"))
        _check_chunks(data)
        image = _by_opencv(data)
        _check_claim((image.shape[0], image.shape[1]), claimed)  # a PNG may be turned by EXIF too
        return image
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    turned = orientation(data)
    _check_pixels(height, width)
    _check_claim((width, height) if turned >= _LYING else (height, width), claimed)
    if turned != _UPRIGHT or colours == "CMYK":
        return _by_opencv(data)
    factor = _reduction(min(height, width), min_size)
    if factor == 1:
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="BGR"))
    small = {"min_height": height // factor, "min_width": width // factor}
    return np.asarray(simplejpeg.decode_jpeg(data, colorspace="BGR", **small))


def upright(data: bytes) -> bytes:
    """A picture as a JPEG that no EXIF turns: itself where it is one. Raises Reject for what is none."""
    if data.startswith(_JPEG) and orientation(data) == _UPRIGHT:
        return data
    return bytes(simplejpeg.encode_jpeg(decode(data), QUALITY, "BGR", "420"))


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:  # a few kilobytes can claim gigabytes
        raise Reject(f"the frame has {width}x{height} pixels; at most {MAX_PIXELS >> 20} million are decoded")


def _check_claim(size: Size, claimed: Size | None) -> None:
    height, width = size
    if claimed and claimed != size:
        raise Reject(f"the frame is {width}x{height} pixels upright, but its claim says {claimed[1]}x{claimed[0]}")


def _check_chunks(png: bytes) -> None:
    """Refuse a PNG with a chunk that claims more than there is: OpenCV would make room for it."""
    at = len(_PNG)
    while at < len(png):
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    if at > len(png):
        raise ValueError("a chunk of it is cut short")


def _by_opencv(data: bytes) -> Image:
    """For the rare kinds: it turns by EXIF, and knows CMYK and alpha."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("its data is damaged")
    return image.astype(np.uint8, copy=False)


def orientation(jpeg: bytes) -> int:
    """EXIF orientation of a JPEG, 1 (upright) to 8; 1 where nothing is said."""
    at = 2
    while jpeg[at : at + 1] == b"\xff" and jpeg[at + 1 : at + 2] != b"\xda":  # start of scan
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1 : at + 2] == b"\xe1" and jpeg[at + 4 : at + 10] == b"Exif\0\0":  # APP1
            return _orientation(jpeg[at + 10 : at + 2 + length])
        at += 2 + max(length, 2)
    return _UPRIGHT


def _orientation(tiff: bytes) -> int:
    order: Any = "little" if tiff[:2] == b"II" else "big"
    directory = int.from_bytes(tiff[4:8], order)
    for number in range(int.from_bytes(tiff[directory : directory + 2], order)):
        entry = tiff[directory + 2 + 12 * number :][:12]
        if int.from_bytes(entry[:2], order) == 0x0112:  # noqa: PLR2004 - the tag
            found = int.from_bytes(entry[8:10], order)
            return found if 1 <= found <= 8 else _UPRIGHT  # noqa: PLR2004
    return _UPRIGHT


def _reduction(shorter: int, min_size: int) -> int:
    if not min_size:
        return 1
    return next((factor for factor in (4, 2) if shorter // factor >= min_size), 1)


def crops(image: Image, task: Task) -> list[tuple[Image, Box | None]]:
    """The parts of a decoded picture that a task asks for, each with its box in pixels of the frame.

    The box is that of the crop: whole pixels of the picture, inside of it.
    """
    if task.regions is None:
        return [(image, None)]
    scale_x, scale_y = image.shape[1] / task.width, image.shape[0] / task.height
    return [_crop(image, box, scale_x, scale_y) for box in task.regions]


def _crop(image: Image, box: Box, scale_x: float, scale_y: float) -> tuple[Image, Box]:
    height, width = image.shape[:2]
    left = min(max(int(box[0] * scale_x), 0), width - 1)
    top = min(max(int(box[1] * scale_y), 0), height - 1)
    right = min(max(int(box[2] * scale_x), left + 1), width)
    bottom = min(max(int(box[3] * scale_y), top + 1), height)
    cut = (left / scale_x, top / scale_y, right / scale_x, bottom / scale_y)
    return image[top:bottom, left:right], cut


def placed(item: Any, crop: Size, box: Box | None, task: Task, region: int) -> Any:
    """A finding in a crop of that size, in pixels of the frame that the crop's ``box`` was cut from."""
    height, width = crop
    x1, y1, x2, y2 = box or (0, 0, task.width, task.height)
    if box is not None and isinstance(item, Classification | Finding):
        item = item.model_copy(update={"region": region})
    return scaled(item, (x2 - x1) / width, (y2 - y1) / height, x1, y1)


def scaled(item: Any, scale_x: float, scale_y: float, left: float, top: float) -> Any:
    """A finding with its box, and all of its points, scaled and then moved."""
    if (scale_x == scale_y == 1 and left == top == 0) or not hasattr(item, "box"):
        return item
    x1, y1, x2, y2 = item.box
    box = (left + x1 * scale_x, top + y1 * scale_y, left + x2 * scale_x, top + y2 * scale_y)
    update: dict[str, Any] = {"box": box}
    if isinstance(item, Face):

        def move(points: list[Point] | None) -> list[Point] | None:
            return points and [(left + x * scale_x, top + y * scale_y) for x, y in points]

        update |= {name: move(getattr(item, name)) for name in ("points", "landmarks", "pupils")}
    return item.model_copy(update=update)


cv2.setNumThreads(1)  # a worker is one core's work; more workers use more cores
