"""Boxes in pixels: pictures to tensors, and what a model found back to the picture.

Pictures are uint8 arrays of shape [height, width, 3]; a size is (height, width). Boxes are [x1, y1, x2, y2] in
pixels of the picture, corners in float, origin at the top left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from framemesh.messages import Detection

Image = npt.NDArray[Any]
Tensor = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.intp]
Size = tuple[int, int]

NMS_THRESHOLD = 0.45
MOST = 300
PAD = 114


def narrowed(image: Image, width: int) -> Image:
    """Scale a picture down to at most ``width`` pixels of width, aspect kept."""
    height, old = image.shape[:2]
    if old <= width:
        return image
    return cv2.resize(image, (width, max(1, round(height * width / old))), interpolation=cv2.INTER_LINEAR)


def planes(image: Image) -> Tensor:
    """Give [1, 3, h, w] float32 of [h, w, 3] uint8; 0.1 ms where ``cv2.dnn.blobFromImage`` takes 1.9 ms."""
    height, width = image.shape[:2]
    tensor = np.empty((1, 3, height, width), dtype=np.float32)
    for index, plane in enumerate(cv2.split(image)):
        tensor[0, index] = plane
    return tensor


def grid(size: int | Size, strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Give the cell corners [n, 2] as (x, y) and the stride [n] of every cell, finest stride first.

    ``size`` is the input's (height, width), or its side.
    """
    height, width = (size, size) if isinstance(size, int) else size
    corners, steps = [], []
    for stride in strides:
        rows, columns = height // stride, width // stride
        y, x = np.divmod(np.arange(rows * columns), max(1, columns))
        corners.append(np.stack((x, y), axis=1))
        steps.append(np.full(rows * columns, stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(steps).astype(np.float32)


def clip(boxes: Floats, size: Size) -> Floats:
    """Cut boxes [n, 4] at the borders of the picture of ``size`` (height, width)."""
    height, width = size
    return np.clip(boxes, 0, np.array([width, height, width, height]))


def nms(boxes: Floats, scores: Floats, classes: Indices, threshold: float = NMS_THRESHOLD) -> Indices:
    """Greedy non-maximum suppression within each class: indices of the kept boxes, best first.

    ``threshold`` is the largest intersection over union that two boxes of a class may have; 1 keeps them all.
    Looks at the ``MOST`` best boxes only, so that a noisy picture cannot stall the worker.
    """
    order = np.argsort(-scores, kind="stable")[:MOST]
    if threshold >= 1:
        return order
    boxes, classes = boxes[order], classes[order]
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    side = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner
    shared = np.prod(np.maximum(side, 0), axis=2)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    rivals = shared > threshold * (area[:, None] + area[None, :] - shared)
    rivals &= classes[:, None] == classes[None, :]
    alive = np.ones(len(order), dtype=bool)
    for index in range(len(order)):
        if alive[index]:
            alive[index + 1 :] &= ~rivals[index, index + 1 :]
    return order[alive]


def detections(
    boxes: Floats,
    scores: Floats,
    classes: Indices,
    size: Size,
    labels: Sequence[str],
    threshold: float = NMS_THRESHOLD,
) -> list[Detection]:
    """Clip, suppress and name candidate boxes; what has no whole pixel inside the picture is left out.

    Takes boxes [n, 4], scores [n] (0 to 1), class indices [n] and the name of each class. Clips before
    suppression: two boxes that differ only outside the picture are one object.
    """
    boxes = clip(boxes, size)
    inside = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1))
    boxes, scores, classes = boxes[inside], scores[inside], classes[inside]
    return [
        Detection(
            label=labels[classes[index]],
            class_id=int(classes[index]),
            confidence=min(1.0, round(float(scores[index]), 4)),
            box=tuple(round(float(value), 2) for value in boxes[index]),
        )
        for index in nms(boxes, scores, classes, threshold)
    ]
