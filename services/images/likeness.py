"""How alike two pictures are to the eye: the structural similarity index.

SSIM of Wang, Bovik, Sheikh and Simoncelli (IEEE Transactions on Image Processing 13(4), 2004), with their Gaussian
window of 11 pixels (sigma 1.5) and their constants. 1 is the same picture.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from PIL import Image

_WINDOW, _SIGMA = (11, 11), 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BAND_PIXELS = 4_000_000
"""Rows are looked at in bands, so that memory is bounded."""

Plane = Any
"""Height by width, float32."""


def likeness(one: Image.Image, other: Image.Image) -> float:
    """The least of the mean SSIM of luma and of both chromas; of transparency too. 0 for pictures of other sizes.

    The least, so that a shift of colour counts as much as a loss of edges. Chroma is looked at in half the size,
    as the eye sees colour less sharply than light.
    """
    if one.size != other.size:
        return 0.0
    return min(ssim(left, right) for left, right in zip(_planes(one), _planes(other), strict=True))


def ssim(one: Plane, other: Plane) -> float:
    """Mean SSIM of two planes (height by width, uint8)."""
    height, width = one.shape
    rows = max(_WINDOW[0], _BAND_PIXELS // max(1, width))
    sums = [_sum(one[top : top + rows], other[top : top + rows]) for top in range(0, height, rows)]
    return float(sum(sums) / (height * width))


def _sum(one: Plane, other: Plane) -> float:
    x, y = one.astype(np.float32), other.astype(np.float32)
    mx, my = _smooth(x), _smooth(y)
    vx, vy, vxy = _smooth(x * x) - mx * mx, _smooth(y * y) - my * my, _smooth(x * y) - mx * my
    found = (2 * mx * my + _C1) * (2 * vxy + _C2) / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
    return float(found.sum(dtype=np.float64))


def _smooth(plane: Plane) -> Plane:
    return cv2.GaussianBlur(plane, _WINDOW, _SIGMA)


def _planes(picture: Image.Image) -> list[Plane]:
    clear = [np.asarray(picture.getchannel("A"))] if "A" in picture.getbands() else []
    luma, *chroma = (np.asarray(plane) for plane in picture.convert("RGB").convert("YCbCr").split())
    return [luma, *(_halved(plane) for plane in chroma), *clear]


def _halved(plane: Plane) -> Plane:
    height, width = plane.shape
    return cv2.resize(plane, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
