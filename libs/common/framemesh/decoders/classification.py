"""Classifiers of a whole picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from framemesh.boxes import Floats, Size
from framemesh.decoders.base import Decoder, Outputs, expect, softmax
from framemesh.decoders.fit import Fit
from framemesh.decoders.spec import Spec
from framemesh.messages import Classification

NEARLY = 0.02  # how far from 1 the sum of a thousand float16 probabilities may be


class ClassificationSpec(Spec):
    """Model of one output that holds a number a class, e.g. [1, C] or [1, C, 1, 1]: logits or probabilities."""

    roles: ClassVar[dict[str, tuple[str, ...]]] = {"scores": ()}
    usual: ClassVar[dict[str, Any]] = {"resize": "crop", "crop_share": 0.875}

    decoder: Literal["classification"]
    confidence: float = Field(0.05, ge=0, le=1, description="Least confidence")
    top: int = Field(3, ge=1, le=1000, description="Most classes a picture")
    softmax: Literal["auto"] | bool = Field(
        "auto",
        description="Whether to turn logits into probabilities; auto: unless those of a grey picture sum to 1",
    )


class ClassificationDecoder(Decoder[ClassificationSpec]):
    """The best classes."""

    def __init__(self, spec: ClassificationSpec, labels: Sequence[str], size: Size) -> None:
        super().__init__(spec, labels, size)
        self._logits = spec.softmax is True

    def check(self, outputs: Outputs) -> None:
        """A number a class; and decide, once, whether they are logits."""
        found, count = outputs["scores"], len(self.labels)
        expect(
            f"{count} numbers, one a label, as [1, {count}]",
            found,
            fits=found.size == count,
            hint="; the labels are of another model, or choose another decoder",
        )
        if self.spec.softmax == "auto":
            scores = found.astype(np.float32)
            self._logits = bool(scores.min() < 0 or abs(scores.sum() - 1) > NEARLY)

    def decode(self, outputs: Outputs, fit: Fit, size: Size) -> Sequence[Classification]:
        """At most ``top`` classes, best first."""
        scores: Floats = outputs["scores"].reshape(-1).astype(np.float32)
        if self._logits:
            scores = softmax(scores)
        best = np.argsort(-scores, kind="stable")[: self.spec.top]
        return [
            Classification(
                label=self.labels[index],
                class_id=int(index),
                confidence=min(1.0, round(float(scores[index]), 4)),
            )
            for index in best
            if scores[index] >= self.spec.confidence
        ]
