"""Models of this installation: which there are, whether their files are here, which run, and how fast."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from framemesh import assets, workers
from framemesh.assets import Asset
from framemesh.blame import blaming
from framemesh.errors import FramemeshError
from framemesh.inference import AudioWorker, ModelWorker, Skipped, Worker
from framemesh.messages import AudioTask, Found, Heartbeat, Medium
from framemesh.settings import load

BATCHES = (1, 4, 8)
SECONDS = 1.5
LEAST_RUNS = 3
INSTEAD = "models may do less on it than on the sample {0}, which `framemesh assets pull {0}` gets"


@dataclass(frozen=True)
class ModelInfo:
    """A model that an installed worker can run."""

    name: str
    worker: str
    """Name of the worker, as in ``framemesh worker NAME``."""
    kind: str
    takes: Medium
    files: tuple[str, ...]
    """Assets that it needs, and files by their paths; none where a Python package carries it."""
    chosen_by: str

    @property
    def missing(self) -> list[str]:
        """Those files that are not on this machine."""
        return [file.name for file in map(stored, self.files) if file.path is None]

    @property
    def bytes(self) -> int | None:
        """Size of its files; 0 where a Python package carries it, None where one's own worker does not say."""
        if not self.files and self.worker not in workers.named():
            return None
        return sum(stored(name).bytes for name in self.files)


@dataclass(frozen=True)
class Stored:
    """A file of a model."""

    name: str
    path: Path | None
    """None where it is not on this machine."""
    asset: Asset | None = None

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.asset.bytes if self.asset else self.path.stat().st_size if self.path else 0

    @property
    def licence(self) -> str:
        """Its licence; empty for a file of one's own."""
        return self.asset.licence if self.asset else ""

    @property
    def sha256(self) -> str:
        """The checksum that it must have, or that of a file of one's own."""
        return self.asset.sha256 if self.asset else assets.file_sha256(self.path) if self.path else ""


def stored(file: str) -> Stored:
    """An asset by its name, or a file by its path."""
    if file in assets.catalogue():
        asset = assets.get(file)
        return Stored(file, next(assets.copies(asset), None), asset)
    path = Path(file)
    return Stored(path.name, path if assets.is_file(path) else None)


def known() -> dict[str, ModelInfo]:
    """Every model by its name, of workers whose packages are installed."""
    return {info.name: info for info in _known()}


def _known() -> Iterator[ModelInfo]:
    for worker in sorted(workers.named()):
        with contextlib.suppress(FramemeshError):  # an extra that is not installed
            yield from run_by(worker)


def run_by(worker: str) -> list[ModelInfo]:
    """The models that a worker can run, which is given as ``framemesh worker`` takes it. Raises FramemeshError."""
    kind = workers.find(worker)
    models = kind.choices or {worker if worker in workers.named() else kind.kind: ()}
    return [
        ModelInfo(name, worker, kind.kind, kind.medium, files, kind.chosen_by) for name, files in models.items()
    ]


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
    material: str = ""
    """What it was run on."""

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
    worker.load_checked()
    return worker


def bench(
    spec: str, batches: tuple[int, ...] = BATCHES, seconds: float = SECONDS, **settings: Any
) -> list[Timing]:
    """Time a model, loaded in this process, at several batch sizes. Raises FramemeshError."""
    worker = opened(spec, **settings)
    with blaming(f"{worker.model_name} cannot be measured"):
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
        len(spans), sample.found, worker.model_sha256, sample.window_s, sample.material,
    )  # fmt: skip


class _Sample:
    """A real picture, or real speech, and how a worker is run on it."""

    def __init__(self, worker: Worker[Any, Any]) -> None:
        self.found = 0
        self.window_s: float | None = None
        self._worker = worker
        if isinstance(worker, ModelWorker):
            self._picture, self.material = _picture()
        else:
            self._sound, self.material = _sound()
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


def _picture() -> tuple[Any, str]:
    """The astronaut where she is, 512x512; else a grey ramp. With what it is."""
    import cv2  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    if path := assets.find("astronaut"):
        return cv2.imread(str(path)), "the picture astronaut"
    ramp = np.tile(np.linspace(0, 255, 512, dtype=np.uint8)[None, :, None], (512, 1, 3))
    return ramp, f"a grey ramp, which shows nothing; {INSTEAD.format('astronaut')}"


def _sound() -> tuple[Any, str]:
    """Five seconds of speech where they are; else of a tone. With what it is."""
    import numpy as np  # noqa: PLC0415

    from framemesh import audio  # noqa: PLC0415

    if path := assets.find("jfk"):
        return audio.decode(path.read_bytes())[: 5 * audio.RATE], "the speech jfk"
    tone = 0.1 * np.sin(np.arange(5 * audio.RATE, dtype=np.float32) * 2 * np.pi * 150 / audio.RATE)
    return tone, f"a tone, in which nobody speaks; {INSTEAD.format('jfk')}"
