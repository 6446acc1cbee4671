"""YOLOv8 and its kin (v5 to v12 of Ultralytics and others), without suppression in the model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from framemesh.boxes import Tensor
from framemesh.decoders.base import BoxDecoder, Candidates, Outputs, corners, expect
from framemesh.decoders.spec import BoxSpec


class Yolov8Spec(BoxSpec):
    """Model of one output [1, 4 + C, N] or [1, N, 4 + C]: centre and size in pixels of the input, sigmoid scores.

    With ``objectness`` (YOLOv5, YOLOv7, YOLOX with ``--decode_in_inference``) there are 5 + C.
    """

    roles: ClassVar[dict[str, tuple[str, ...]]] = {"predictions": ()}
    usual: ClassVar[dict[str, Any]] = {"resize": "letterbox-centre"}

    decoder: Literal["yolov8"]
    objectness: bool = Field(False, description="Whether a row has an objectness between box and classes")


class Yolov8Decoder(BoxDecoder[Yolov8Spec]):
    """Score = best class, times objectness where there is one."""

    @property
    def first(self) -> int:
        """Column of the first class."""
        return 5 if self.spec.objectness else 4

    def check(self, outputs: Outputs) -> None:
        """A column, or a row, a class."""
        found, count = outputs["predictions"], len(self.labels)
        columns, other = self.first + count, 9 - self.first + count
        hint = (
            f"; {self._turned}"
            if found.ndim == 3 and other in found.shape[1:]  # noqa: PLR2004
            else "; the labels are of another model, or choose another decoder"
        )
        expect(
            f"[1, {columns}, N] or [1, N, {columns}] ({count} labels + {self.first})",
            found,
            fits=found.ndim == 3 and found.shape[0] == 1 and columns in found.shape[1:],  # noqa: PLR2004
            hint=hint,
        )

    @property
    def _turned(self) -> str:
        if self.spec.objectness:
            return "set objectness: false"
        return "set objectness: true for YOLOv5 and YOLOv7, or decoder: yolox for YOLOX"

    def candidates(self, outputs: Outputs) -> Candidates:
        """The best class of each box."""
        columns = self._columns(outputs["predictions"][0])
        keep = np.flatnonzero(columns[self.first :].max(axis=0) > self.spec.confidence)
        found = columns[:, keep].astype(np.float32, copy=False)
        classes = found[self.first :].argmax(axis=0)
        scores = found[self.first :].max(axis=0)
        if self.spec.objectness:
            scores = scores * found[4]
        sure = scores > self.spec.confidence
        return Candidates(corners(found[:4, sure].T), scores[sure], classes[sure])

    def _columns(self, raw: Tensor) -> Tensor:
        """Give [4 + C, N], whichever way round the model has it."""
        return raw if raw.shape[0] == self.first + len(self.labels) else raw.T
