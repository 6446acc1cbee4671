"""Pupils, and where they look."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from framemesh.boxes import Floats, Image, Tensor
from framemesh.messages import HeadPose
from framemesh.onnx import Model
from services.face.crops import imagenet

SIDE = 32
CELLS = 8
FACTOR = 8.0
WIDE, HIGH = 1.4, 1.2
EYES = ((36, 39), (42, 45))
"""Landmarks of each eye's corners, from left to right in the picture; the right eye first."""

# Of an adult eye, in widths of its opening (29 mm from corner to corner): the pupil lies 10 mm before the point
# about which the eye turns, and that point 4 mm behind the middle between the corners.
PUPIL_RADIUS = 10 / 29
DEPTH = 4 / 29
REST = 1 / 29
"""How far above the line of the corners the pupil of an eye is that looks straight ahead, in widths too."""
LEAST_COSINE = 0.5


class Direction(NamedTuple):
    """Where two eyes look: degrees from the line to the camera."""

    yaw: float
    """Positive: to the left side of the picture."""
    pitch: float
    """Positive: up."""

    @property
    def off_camera(self) -> float:
        """Angle between the gaze and the line to the camera, degrees."""
        return math.degrees(math.acos(math.cos(math.radians(self.yaw)) * math.cos(math.radians(self.pitch))))


class PupilsModel:
    """OpenSeeFace's gaze model (github.com/emilianavt/OpenSeeFace): [2, 3, 32, 32] to [2, 3, 8, 8].

    A heat map and two maps of offsets for each eye. Its other output, ``blink``, is not used.
    """

    def __init__(self, path: str | Path, threads: int = 1, providers: list[str] | None = None) -> None:
        self._model = Model(
            path,
            takes=(2, 3, SIDE, SIDE),
            gives=(2, 3, CELLS, CELLS),
            threads=threads,
            providers=providers,
        )

    def pupils(self, image: Image, landmarks: Floats) -> Floats:
        """Right and left pupil, [2, 2] x and y in pixels of the picture."""
        places = [_place(landmarks, eye, index == 1) for index, eye in enumerate(EYES)]
        raw = self._model.run(np.concatenate([_crop(image, place) for place in places]))
        return np.stack([_back(decode(maps), place) for maps, place in zip(raw, places, strict=True)])


def decode(maps: Tensor) -> Floats:
    """The pupil in its crop, x and y in 32 steps, of [3, 8, 8] with axes map, x, y: peak's cell plus offset."""
    heat, along, down = maps.reshape(3, -1)
    peak = int(heat.argmax())
    p = np.clip(np.array([along[peak], down[peak]], dtype=np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.array(divmod(peak, CELLS)) * (SIDE / CELLS) + np.log(p / (1 - p)) / FACTOR * SIDE)


def direction(pupils: Floats, landmarks: Floats, pose: HeadPose) -> Direction:
    """Where the eyes look, of their pupils and of where the head points.

    An eye is a ball that turns about a point ``DEPTH`` behind its opening; the pupil sits ``PUPIL_RADIUS`` before
    that point. Seen from afar, the pupil lies off the middle of the opening by the gaze times the radius minus
    the head's direction times the depth. So gaze = (offset + depth * head) / radius, in the plane of the picture,
    where the roll of the head does not matter but for the height of a resting pupil. The mean of both eyes cancels
    the angle by which each looks inwards.
    """
    corners = landmarks[np.array(EYES)]
    offset = (pupils - corners.mean(axis=1)).mean(axis=0)
    yaw, pitch = math.radians(pose.yaw), math.radians(pose.pitch)
    across = corners[1, 1] - corners[0, 0]
    down = np.array([-across[1], across[0]]) / max(float(np.linalg.norm(across)), 1e-6)
    width = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1).mean() / max(math.cos(yaw), LEAST_COSINE)
    head = np.array([-math.sin(yaw) * math.cos(pitch), -math.sin(pitch)])
    x, y = (offset / max(float(width), 1e-6) + REST * down + DEPTH * head) / PUPIL_RADIUS
    y = min(max(y, -0.99), 0.99)
    return Direction(
        -math.degrees(math.asin(min(max(x / math.sqrt(1 - y * y), -1.0), 1.0))), -math.degrees(math.asin(y))
    )


class _Place(NamedTuple):
    """Where an eye's crop lies in the picture."""

    forward: Floats
    """[2, 3] from pixels of the picture to those of the crop."""
    backward: Floats
    """[2, 3] from points of the crop (0 to 32) to pixels of the picture."""


def _place(landmarks: Floats, eye: tuple[int, int], mirrored: bool) -> _Place:
    """The levelled crop around an eye, 1.4 and 1.2 eye radii each way; the second eye is mirrored."""
    first, second = landmarks[eye[0]], landmarks[eye[1]]
    radius = max(float(np.linalg.norm(second - first)) / 2, 0.5)
    along = (second - first) / (2 * radius)
    down = np.array([-along[1], along[0]])
    x_axis = along * (radius * WIDE * 2 / SIDE) * (-1 if mirrored else 1)
    y_axis = down * (radius * HIGH * 2 / SIDE)
    corner = (first + second) / 2 - (x_axis + y_axis) * (SIDE / 2)
    backward = np.column_stack((x_axis, y_axis, corner))
    return _Place(np.asarray(cv2.invertAffineTransform(backward), dtype=np.float64), backward)


def _crop(image: Image, place: _Place) -> Tensor:
    """[1, 3, 32, 32] with axes colour, x, y, as the model takes it."""
    crop = cv2.warpAffine(
        image, place.forward, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.ascontiguousarray(imagenet(crop).transpose(0, 1, 3, 2))


def _back(point: Floats, place: _Place) -> Floats:
    return np.asarray(place.backward @ np.array([*point, 1.0]))
