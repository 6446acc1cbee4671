"""Hides faces in evidence: whoever looks at it sees what happened, not who it was."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from framemesh import assets
from framemesh.bus import Reject
from framemesh.faces import YuNet
from framemesh.messages import Box
from framemesh.pictures import Image, decode
from services.registrator.evidence import EvidenceError

CONFIDENCE = 0.3
"""Lower than for finding faces: a leaf that is blurred harms nobody."""
LONGEST = 1280
HOLD_SECONDS = 1.0
"""A face that is found in one frame is hidden for this long, also where a turn of the head hides it from us."""
MARGIN = 0.25
CELLS = 6
"""What is left of a face: squares, this many across."""
QUALITY = 92

Placed = tuple[float, Box]
"""Time of a frame, and the box of a face in it."""


class FaceBlur:
    """Hides the faces of a video's frames, given in order; call ``forget`` before the next video."""

    def __init__(self, model: str = "yunet") -> None:
        """Raises FramemeshError when the face detector's weights cannot be had: then there must be no evidence."""
        self._detector = YuNet(assets.resolve(model).path, longest=LONGEST)
        self._held: list[Placed] = []

    def forget(self) -> None:
        """Another video begins."""
        self._held = []

    def __call__(self, timestamp: float, jpeg: bytes) -> bytes:
        """The picture upright, without faces. Raises EvidenceError: what cannot be read cannot be shown either."""
        try:
            picture: Image = decode(jpeg)
        except Reject as error:
            raise EvidenceError(f"a frame cannot be decoded, so its faces cannot be hidden: {error}") from error
        self._held = [(at, box) for at, box in self._held if abs(timestamp - at) <= HOLD_SECONDS]
        self._held += [(timestamp, face.box) for face in self._detector.detect(picture, CONFIDENCE)]
        if not self._held:
            return jpeg
        for _, box in self._held:
            hide(picture, box)
        return bytes(simplejpeg.encode_jpeg(picture, QUALITY, "BGR", "420"))


def hide(picture: Image, box: Box) -> None:
    """Make an ellipse of coarse squares of what lies in a box and a margin around it, in place."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = box
    across, down = (x2 - x1) * MARGIN, (y2 - y1) * MARGIN
    left, top = max(0, int(x1 - across)), max(0, int(y1 - down))
    right, bottom = min(width, int(x2 + across) + 1), min(height, int(y2 + down) + 1)
    part = picture[top:bottom, left:right]
    if not part.size:
        return
    coarse = cv2.resize(part, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    squares = cv2.resize(coarse, part.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    mask = np.zeros(part.shape[:2], np.uint8)
    # Of the whole box, also where the picture ends within it.
    centre = (int((x1 + x2) / 2) - left, int((y1 + y2) / 2) - top)
    axes = (int((x2 - x1) / 2 + across) + 2, int((y2 - y1) / 2 + down) + 2)
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, cv2.FILLED)
    part[mask > 0] = squares[mask > 0]
