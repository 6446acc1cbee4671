"""YOLOX (Ge et al., arXiv:2107.08430), as its own ``export_onnx.py`` writes it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from framemesh.boxes import Size, grid
from framemesh.decoders.base import BoxDecoder, Candidates, Outputs, expect
from framemesh.decoders.spec import BoxSpec

FIELDS = 5  # centre, size, objectness


class YoloxSpec(BoxSpec):
    """Model of one output [1, N, 5 + C]: offsets in each cell, logarithms of sizes, sigmoid scores."""

    roles: ClassVar[dict[str, tuple[str, ...]]] = {"predictions": ()}
    usual: ClassVar[dict[str, Any]] = {"colour": "BGR", "resize": "letterbox", "scale": 1}

    decoder: Literal["yolox"]
    strides: tuple[int, ...] = Field(
        (8, 16, 32), min_length=1, description="Pixels of a cell, finest first; P6 models have 64 too"
    )


class YoloxDecoder(BoxDecoder[YoloxSpec]):
    """Decodes offsets in grid cells; score = objectness * best class."""

    def __init__(self, spec: YoloxSpec, labels: tuple[str, ...], size: Size) -> None:
        super().__init__(spec, labels, size)
        self._grid, self._stride = grid(size, spec.strides)

    def check(self, outputs: Outputs) -> None:
        """A row a cell, and a column a class."""
        found = outputs["predictions"]
        count, columns = len(self._grid), FIELDS + len(self.labels)
        hint = (
            "; the labels are of another model"
            if found.shape[:-1] == (1, count)
            else f"; mend strides {list(self.spec.strides)}, or choose another decoder"
        )
        expect(
            f"[1, {count}, {columns}] ({len(self.labels)} labels + {FIELDS})",
            found,
            fits=found.shape == (1, count, columns),
            hint=hint,
        )

    def candidates(self, outputs: Outputs) -> Candidates:
        """Looks at classes only where the objectness alone is enough."""
        rows, least = outputs["predictions"][0], self.spec.confidence
        keep = np.flatnonzero(rows[:, 4] > least)
        found = rows[keep].astype(np.float32, copy=False)
        classes = found[:, FIELDS:].argmax(axis=1)
        scores = found[:, 4] * np.take_along_axis(found[:, FIELDS:], classes[:, None], axis=1)[:, 0]
        sure = scores > least
        keep, found = keep[sure], found[sure]
        stride = self._stride[keep, None]
        centre = (found[:, :2] + self._grid[keep]) * stride
        half = np.exp(found[:, 2:4]) * stride / 2
        return Candidates(np.hstack((centre - half, centre + half)), scores[sure], classes[sure])
