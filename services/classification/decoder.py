"""Picture classification: pixels in, class names out.

Pictures are BGR uint8 arrays of shape [height, width, 3]. A classifier keeps no state between calls, so its
methods may run in different threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from framemesh.errors import FramemeshError
from framemesh.messages import Classification
from framemesh.onnx import Model, Tensor

Image = npt.NDArray[Any]
Size = tuple[int, int]

SIDE = 224
RESIZED = 256
CLASSES = 1000
MEAN = np.array([104, 117, 123], dtype=np.float32)


class Classifier:
    """SqueezeNet (Iandola et al., arXiv:1602.07360), float16: [1, 3, 224, 224] to 1,000 probabilities.

    Gives the ``top`` classes whose probability is at least ``confidence``. ``labels`` is a file of lines
    'index,name, synonym, …'. Sets the number of OpenCV's threads, which is one for the whole process. Raises
    FramemeshError for a file that is missing or does not fit.
    """

    name = "squeezenet"

    def __init__(
        self,
        path: str | Path,
        labels: str | Path,
        *,
        threads: int = 1,
        top: int = 3,
        confidence: float = 0.05,
        providers: list[str] | None = None,
    ) -> None:
        self.top = top
        self.confidence = confidence
        self.labels = read_labels(Path(labels))
        self.model = Model(
            path,
            takes=(1, 3, SIDE, SIDE),
            gives=(1, CLASSES, 1, 1),
            dtype="float16",
            threads=threads,
            providers=providers,
        )
        cv2.setNumThreads(threads)

    def preprocess(self, image: Image) -> Tensor:
        """Centre crop, resize, subtract the mean of the training pictures.

        Short side to 256 and then a crop of 224 is a crop of 7/8 of the short side, resized once.
        """
        height, width = image.shape[:2]
        side = max(1, round(min(height, width) * SIDE / RESIZED))
        top, left = (height - side) // 2, (width - side) // 2
        crop = image[top : top + side, left : left + side]
        crop = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        tensor = np.empty((1, 3, SIDE, SIDE), dtype=np.float16)
        for index, plane in enumerate(cv2.split(crop)):
            tensor[0, index] = plane - MEAN[index]
        return tensor

    def infer(self, tensors: list[Tensor]) -> list[Tensor]:
        """Run the model once a tensor: the file has a fixed batch of one."""
        return [self.model.run(tensor) for tensor in tensors]

    def postprocess(
        self,
        raw: Tensor,
        size: Size,
        region: int | None = None,
    ) -> list[Classification]:
        """Name the best classes, best first; ``size`` is there as every decoder has it."""
        scores = raw.reshape(-1).astype(np.float32)
        best = np.argsort(-scores, kind="stable")[: self.top]
        return [
            Classification(
                label=self.labels[index],
                class_id=int(index),
                confidence=min(1.0, round(float(scores[index]), 4)),
                region=region,
            )
            for index in best
            if scores[index] >= self.confidence
        ]


def read_labels(path: Path) -> list[str]:
    """Read 'index,name, synonym, …' lines: the first name of every class, in order of the index."""
    try:
        rows = [line.split(",") for line in path.read_text("utf-8").splitlines() if line.strip()]
        names = {int(row[0]): row[1].strip() for row in rows}
    except OSError as error:
        raise FramemeshError(f"labels file {path} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise FramemeshError(f"labels file {path} is not lines of 'index,name': {error}") from error
    if sorted(names) != list(range(CLASSES)):
        raise FramemeshError(f"labels file {path} must name the classes 0 to {CLASSES - 1}, found {len(names)}")
    return [names[index] for index in range(CLASSES)]
