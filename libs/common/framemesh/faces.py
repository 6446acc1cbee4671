"""Faces in pictures: boxes and five points each, for the face worker and for the registrator's blur."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from framemesh.boxes import Floats, Image, Size, Tensor, clip, nms
from framemesh.errors import FramemeshError
from framemesh.messages import Box, Point
from framemesh.onnx import open_session, provider_of

CONFIDENCE = 0.6
LONGEST = 640
OVERLAP = 0.3
STRIDES = (8, 16, 32)

_WIDTHS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
_OUTPUTS = [f"{name}_{stride}" for stride in STRIDES for name in _WIDTHS]


class FaceBox(NamedTuple):
    """One face, in pixels of the picture."""

    box: Box
    """Clipped to the picture."""
    points: tuple[Point, ...]
    """Right eye, left eye, nose, right and left corner of the mouth; right and left are the person's own."""
    score: float


class Prepared(NamedTuple):
    """A picture as YuNet takes it."""

    tensor: Tensor
    """[1, 3, h, w] float32, BGR 0-255, h and w multiples of 32; the picture is at the top left, the rest is 0."""
    scale: float
    """Pixels of the tensor by pixels of the picture."""
    size: Size
    """Height and width of the picture."""


class YuNet:
    """YuNet (Wu, Peng and Yu, 2023, doi:10.1007/s11633-023-1423-y): faces from about 10 pixels of the input up.

    A picture whose longer side has more than ``longest`` pixels is scaled down to it. Keeps no state between
    calls. Raises FramemeshError for a file that is missing or holds another model.
    """

    def __init__(
        self, path: str | Path, threads: int = 1, providers: list[str] | None = None, longest: int = LONGEST
    ) -> None:
        self.longest = longest
        self._session = open_session(path, threads, providers)
        found = {output.name: output.shape for output in self._session.get_outputs()}
        inputs = self._session.get_inputs()
        wanted = {name: _WIDTHS[name.split("_")[0]] for name in _OUTPUTS}
        if len(inputs) != 1 or {name: found[name][-1] for name in wanted if name in found} != wanted:
            raise FramemeshError(
                f"model file {path} is another model: expected YuNet with the outputs {', '.join(wanted)}, "
                f"found {', '.join(found)}; choose the model name that belongs to this file"
            )
        self._input: str = inputs[0].name

    @property
    def provider(self) -> str:
        """The execution provider that runs the model."""
        return provider_of(self._session)

    def detect(self, image: Image, confidence: float = CONFIDENCE) -> list[FaceBox]:
        """Faces of a BGR picture [h, w, 3], best first."""
        prepared = self.prepare(image)
        return self.decode(self.run(prepared), prepared, confidence)

    def prepare(self, image: Image) -> Prepared:
        """Scale down and pad."""
        height, width = image.shape[:2]
        scale = min(1.0, self.longest / max(height, width))
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        return Prepared(_padded(image), scale, (height, width))

    def run(self, prepared: Prepared) -> list[Tensor]:
        """Give cls, obj, bbox and kps of every stride, finest first."""
        return list(self._session.run(_OUTPUTS, {self._input: prepared.tensor}))

    def decode(self, raw: list[Tensor], prepared: Prepared, confidence: float = CONFIDENCE) -> list[FaceBox]:
        """Decode cells, suppress what overlaps, and clip."""
        columns = prepared.tensor.shape[3]
        parts = [
            _cells(raw[4 * index : 4 * index + 4], stride, columns // stride, confidence)
            for index, stride in enumerate(STRIDES)
        ]
        rows = np.concatenate(parts)
        rows[:, 1:] /= prepared.scale
        rows[:, 1:5] = clip(rows[:, 1:5], prepared.size)
        rows = rows[(rows[:, 3:5] - rows[:, 1:3] >= 1).all(axis=1)]
        best = nms(rows[:, 1:5], rows[:, 0], np.zeros(len(rows), dtype=np.intp), OVERLAP)
        return [_face(row) for row in rows[best]]


def _padded(image: Image) -> Tensor:
    height, width = image.shape[:2]
    tensor = np.zeros((1, 3, -(-height // 32) * 32, -(-width // 32) * 32), dtype=np.float32)
    for plane, channel in zip(tensor[0], cv2.split(image), strict=True):
        plane[:height, :width] = channel
    return tensor


def _cells(raw: list[Tensor], stride: int, columns: int, confidence: float) -> Floats:
    """Sure cells of one stride: rows of score, box and points [n, 15] in pixels of the tensor."""
    cls, obj, bbox, kps = (output[0] for output in raw)
    scores = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
    keep = np.flatnonzero(scores >= confidence)
    corner = np.stack((keep % columns, keep // columns), axis=1)
    centre = (bbox[keep, :2] + corner) * stride
    half = np.exp(bbox[keep, 2:]) * stride / 2
    points = (kps[keep] + np.tile(corner, 5)) * stride
    return np.hstack((scores[keep, None], centre - half, centre + half, points)).astype(np.float64)


def _face(row: Floats) -> FaceBox:
    x1, y1, x2, y2, *points = (round(float(value), 2) for value in row[1:])
    return FaceBox(
        (x1, y1, x2, y2), tuple(zip(points[::2], points[1::2], strict=True)), min(1.0, round(float(row[0]), 4))
    )
