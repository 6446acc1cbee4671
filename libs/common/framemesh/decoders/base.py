"""What every decoder is: the outputs of one picture, by their role, to findings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from framemesh.boxes import Floats, Indices, Size, Tensor, detections
from framemesh.decoders.fit import Fit
from framemesh.decoders.spec import BoxSpec, Spec
from framemesh.errors import FramemeshError
from framemesh.messages import Classification, Detection

S = TypeVar("S", bound=Spec)
B = TypeVar("B", bound=BoxSpec)

Outputs = Mapping[str, Tensor]
"""Outputs for one picture by role; the batch axis, where the model has one, is still there and 1 long."""


class Candidates(NamedTuple):
    """What may be there: boxes [n, 4] in pixels of the input, scores [n] and class indices [n]."""

    boxes: Floats
    scores: Floats
    classes: Indices


class Decoder(ABC, Generic[S]):
    """Reads the outputs of a model whose input has ``size`` (height, width). Keeps no state between pictures."""

    def __init__(self, spec: S, labels: Sequence[str], size: Size) -> None:
        self.spec = spec
        self.labels = labels
        self.size = size

    @abstractmethod
    def check(self, outputs: Outputs) -> None:
        """Look at the outputs for a grey picture. Raises FramemeshError when they are another model's."""

    @abstractmethod
    def decode(self, outputs: Outputs, fit: Fit, size: Size) -> Sequence[Detection | Classification]:
        """Findings, best first, in pixels of the picture of ``size``."""


class BoxDecoder(Decoder[B]):
    """A detector's."""

    @abstractmethod
    def candidates(self, outputs: Outputs) -> Candidates:
        """What may be there, above the least confidence."""

    def decode(self, outputs: Outputs, fit: Fit, size: Size) -> Sequence[Detection]:
        """Boxes of the picture, suppressed and named, best first."""
        boxes, scores, classes = self.candidates(outputs)
        return detections(fit.back(boxes), scores, classes, size, self.labels, self.spec.nms)

    @property
    def length(self) -> Floats:
        """Width, height, width, height of the input: what normalised corners are multiplied by."""
        height, width = self.size
        return np.array([width, height, width, height], dtype=np.float32)


def corners(centred: Floats) -> Floats:
    """Boxes [n, 4] of centre and size as boxes of two corners."""
    centre, half = centred[:, :2], centred[:, 2:4] / 2
    return np.hstack((centre - half, centre + half))


def softmax(logits: Floats) -> Floats:
    """Probabilities along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: Floats) -> Floats:
    """Probability of each logit by itself."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))))  # e^88 is too much for float32


def expect(expected: str, *found: Tensor, fits: bool, hint: str = "") -> None:
    """Raise FramemeshError with what was expected and found unless it fits."""
    if not fits:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in found)
        raise FramemeshError(
            f"the model's outputs are not the decoder's: expected {expected}, found {shapes}{hint}"
        )
