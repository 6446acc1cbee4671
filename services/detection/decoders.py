"""Object detectors: pixels in, boxes out.

Pictures are BGR uint8 arrays of shape [height, width, 3]. Boxes are [x1, y1, x2, y2] in pixels of the
picture, clipped to it. A detector keeps no state between calls, so its methods may run in different threads.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from framemesh.boxes import PAD, Image, Size, detections, grid, narrowed, planes
from framemesh.decoders.fit import Fit, fit
from framemesh.decoders.labels import COCO
from framemesh.errors import FramemeshError
from framemesh.messages import Detection
from framemesh.onnx import Model, Tensor

_OPENCV_4 = 'pip install "opencv-python-headless<5"'


class Detector(ABC):
    """What the detection worker needs of a model."""

    name: ClassVar[str]
    needs_weights: ClassVar[bool] = True
    confidence: float

    @property
    def provider(self) -> str:
        """What it runs on, as ONNX Runtime names it; ``cpu`` without it."""
        return "cpu"

    @abstractmethod
    def __init__(
        self,
        path: str | Path | None = None,
        threads: int = 1,
        confidence: float = 0.5,
        providers: list[str] | None = None,
    ) -> None: ...

    @abstractmethod
    def preprocess(self, image: Image) -> Tensor:
        """Turn a picture into what the model takes."""

    @abstractmethod
    def infer(self, tensors: list[Tensor]) -> list[Tensor]:
        """Run the model: one raw output for each tensor, in order."""

    @abstractmethod
    def postprocess(self, raw: Tensor, size: Size) -> list[Detection]:
        """Turn one raw output into detections, best first; ``size`` is the picture's (height, width)."""


class _OnnxDetector(Detector):
    model: Model

    @property
    def provider(self) -> str:
        """The execution provider that ONNX Runtime chose."""
        return self.model.provider

    def infer(self, tensors: list[Tensor]) -> list[Tensor]:
        """Run the model once a tensor: these files have a fixed batch of one."""
        return [self.model.run(tensor) for tensor in tensors]


class YoloxDetector(_OnnxDetector):
    """YOLOX-Nano (Ge et al., arXiv:2107.08430): [1, 3, 416, 416] BGR 0-255 to [1, 3549, 85]."""

    name = "yolox-nano"
    side = 416
    strides = (8, 16, 32)

    def __init__(
        self, path: str | Path, threads: int = 1, confidence: float = 0.4, providers: list[str] | None = None
    ) -> None:
        self.confidence = confidence
        self._grid, self._stride = grid(self.side, self.strides)
        self.model = Model(
            path,
            takes=(1, 3, self.side, self.side),
            gives=(1, len(self._grid), 85),
            threads=threads,
            providers=providers,
        )

    def preprocess(self, image: Image) -> Tensor:
        """Letterbox to the top left; values stay 0-255."""
        return planes(self._fit(image.shape[:2]).draw(image, PAD))

    def postprocess(self, raw: Tensor, size: Size) -> list[Detection]:
        """Decode grid offsets; score = objectness * best class, both already sigmoid."""
        rows = raw[0]
        keep = np.flatnonzero(rows[:, 4] > self.confidence)
        found = rows[keep]
        classes = found[:, 5:].argmax(axis=1)
        scores = found[:, 4] * np.take_along_axis(found[:, 5:], classes[:, None], axis=1)[:, 0]
        sure = scores > self.confidence
        keep, found, classes, scores = keep[sure], found[sure], classes[sure], scores[sure]
        stride = self._stride[keep, None]
        centre = (found[:, :2] + self._grid[keep]) * stride
        half = np.exp(found[:, 2:4]) * stride / 2
        boxes = self._fit(size).back(np.hstack((centre - half, centre + half)))
        return detections(boxes, scores, classes, size, COCO)

    def _fit(self, size: Size) -> Fit:
        return fit("letterbox", size, (self.side, self.side))


class FastestDetDetector(_OnnxDetector):
    """FastestDet (github.com/dog-qiuqiu/FastestDet): [1, 3, 352, 352] BGR 0-1 to [1, 85, 22, 22]."""

    name = "fastestdet"
    side = 352
    cells = 22

    def __init__(
        self, path: str | Path, threads: int = 1, confidence: float = 0.65, providers: list[str] | None = None
    ) -> None:
        self.confidence = confidence
        self._least = confidence ** (1 / 0.6)  # a class score is at most 1, so objectness below this cannot pass
        self.model = Model(
            path,
            takes=(1, 3, self.side, self.side),
            gives=(1, 85, self.cells, self.cells),
            threads=threads,
            providers=providers,
        )

    def preprocess(self, image: Image) -> Tensor:
        """Resize without keeping the aspect; values 0-1."""
        tensor = planes(cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_LINEAR))
        tensor *= 1 / 255
        return tensor

    def postprocess(self, raw: Tensor, size: Size) -> list[Detection]:
        """Decode cells; score = objectness^0.6 * best class^0.4."""
        columns = raw[0].reshape(85, -1)
        keep = np.flatnonzero(columns[0] > self._least)
        found = columns[:, keep]
        classes = found[5:].argmax(axis=0)
        best = np.take_along_axis(found[5:], classes[None], axis=0)[0]
        scores = found[0] ** 0.6 * best**0.4
        sure = scores > self.confidence
        keep, found, classes, scores = keep[sure], found[:, sure], classes[sure], scores[sure]
        cell = np.stack((keep % self.cells, keep // self.cells))
        centre = (cell + np.tanh(found[1:3])) / self.cells
        half = 0.5 / (1 + np.exp(-found[3:5]))
        height, width = size
        boxes = np.vstack((centre - half, centre + half)).T * np.array([width, height, width, height])
        return detections(boxes, scores, classes, size, COCO)


class PeopleHogDetector(Detector):
    """OpenCV's people detector (Dalal and Triggs, 2005: HOG and a linear SVM); needs no model file.

    It finds whole, upright people who are at least 100 pixels tall in the picture scaled to ``side`` pixels
    of width. The confidence is 1/(1+exp(-w)) of the SVM's distance w from its border: a rank from 0.5 up, not
    a calibrated probability.
    """

    name = "people-hog"
    needs_weights = False
    side = 480
    window = (64, 128)

    def __init__(
        self,
        path: str | Path | None = None,
        threads: int = 1,
        confidence: float = 0.6,
        providers: list[str] | None = None,
    ) -> None:
        if not hasattr(cv2, "HOGDescriptor"):
            raise FramemeshError(
                f"opencv {cv2.__version__} has no people detector: "
                f"run `{_OPENCV_4}`, or choose yolox-nano or fastestdet"
            )
        self.confidence = confidence
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector()))

    def preprocess(self, image: Image) -> Tensor:
        """Scale down to at most ``side`` pixels of width; stays BGR uint8 [h, w, 3]."""
        return narrowed(image, self.side)

    def infer(self, tensors: list[Tensor]) -> list[Tensor]:
        """Search each picture: rows of x1, y1, x2, y2 as shares of width and height, and the SVM's weight."""
        return [self._search(tensor) for tensor in tensors]

    def postprocess(self, raw: Tensor, size: Size) -> list[Detection]:
        """Keep the sure ones, in pixels."""
        scores = 1 / (1 + np.exp(-raw[:, 4]))
        sure = scores > self.confidence
        height, width = size
        boxes = raw[sure, :4] * np.array([width, height, width, height])
        return detections(boxes, scores[sure], np.zeros(len(boxes), dtype=np.intp), size, COCO)

    def _search(self, image: Tensor) -> Tensor:
        height, width = image.shape[:2]
        if width < self.window[0] or height < self.window[1]:
            return np.empty((0, 5))
        found, weights = self._hog.detectMultiScale(image, winStride=(8, 8), padding=(8, 8), scale=1.05)
        if not len(found):
            return np.empty((0, 5))
        x, y, w, h = np.asarray(found, dtype=np.float64).T
        # The window has a margin around the person: shrink it as OpenCV's own sample peopledetect.cpp does.
        x, y, w, h = x + 0.1 * w, y + 0.07 * h, 0.8 * w, 0.8 * h
        return np.stack((x / width, y / height, (x + w) / width, (y + h) / height, np.ravel(weights)), axis=1)


class FaceHaarDetector(Detector):
    """OpenCV's face detector (Viola and Jones, 2001: a cascade on Haar features); needs no model file.

    Runs ``haarcascade_frontalface_alt2``, which OpenCV 4 carries, and finds upright faces that look at the
    camera and are at least 24 pixels wide in the picture scaled to ``side`` pixels of width. The confidence is
    n/(n+5), where n is the number of neighbours: windows on about the same face that the cascade let pass, 3 at
    least. It is a rank, not a calibrated probability: a large clear face gets 40 and more (0.9), the small
    moving one of the carphone sample 4 to 25 (0.44 to 0.83), a poster of a flower up to 9 (0.64).
    """

    name = "face-haar"
    needs_weights = False
    cascade = "haarcascade_frontalface_alt2.xml"
    side = 480
    smallest = 24
    step = 1.1
    neighbours = 2  # a face has more than these
    even = 5  # this many are even odds

    def __init__(
        self,
        path: str | Path | None = None,
        threads: int = 1,
        confidence: float = 0.5,
        providers: list[str] | None = None,
    ) -> None:
        self.confidence = confidence
        self._cascade = _load_cascade(self.cascade)
        self._searching = threading.Lock()  # the cascade holds the picture that it searches

    def preprocess(self, image: Image) -> Tensor:
        """Scale down to at most ``side`` pixels of width, then to grey uint8 [h, w]."""
        return cv2.cvtColor(narrowed(image, self.side), cv2.COLOR_BGR2GRAY)

    def infer(self, tensors: list[Tensor]) -> list[Tensor]:
        """Search each picture: rows of x1, y1, x2, y2 as shares of width and height, and the neighbours."""
        return [self._search(tensor) for tensor in tensors]

    def postprocess(self, raw: Tensor, size: Size) -> list[Detection]:
        """Keep the sure ones, in pixels."""
        scores = raw[:, 4] / (raw[:, 4] + self.even)
        sure = scores > self.confidence
        height, width = size
        boxes = raw[sure, :4] * np.array([width, height, width, height])
        return detections(boxes, scores[sure], np.zeros(len(boxes), dtype=np.intp), size, ("face",))

    def _search(self, image: Tensor) -> Tensor:
        height, width = image.shape
        with self._searching:
            found, counts = self._cascade.detectMultiScale2(
                image,
                scaleFactor=self.step,
                minNeighbors=self.neighbours,
                minSize=(self.smallest, self.smallest),
            )
        if not len(found):
            return np.empty((0, 5))
        x, y, w, h = np.asarray(found, dtype=np.float64).T
        return np.stack((x / width, y / height, (x + w) / width, (y + h) / height, np.ravel(counts)), axis=1)


def _load_cascade(name: str) -> cv2.CascadeClassifier:
    if not hasattr(cv2, "CascadeClassifier"):
        raise FramemeshError(f"opencv {cv2.__version__} has no face detector: run `{_OPENCV_4}`")
    path = Path(cv2.__file__).parent / "data" / name  # cv2.data.haarcascades, which not every OpenCV has
    cascade = cv2.CascadeClassifier()
    try:
        loaded = path.is_file() and cascade.load(str(path))
    except cv2.error:
        loaded = False
    if not loaded:
        raise FramemeshError(f"{path} is missing or damaged: run `{_OPENCV_4} --force-reinstall --no-deps`")
    return cascade


DETECTORS: dict[str, type[Detector]] = {
    detector.name: detector
    for detector in (YoloxDetector, FastestDetDetector, PeopleHogDetector, FaceHaarDetector)
}


def named(name: str) -> type[Detector]:
    """Give the detector's class. Raises FramemeshError with the closest names for an unknown one."""
    if name not in DETECTORS:
        close = get_close_matches(name.lower(), DETECTORS, cutoff=0.4)
        raise FramemeshError(
            f"there is no detector {name!r}: did you mean {' or '.join(close)}?"
            if close
            else f"there is no detector {name!r}: choose one of {', '.join(DETECTORS)}"
        )
    return DETECTORS[name]


def build(
    name: str,
    path: str | Path | None = None,
    threads: int = 1,
    confidence: float | None = None,
    providers: list[str] | None = None,
) -> Detector:
    """Give the detector of that name.

    ``confidence`` None is the detector's own threshold, ``providers`` None the fastest that ONNX Runtime offers.
    Sets the number of OpenCV's threads, which is one for the whole process. Raises FramemeshError for an
    unknown name, for a missing file and for a file that holds another model.
    """
    detector = named(name)
    if path is None and detector.needs_weights:
        free = " or ".join(other.name for other in DETECTORS.values() if not other.needs_weights)
        raise FramemeshError(f"detector {name} needs its model file: give its path, or choose {free}")
    cv2.setNumThreads(threads)
    settings = {} if confidence is None else {"confidence": confidence}
    return detector(path, threads=threads, providers=providers, **settings)
