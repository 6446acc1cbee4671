"""Landmarks of faces."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from framemesh.boxes import Floats, Image, Tensor
from framemesh.messages import Box
from framemesh.onnx import Model
from services.face.crops import cut, imagenet

SIDE = 224
CELLS = 28
POINTS = 66
WIDER, HIGHER = 0.1, 0.125
FACTOR = 16.0

# The model leaves out iBUG's outer corners of the mouth (48, 54) and gives the inner ones (60, 64) as 58 and 62.
# Here the inner corners stand where the outer ones would, so that every other point has its usual neighbours.
ORDER = np.array([*range(48), 58, *range(48, 53), 62, *range(53, 58), 59, 60, 61, 63, 64, 65])


class Landmarks(NamedTuple):
    """Points of one face."""

    points: Floats
    """[66, 2] x and y in pixels of the picture, iBUG's order of 68 without 60 and 64."""
    confidence: float
    """Mean height of the heat maps' peaks, 0 to 1."""


class LandmarksModel:
    """OpenSeeFace's ``lm_model0`` (github.com/emilianavt/OpenSeeFace): [1, 3, 224, 224] to [1, 198, 28, 28].

    66 heat maps, then as many maps of row offsets and of column offsets.
    """

    def __init__(self, path: str | Path, threads: int = 1, providers: list[str] | None = None) -> None:
        self._model = Model(
            path,
            takes=(1, 3, SIDE, SIDE),
            gives=(1, 3 * POINTS, CELLS, CELLS),
            threads=threads,
            providers=providers,
        )

    def landmarks(self, image: Image, box: Box) -> Landmarks:
        """The landmarks of the face in the box."""
        around = widened(box)
        return decode(self._model.run(imagenet(cut(image, around, SIDE)))[0], around)


def widened(box: Box) -> Box:
    """The box with the model's margins, in whole pixels."""
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) * WIDER, (y2 - y1) * HIGHER
    return round(x1 - dx), round(y1 - dy), round(x2 + dx), round(y2 + dy)


def decode(raw: Tensor, box: Box) -> Landmarks:
    """Decode [198, 28, 28] of the crop ``box``: the peak's cell plus its offset, in 223 steps over the crop."""
    heat, rows, columns = raw.reshape(3, POINTS, CELLS * CELLS)
    peak = heat.argmax(axis=1)
    cell = np.arange(POINTS), peak
    y = (peak // CELLS / (CELLS - 1) + _offset(rows[cell])) * (SIDE - 1)
    x = (peak % CELLS / (CELLS - 1) + _offset(columns[cell])) * (SIDE - 1)
    points = np.stack((box[0] + x * (box[2] - box[0]) / SIDE, box[1] + y * (box[3] - box[1]) / SIDE), axis=1)
    return Landmarks(points[ORDER].astype(np.float64), float(heat[cell].mean()))


def _offset(p: Floats) -> Floats:
    """The model's offsets are squeezed through a sigmoid: share of the crop."""
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p / (1 - p)) / FACTOR)
