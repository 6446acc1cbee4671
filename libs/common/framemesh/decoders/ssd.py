"""Detectors that suppress by themselves and give a list: TensorFlow's object detection, and torchvision's."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from framemesh.boxes import Floats, Indices
from framemesh.bus import Reject
from framemesh.decoders.base import BoxDecoder, Candidates, Outputs, expect
from framemesh.decoders.spec import BoxSpec


class SsdSpec(BoxSpec):
    """Model of boxes [1, N, 4], scores [1, N] and classes [1, N], and maybe a count [1], or all without the 1.

    ``tensorflow`` boxes are ymin, xmin, ymax, xmax from 0 to 1; ``torchvision`` boxes x1, y1, x2, y2 in pixels of
    the input.
    """

    roles: ClassVar[dict[str, tuple[str, ...]]] = {
        "boxes": ("box",),
        "scores": ("score",),
        "classes": ("class", "label"),
        "count": ("num", "count"),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"count"})
    usual: ClassVar[dict[str, Any]] = {"resize": "stretch"}

    decoder: Literal["ssd"]
    format: Literal["tensorflow", "torchvision"] = Field(
        "tensorflow",
        description="tensorflow (ymin, xmin, ymax, xmax from 0 to 1) or torchvision (x1, … in pixels)",
    )
    first_class: int = Field(
        1, ge=0, description="The model's number of the first label; lower ones are background; 0 with coco-91"
    )
    nms: float = Field(1.0, ge=0, le=1, description="As the model has done it: none")


class SsdDecoder(BoxDecoder[SsdSpec]):
    """Takes over what the model has chosen."""

    def check(self, outputs: Outputs) -> None:
        """Four numbers a box, and a score and a class for each."""
        boxes, scores, classes = (outputs[role] for role in ("boxes", "scores", "classes"))
        lead = boxes.shape[:-1]
        expect(
            "boxes [1, N, 4], scores [1, N], classes [1, N] (or without the 1)",
            boxes,
            scores,
            classes,
            fits=boxes.shape[-1:] == (4,)
            and (len(lead) == 1 or (len(lead) == 2 and lead[0] == 1))  # noqa: PLR2004
            and scores.shape == classes.shape == lead,
            hint="; say which is which in outputs, or choose another decoder",
        )

    def candidates(self, outputs: Outputs) -> Candidates:
        """Those above the least confidence. Raises Reject for a class that has no label."""
        scores = outputs["scores"].reshape(-1)
        if "count" in outputs:
            scores = scores[: int(outputs["count"].reshape(-1)[0])]
        classes = outputs["classes"].reshape(-1)[: len(scores)].astype(np.intp) - self.spec.first_class
        keep = np.flatnonzero((scores > self.spec.confidence) & (classes >= 0))
        self._named(classes[keep])
        boxes: Floats = outputs["boxes"].reshape(-1, 4)[keep].astype(np.float32, copy=False)
        if self.spec.format == "tensorflow":
            boxes = boxes[:, [1, 0, 3, 2]] * self.length
        return Candidates(boxes, scores[keep], classes[keep])

    def _named(self, classes: Indices) -> None:
        if len(classes) and classes.max() >= len(self.labels):
            number = int(classes.max()) + self.spec.first_class
            last = len(self.labels) - 1 + self.spec.first_class
            raise Reject(
                f"the model gave class {number}, but labels name {self.spec.first_class} to {last}: "
                "mend first_class or labels (first_class: 0 with coco-91, where COCO's own numbers are used)"
            )
