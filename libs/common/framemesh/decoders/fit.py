"""How a picture gets into a model's input, and boxes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np

from framemesh.boxes import Floats, Image, Size

Resize = Literal["letterbox", "letterbox-centre", "stretch", "crop"]


class Part(NamedTuple):
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Fit:
    """Which part of the picture is drawn, and at which place of the input; the rest of the input is padding."""

    part: Part
    place: Part
    size: Size

    def draw(self, image: Image, pad: int) -> Image:
        """Give the input's pixels, [h, w, 3] uint8 of ``size``, for a picture [height, width, 3] uint8."""
        top, left, height, width = self.part
        part = image[top : top + height, left : left + width]
        place = self.place
        if (place.height, place.width) == self.size:
            drawn: Image = cv2.resize(part, (place.width, place.height), interpolation=cv2.INTER_LINEAR)
            return drawn
        canvas = np.full((*self.size, 3), pad, dtype=np.uint8)
        inside = canvas[place.top : place.top + place.height, place.left : place.left + place.width]
        cv2.resize(part, (place.width, place.height), dst=inside, interpolation=cv2.INTER_LINEAR)
        return canvas

    def back(self, boxes: Floats) -> Floats:
        """Turn boxes [n, 4] in pixels of the input into pixels of the picture."""
        part, place = self.part, self.place
        scale = np.array([part.width / place.width, part.height / place.height] * 2)
        return np.asarray((boxes - _corner(place)) * scale + _corner(part))


def fit(resize: Resize, picture: Size, size: Size, share: float = 1.0) -> Fit:
    """Fit a picture of one size into an input of another, both (height, width).

    ``letterbox`` keeps the aspect, at the top left (YOLOX); ``letterbox-centre`` in the middle (Ultralytics).
    ``stretch`` fills the input. ``crop`` fills it with the middle of the picture: ``share`` of the largest part
    of the input's aspect.
    """
    whole, full = Part(0, 0, *picture), Part(0, 0, *size)
    if resize == "stretch":
        return Fit(whole, full, size)
    if resize == "crop":
        return Fit(_middle(picture, size, share), full, size)
    return Fit(whole, _boxed(picture, size, centre=resize == "letterbox-centre"), size)


def _boxed(picture: Size, size: Size, *, centre: bool) -> Part:
    ratio = min(size[0] / picture[0], size[1] / picture[1])
    # Each as its model was trained: YOLOX cuts fractions of a pixel off, Ultralytics rounds.
    whole = round if centre else int
    height, width = (max(1, whole(length * ratio)) for length in picture)
    if not centre:
        return Part(0, 0, height, width)
    return Part((size[0] - height) // 2, (size[1] - width) // 2, height, width)


def _middle(picture: Size, size: Size, share: float) -> Part:
    (height, width), (high, wide) = picture, size
    h = max(1, round(share * min(height, width * high / wide)))
    w = max(1, round(share * min(width, height * wide / high)))
    return Part((height - h) // 2, (width - w) // 2, h, w)


def _corner(part: Part) -> Floats:
    return np.array([part.left, part.top] * 2, dtype=np.float64)
