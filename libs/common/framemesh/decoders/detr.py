"""DETR (Carion et al., arXiv:2005.12872) and its kin, such as RT-DETR (Zhao et al., arXiv:2304.08069)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from framemesh.boxes import Floats
from framemesh.decoders.base import BoxDecoder, Candidates, Outputs, corners, expect, sigmoid, softmax
from framemesh.decoders.spec import BoxSpec


class DetrSpec(BoxSpec):
    """Model of logits [1, Q, C + 1], "no object" last, and boxes [1, Q, 4]: centre and size from 0 to 1.

    With ``scores: sigmoid`` (RT-DETR, Deformable DETR) logits are [1, Q, C].
    """

    roles: ClassVar[dict[str, tuple[str, ...]]] = {"logits": ("logit", "score", "class"), "boxes": ("box",)}
    usual: ClassVar[dict[str, Any]] = {"resize": "stretch"}

    decoder: Literal["detr"]
    scores: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="softmax (DETR, a class more for no object) or sigmoid (RT-DETR)"
    )
    nms: float = Field(1.0, ge=0, le=1, description="The model needs none: none")


class DetrDecoder(BoxDecoder[DetrSpec]):
    """The best class of each query."""

    def check(self, outputs: Outputs) -> None:
        """A logit a class, and four numbers a box, for each query."""
        logits, boxes = outputs["logits"], outputs["boxes"]
        classes = len(self.labels) + (self.spec.scores == "softmax")
        what = "labels + no object" if self.spec.scores == "softmax" else "labels"
        expect(
            f"logits [1, Q, {classes}] ({what}) and boxes [1, Q, 4]",
            logits,
            boxes,
            fits=logits.ndim == 3  # noqa: PLR2004
            and logits.shape[0] == 1
            and logits.shape[2] == classes
            and boxes.shape == (*logits.shape[:2], 4),
            hint="; mend labels, scores or outputs",
        )

    def candidates(self, outputs: Outputs) -> Candidates:
        """Those whose best class is above the least confidence."""
        chances = self._chances(outputs["logits"][0].astype(np.float32, copy=False))
        classes = chances.argmax(axis=1)
        scores = np.take_along_axis(chances, classes[:, None], axis=1)[:, 0]
        keep = np.flatnonzero(scores > self.spec.confidence)
        boxes = corners(outputs["boxes"][0][keep].astype(np.float32, copy=False)) * self.length
        return Candidates(boxes, scores[keep], classes[keep])

    def _chances(self, logits: Floats) -> Floats:
        if self.spec.scores == "sigmoid":
            return sigmoid(logits)
        return softmax(logits)[:, :-1]
