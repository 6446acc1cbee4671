"""JPEG from a decoded picture, the cheapest way that keeps its colours.

JPEG is full-range BT.601. A decoder's planes are in that matrix more often than not, so they go into the
JPEG as they are, with the range stretched where it is limited; everything else goes through BGR.
"""

from __future__ import annotations

from typing import TypeAlias

import av
import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from av.video.reformatter import ColorRange

Image: TypeAlias = npt.NDArray[np.uint8]

_GREY = "gray"
_FULL_RANGE = frozenset({"yuvj420p", "yuvj422p", "yuvj444p"})
_PLANAR = frozenset({"yuv420p", "yuv422p", "yuv444p", _GREY}) | _FULL_RANGE
_BT601 = frozenset({2, 5, 6})  # AVColorSpace: unspecified, BT.470BG, SMPTE 170M

_LUMA = (255 / 219, -16 * 255 / 219)
_CHROMA = (255 / 224, 128 - 128 * 255 / 224)

_UPRIGHT = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    -90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    -180: cv2.ROTATE_180,
}


def encode(frame: av.VideoFrame, quality: int) -> bytes:
    """Encode a decoded frame, upright, as JPEG of the given quality (1 to 100)."""
    if frame.format.name in _PLANAR and frame.colorspace in _BT601 and not frame.rotation:
        return _encode_planes(_planes(frame), quality, limited=_is_limited(frame))
    return encode_bgr(_bgr(frame), quality)


def encode_bgr(image: Image, quality: int) -> bytes:
    """Encode a BGR image (height, width, 3) as JPEG of the given quality (1 to 100)."""
    jpeg: bytes = simplejpeg.encode_jpeg(image, quality=quality, colorspace="BGR", colorsubsampling="420")
    return jpeg


def size(frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height of the JPEG that ``encode`` makes, pixels."""
    if abs(frame.rotation) == 90:  # noqa: PLR2004
        return frame.height, frame.width
    return frame.width, frame.height


def _encode_planes(planes: list[Image], quality: int, *, limited: bool) -> bytes:
    if limited:
        planes = [_stretch(planes[0], *_LUMA), *(_stretch(plane, *_CHROMA) for plane in planes[1:])]
    luma, blue, red = planes if len(planes) > 1 else (planes[0], None, None)
    jpeg: bytes = simplejpeg.encode_jpeg_yuv_planes(luma, blue, red, quality=quality)
    return jpeg


def _stretch(plane: Image, gain: float, offset: float) -> Image:
    # The only one-pass linear map in OpenCV that clips at both ends: convertScaleAbs folds negatives up.
    return cv2.addWeighted(plane, gain, plane, 0, offset).astype(np.uint8, copy=False)


def _is_limited(frame: av.VideoFrame) -> bool:
    if frame.color_range == ColorRange.UNSPECIFIED:
        return frame.format.name != _GREY and frame.format.name not in _FULL_RANGE
    return frame.color_range == ColorRange.MPEG and frame.format.name not in _FULL_RANGE


def _planes(frame: av.VideoFrame) -> list[Image]:
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]


def _bgr(frame: av.VideoFrame) -> Image:
    # One thread: a pool of them for every frame costs more CPU than the conversion.
    image = frame.to_ndarray(format="bgr24", threads=1).astype(np.uint8, copy=False)
    turn = _UPRIGHT.get(frame.rotation)
    return image if turn is None else cv2.rotate(image, turn).astype(np.uint8, copy=False)
