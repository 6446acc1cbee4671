"""A model called bare in a loop, as a process of its own: ``python -m benchmarks.bare MODEL SECONDS MATERIAL``.

Decode, preprocess, infer, postprocess, on bytes in memory and with the worker's settings, whole laps of the
pickled material until the seconds are over. The last line of output is JSON.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks.material import Material, Piece
from framemesh.inference import AudioWorker, ModelWorker, Worker
from framemesh.messages import AudioTask, Task
from framemesh.models import opened


@dataclass(frozen=True)
class Pace:
    """How fast a model went through its material: pieces a second, and CPU milliseconds a piece."""

    per_second: float
    cpu_ms: float


def look(worker: ModelWorker[Any], pieces: list[Piece]) -> None:
    """One batch of pictures."""
    from framemesh import pictures  # noqa: PLC0415 - a worker of sound needs no OpenCV

    tasks = [cast("Task", piece.task) for piece in pieces]
    images = [
        pictures.decode(piece.data, worker.min_size, (task.height, task.width))
        for piece, task in zip(pieces, tasks, strict=True)
    ]
    outputs = worker.infer([worker.preprocess(image) for image in images])
    for output, image, task in zip(outputs, images, tasks, strict=True):
        worker.track(list(worker.postprocess(output, *image.shape[:2])), task)


def listen(worker: AudioWorker[Any], pieces: list[Piece]) -> None:
    """One batch of windows."""
    from framemesh import audio  # noqa: PLC0415 - needs FFmpeg for what others send

    tasks = [cast("AudioTask", piece.task) for piece in pieces]
    sounds = [audio.decode(piece.data) for piece in pieces]
    outputs = worker.infer([worker.preprocess(sound, task) for sound, task in zip(sounds, tasks, strict=True)])
    for output, task in zip(outputs, tasks, strict=True):
        worker.postprocess(output, task)


def lap(worker: Worker[Any, Any], pieces: list[Piece]) -> None:
    """All pieces once, in batches of the worker's size."""
    size = worker.settings.batch_size
    for at in range(0, len(pieces), size):
        if isinstance(worker, ModelWorker):
            look(worker, pieces[at : at + size])
        else:
            listen(cast("AudioWorker[Any]", worker), pieces[at : at + size])


def pace(worker: Worker[Any, Any], pieces: list[Piece], seconds: float) -> Pace:
    """Whole laps until ``seconds`` are over, after one that does not count."""
    lap(worker, pieces)
    laps, begun, spent = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        lap(worker, pieces)
        laps += 1
    count = laps * len(pieces)
    elapsed, cpu = time.perf_counter() - begun, time.process_time() - spent
    return Pace(count / elapsed, cpu * 1000 / count)


def main() -> None:
    """Run one model on one file of material."""
    spec, seconds, path = sys.argv[1:]
    material: Material = pickle.loads(Path(path).read_bytes())
    print(json.dumps(asdict(pace(opened(spec), material.pieces, float(seconds)))))


if __name__ == "__main__":
    main()
