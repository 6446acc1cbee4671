"""Head pose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from framemesh.boxes import Image, Tensor
from framemesh.messages import Box, HeadPose
from framemesh.onnx import Model
from services.face.crops import cut, square

SIDE = 64
MARGIN = 1.2


class PoseModel:
    """FSA-Net (Yang et al., CVPR 2019), the mean of its ``1x1`` and ``var`` variants: [1, 3, 64, 64] to degrees.

    Input is BGR, (x - 127.5) / 128; output is yaw, pitch, roll.
    """

    def __init__(self, paths: Sequence[str | Path], threads: int = 1, providers: list[str] | None = None) -> None:
        self._models = [
            Model(path, takes=(1, 3, SIDE, SIDE), gives=(1, 3), threads=threads, providers=providers)
            for path in paths
        ]

    def pose(self, image: Image, box: Box) -> HeadPose:
        """The pose of the head whose face is in the box."""
        tensor = prepare(image, box)
        yaw, pitch, roll = np.mean([model.run(tensor)[0] for model in self._models], axis=0).tolist()
        return HeadPose(yaw=yaw, pitch=pitch, roll=roll)


def prepare(image: Image, box: Box) -> Tensor:
    """The square around the face, 1.2 times its longer side, as [1, 3, 64, 64]."""
    crop = cut(image, square(box, MARGIN), SIDE)
    tensor = np.ascontiguousarray(crop.transpose(2, 0, 1)[None], dtype=np.float32)
    tensor -= 127.5
    tensor *= 1 / 128
    return tensor
