"""Models of this installation: which there are, whether their files are here, which run, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

from framemesh import assets, workers
from framemesh.errors import FramemeshError
from framemesh.inference import AudioWorker, ModelWorker, Skipped, Worker
from framemesh.messages import AudioTask, Found, Heartbeat, Medium
from framemesh.settings import load

BATCHES = (1, 4, 8)
SECONDS = 1.5
LEAST_RUNS = 3


@dataclass(frozen=True)
class ModelInfo:
    """A model that an installed worker can run."""

    name: str
    worker: str
    """Name of the worker, as in ``framemesh worker NAME``."""
    kind: str
    takes: Medium
    files: tuple[str, ...]
    """Assets that it needs; none where a Python package carries it."""
    chosen_by: str

    @property
    def missing(self) -> list[str]:
        """Assets that are not on this machine."""
        return [name for name in self.files if next(assets.copies(assets.get(name)), None) is None]


def known() -> dict[str, ModelInfo]:
    """Every model by its name, of workers whose packages are installed."""
    return {info.name: info for info in _known()}


def _known() -> Iterator[ModelInfo]:
    for worker in sorted(workers.named()):
        try:
            kind = workers.find(worker)
        except FramemeshError:  # an extra that is not installed
            continue
        for name, files in (kind.choices or {worker: ()}).items():
            yield ModelInfo(name, worker, kind.kind, kind.medium, files, kind.chosen_by)


def replicas(beats: list[Heartbeat]) -> dict[tuple[str, str], list[Heartbeat]]:
    """Workers that are alive, by kind and model."""
    found: dict[tuple[str, str], list[Heartbeat]] = {}
    for beat in beats:
        if beat.model:
            found.setdefault((beat.kind, beat.model), []).append(beat)
    return found


# -- bench --------------------------------------------------------------------------------------------


@dataclass
class Timing:
    """How long a model takes, median, milliseconds for one frame, or one window of ``window_s`` seconds."""

    model: str
    kind: str
    provider: str
    batch: int
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float
    runs: int
    found: int
    sha256: str = ""
    window_s: float | None = None

    @property
    def total_ms(self) -> float:
        """All of it, for one frame or window."""
        return self.preprocess_ms + self.infer_ms + self.postprocess_ms

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"total_ms": self.total_ms}


def opened(spec: str, **settings: Any) -> Worker[Any, Any]:
    """A worker with its model loaded, by the name of the model, or as ``framemesh worker`` takes it.

    It has no servers: only ``preprocess``, ``infer`` and ``postprocess`` work. Raises FramemeshError.
    """
    info = known().get(spec)
    kind = workers.find(info.worker if info else spec)
    if info and info.chosen_by:
        settings[info.chosen_by] = info.name
    nothing = cast("Any", None)
    worker = kind(load(kind.settings_type, **settings), nothing, nothing)
    worker.load()
    return worker


def bench(
    spec: str, batches: tuple[int, ...] = BATCHES, seconds: float = SECONDS, **settings: Any
) -> list[Timing]:
    """Time a model, loaded in this process, at several batch sizes. Raises FramemeshError."""
    worker = opened(spec, **settings)
    return [_bench(worker, batch, seconds) for batch in batches]


def _bench(worker: Worker[Any, Any], batch: int, seconds: float) -> Timing:
    sample = _Sample(worker)
    sample.run(batch)  # warm: the first one allocates
    spans: list[tuple[float, float, float]] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(spans) < LEAST_RUNS:
        spans.append(sample.run(batch))
    pre, infer, post = (statistics.median(span) * 1000 / batch for span in zip(*spans, strict=True))
    return Timing(
        worker.model_name, worker.kind, worker.provider, batch, pre, infer, post,
        len(spans), sample.found, worker.model_sha256, sample.window_s,
    )  # fmt: skip


class _Sample:
    """A real picture, or real speech, and how a worker is run on it."""

    def __init__(self, worker: Worker[Any, Any]) -> None:
        self.found = 0
        self.window_s: float | None = None
        self._worker = worker
        if isinstance(worker, ModelWorker):
            self._picture = _picture()
        else:
            self._sound = _sound()
            self.window_s = len(self._sound) / 16_000

    def run(self, batch: int) -> tuple[float, float, float]:
        """Seconds of preprocessing, inference and postprocessing of a batch."""
        begun = time.perf_counter()
        inputs = [self._preprocess() for _ in range(batch)]
        prepared = time.perf_counter()
        outputs = self._worker.infer(inputs)
        inferred = time.perf_counter()
        found = [item for output in outputs for item in self._postprocess(output)]
        self.found = sum(not isinstance(item, Skipped) for item in found) // batch
        return prepared - begun, inferred - prepared, time.perf_counter() - inferred

    def _preprocess(self) -> Any:
        if isinstance(self._worker, ModelWorker):
            return self._worker.preprocess(self._picture)
        return cast("AudioWorker[Any]", self._worker).preprocess(self._sound, self._task())

    def _postprocess(self, output: Any) -> list[Found | Skipped]:
        if isinstance(self._worker, ModelWorker):
            height, width = self._picture.shape[:2]
            return list(self._worker.postprocess(output, height, width))
        return list(cast("AudioWorker[Any]", self._worker).postprocess(output, self._task()))

    def _task(self) -> AudioTask:
        return AudioTask(
            source="bench", run="bench", seq=0, timestamp=0, bytes=0, captured_at=0,
            model=self._worker.kind, duration=self.window_s or 1,
        )  # fmt: skip


def _picture() -> Any:
    """The astronaut where she is, 512x512; else a grey ramp."""
    import cv2  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    if path := assets.find("astronaut"):
        return cv2.imread(str(path))
    return np.tile(np.linspace(0, 255, 512, dtype=np.uint8)[None, :, None], (512, 1, 3))


def _sound() -> Any:
    """Five seconds of speech where they are; else of a tone."""
    import numpy as np  # noqa: PLC0415

    from framemesh import audio  # noqa: PLC0415

    if path := assets.find("jfk"):
        return audio.decode(path.read_bytes())[: 5 * audio.RATE]
    return 0.1 * np.sin(np.arange(5 * audio.RATE, dtype=np.float32) * 2 * np.pi * 150 / audio.RATE)
