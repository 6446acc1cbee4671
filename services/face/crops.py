"""Parts of pictures as the face models take them."""

from __future__ import annotations

import cv2
import numpy as np

from framemesh.boxes import Image, Tensor
from framemesh.messages import Box

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]


def shorter_side(box: Box) -> float:
    """Pixels of a box's shorter side."""
    return min(box[2] - box[0], box[3] - box[1])


def square(box: Box, factor: float) -> Box:
    """The square around a box's centre whose side is the box's longer side times ``factor``."""
    half = max(box[2] - box[0], box[3] - box[1]) * factor / 2
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return x - half, y - half, x + half, y + half


def cut(image: Image, box: Box, side: int) -> Image:
    """Cut a box out, also over the border (which is repeated), and scale it to ``side`` squared."""
    height, width = image.shape[:2]
    x1, y1 = round(box[0]), round(box[1])
    x2, y2 = max(round(box[2]), x1 + 1), max(round(box[3]), y1 + 1)
    part = image[max(y1, 0) : max(min(y2, height), 1), max(x1, 0) : max(min(x2, width), 1)]
    over = max(-y1, 0), max(y2 - height, 0), max(-x1, 0), max(x2 - width, 0)
    if any(over):
        part = cv2.copyMakeBorder(part, *over, cv2.BORDER_REPLICATE)
    smaller = part.shape[0] > side
    return cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def imagenet(image: Image) -> Tensor:
    """Give [1, 3, h, w] float32, RGB with ImageNet's mean and deviation, of BGR [h, w, 3] uint8."""
    tensor = np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1), dtype=np.float32)
    tensor *= 1 / 255
    tensor -= IMAGENET_MEAN
    tensor /= IMAGENET_STD
    return tensor[None]
