"""Each model's worker against the same model called bare in a loop, in one run: ``make bench``.

1. Bare: one process decodes, preprocesses, infers and postprocesses real frames or audio windows from memory.
2. The worker: one process works off its lossless queue, which is kept full, with real servers. What counts is the
   results that it publishes.
3. Bare again: the ratio is that of the worker to the mean of both.

Each part is whole laps of the same frames or windows, after one lap to warm up. Settings such as ``batch_size``
and ``inference_threads`` come from the environment, for both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import pickle
import secrets
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from nats.aio.msg import Msg

from benchmarks.bare import Pace
from benchmarks.material import Material, Piece, material
from benchmarks.meshes import cpu_seconds, others_cpu_seconds, temporary_mesh
from framemesh import models, subjects, workers
from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.mesh import Mesh
from framemesh.messages import DeadLetter, Medium
from framemesh.processes import Process
from framemesh.settings import load
from framemesh.supervise import Supervised
from framemesh.terminal import run_until

MODELS = (
    "yolox-nano",
    "fastestdet",
    "squeezenet",
    "face",
    "silero-pyin",
    "tiny.en",
    "examples.brightness:Brightness",
)
QUEUE = 512
"""Tasks in a lossless queue that is full."""
REFILL_SECONDS = 0.2
WARM_SECONDS = 2.0
POLL_SECONDS = 0.01
SILENT_SECONDS = 60.0


@dataclass(frozen=True)
class Model:
    """A model to measure: its name, its worker, and the settings by which the worker chooses it."""

    name: str
    worker: str
    settings: dict[str, str]

    @classmethod
    def named(cls, name: str) -> Model:
        """By the name of the model, or as ``framemesh worker`` takes it."""
        info = models.known().get(name)
        if info is None:
            return cls(name, name, {})
        return cls(name, info.worker, {info.chosen_by: info.name} if info.chosen_by else {})

    @property
    def kind(self) -> workers.WorkerClass:
        """Its worker. Raises FramemeshError."""
        return workers.find(self.worker)

    @property
    def batch(self) -> int:
        """Most frames that it is given at once."""
        return int(load(self.kind.settings_type, **self.settings).batch_size)


@dataclass
class Row:
    """One model, measured: frames or windows a second, and CPU milliseconds of each."""

    model: str
    batch: int
    bare_per_s: tuple[float, float]
    worker_per_s: float
    ratio: float
    bare_cpu_ms: float
    worker_cpu_ms: float
    least_waiting: int
    """Fewest tasks in the queue. As few as a worker fetches ahead: it was not kept busy."""
    others: list[float]
    """Processors that others used while each of the three parts ran."""
    real_time_factor: list[float] | None
    """Seconds for each second of sound, bare and worker; null for pictures."""


# -- bare ---------------------------------------------------------------------------------------------


async def bare(model: Model, path: Path, seconds: float) -> Pace:
    """The model in a process of its own. Raises FramemeshError."""
    command = [sys.executable, "-m", "benchmarks.bare", model.name, str(seconds), str(path)]
    process = Process("bare", command)
    await process.start()
    try:
        status = await process.wait()
    finally:
        await process.stop()
        await process.close()
    if status:
        raise FramemeshError(f"{model.name}, bare, ended with status {status}: {'; '.join(process.last_lines)}")
    return Pace(**json.loads(process.last_lines[-1]))


# -- worker -------------------------------------------------------------------------------------------


@dataclass
class Queue:
    """The lossless queue of a model, kept full."""

    bus: Bus
    kind: workers.WorkerClass
    material: Material
    urls: list[str]
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    least: int = QUEUE
    _next: int = 0

    async def fill(self) -> None:
        """Add as many tasks as it has room for."""
        stream = subjects.task_stream(self.kind.kind, lossless=True)
        info = await self.bus.stream_info(stream)
        waiting = int(info.state.messages) if info else 0
        if self._next:
            self.least = min(self.least, waiting)
        numbers = range(self._next, self._next + QUEUE - waiting)
        await asyncio.gather(*map(self._add, numbers))
        self._next = numbers.stop

    async def _add(self, number: int) -> None:
        task = self.material.task(number, self.urls, run=self.run, captured_at=time.time())
        subject = subjects.tasks(task.model, task.source, lossless=True)
        await self.bus.publish(subject, task, msg_id=task.task_key)

    async def keep_full(self) -> None:
        """Fill it again and again, until cancelled."""
        while True:
            await self.fill()
            await asyncio.sleep(REFILL_SECONDS)


class Results:
    """When each result came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    async def at_least(self, count: int, service: Supervised) -> None:
        """Wait for that many. Raises FramemeshError when none come, or the worker had to be started again."""
        while len(self.times) < count:
            last = self.times[-1] if self.times else self._begun
            if service.failed or service.restarts or time.perf_counter() - last > SILENT_SECONDS:
                raise FramemeshError(f"{service.name}: {'; '.join(list(service.process.last_lines)[-3:])}")
            await asyncio.sleep(POLL_SECONDS)

    @contextlib.asynccontextmanager
    async def listening(self, bus: Bus) -> AsyncIterator[None]:
        """Hear of every result meanwhile."""
        self._begun = time.perf_counter()
        subscription = await bus.client.subscribe(subjects.RESULTS_FEED, cb=self._came)
        try:
            yield
        finally:
            await subscription.unsubscribe()

    async def _came(self, _: Msg) -> None:
        self.times.append(time.perf_counter())


async def pace(results: Results, service: Supervised, lap: int, seconds: float) -> Pace:
    """Whole laps, from when the worker is warm until ``seconds`` are over."""
    await results.at_least(1, service)
    await asyncio.sleep(WARM_SECONDS)
    await results.at_least(lap, service)
    process = psutil.Process(service.process.pid)
    begun, spent = len(results.times) - 1, cpu_seconds(process)
    end = begun
    while results.times[end] - results.times[begun] < seconds:
        end += lap
        await results.at_least(end + 1, service)
    elapsed = results.times[end] - results.times[begun]
    cpu = (cpu_seconds(process) - spent) / (len(results.times) - 1 - begun)
    return Pace((end - begun) / elapsed, cpu * 1000)


@contextlib.asynccontextmanager
async def filled(queue: Queue) -> AsyncIterator[None]:
    """The queue is full meanwhile, and gone afterwards."""
    streams = subjects.task_streams(queue.kind.kind, queue.kind.medium)
    await queue.bus.declare(*streams, subjects.RESULTS)
    await queue.fill()
    filling = asyncio.create_task(queue.keep_full())
    try:
        yield
    finally:
        filling.cancel()
        await asyncio.wait([filling])
        for stream in (*streams, subjects.RESULTS):
            await queue.bus.jetstream.delete_stream(stream.name)


async def working(mesh: Mesh, model: Model, queue: Queue, seconds: float) -> Pace:
    """One worker on its queue. Raises FramemeshError."""
    results, lap = Results(), len(queue.material.pieces)
    async with filled(queue), results.listening(queue.bus):
        service = await mesh.start_service(model.worker, model.settings, label="worker")
        try:
            return await pace(results, service, lap, seconds)
        finally:
            await service.stop(2)


# -- all ----------------------------------------------------------------------------------------------


class Noise:
    """Processors that others use, part by part."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Measure a part."""
        begun, spent = time.perf_counter(), others_cpu_seconds()
        yield
        self.shares.append(round((others_cpu_seconds() - spent) / (time.perf_counter() - begun), 2))


async def stored(mesh: Mesh, pieces: list[Piece]) -> list[str]:
    """Put pieces into SeaweedFS; their addresses."""
    async with BlobStore(mesh.environment()["master_url"]) as blobs:
        return [await blobs.put(piece.data) for piece in pieces]


async def compare(mesh: Mesh, bus: Bus, model: Model, seconds: float) -> Row:
    """Bare, worker, bare. Raises FramemeshError."""
    through, noise = await asyncio.to_thread(material, model.kind), Noise()
    path = mesh.data / "material.pickle"
    path.write_bytes(pickle.dumps(through))
    queue = Queue(bus, model.kind, through, await stored(mesh, through.pieces))
    with noise.heard():
        before = await bare(model, path, seconds)
    with noise.heard():
        worker = await working(mesh, model, queue, seconds)
    with noise.heard():
        after = await bare(model, path, seconds)
    if letter := await bus.last(subjects.DEADLETTERS.name, "dead.>", DeadLetter):
        raise FramemeshError(f"{model.name}: dead letter: {letter.message.reason}")
    mean = statistics.fmean((before.per_second, after.per_second))
    sound = through.seconds / len(through.pieces) if model.kind.medium is Medium.AUDIO else 0.0
    return Row(
        model=model.name,
        batch=model.batch,
        bare_per_s=(round(before.per_second, 2), round(after.per_second, 2)),
        worker_per_s=round(worker.per_second, 2),
        ratio=round(worker.per_second / mean, 3),
        bare_cpu_ms=round(statistics.fmean((before.cpu_ms, after.cpu_ms)), 2),
        worker_cpu_ms=round(worker.cpu_ms, 2),
        least_waiting=queue.least,
        others=noise.shares,
        real_time_factor=_factors(sound, mean, worker.per_second),
    )


def _factors(sound: float, *per_second: float) -> list[float] | None:
    return [round(1 / (each * sound), 4) for each in per_second] if sound else None


async def run(names: list[str], seconds: float, tell: Callable[[Row], None]) -> list[Row]:
    """Every model, one after the other, on one mesh."""
    rows: list[Row] = []
    async with temporary_mesh() as mesh:
        await mesh.start_servers()
        bus = await Bus.connect(mesh.environment()["nats_host"], "bench")
        try:
            for name in names:
                rows.append(await compare(mesh, bus, Model.named(name), seconds))
                tell(rows[-1])
        finally:
            await bus.close()
    return rows


HEAD = (
    f"{'model':<14}{'batch':>6}{'bare /s':>18}{'worker /s':>11}{'ratio':>7}"
    f"{'CPU ms, bare':>14}{'worker':>9}{'real-time factor':>18}{'others':>19}"
)


def line(row: Row) -> str:
    """One line of the table."""
    name = row.model.rpartition(":")[2]
    pace = f"{row.bare_per_s[0]:.2f}, {row.bare_per_s[1]:.2f}"
    factor = f"{row.real_time_factor[1]:.3f}" if row.real_time_factor else ""
    others = ", ".join(f"{share:.2f}" for share in row.others)
    return (
        f"{name:<14}{row.batch:>6}{pace:>18}{row.worker_per_s:>11.2f}{row.ratio:>7.2f}"
        f"{row.bare_cpu_ms:>14.2f}{row.worker_cpu_ms:>9.2f}{factor:>18}{others:>19}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="models, or workers, by name")
    parser.add_argument("--seconds", type=float, default=10, help="least length of each part")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    arguments = parser.parse_args()

    def tell(text: str) -> None:
        if not arguments.json:
            print(text, flush=True)

    tell(HEAD)
    try:
        rows = run_until(run(arguments.models, arguments.seconds, lambda row: tell(line(row))))
    except FramemeshError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    if arguments.json:
        print(json.dumps({"cpus": psutil.cpu_count(), "models": [asdict(row) for row in rows]}))
    else:
        tell("\nFrames or windows; others: processors that others used meanwhile, which costs either side.")


if __name__ == "__main__":
    main()
