"""The base of every model worker: pull, fetch, decode, infer in micro-batches, publish, ack."""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from abc import abstractmethod
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from prometheus_client import Counter
from pydantic import Field

from framemesh import guard, subjects
from framemesh.blame import blaming, told
from framemesh.blobs import BlobError, BlobMissing, BlobStore
from framemesh.bus import Reject, Retry
from framemesh.errors import FramemeshError, StartAgain
from framemesh.messages import MOST_FOUND, AudioTask, Box, Delivery, Found, Heartbeat, Medium, Result, Task
from framemesh.pull import Envelope
from framemesh.service import Service
from framemesh.settings import Settings
from framemesh.shares import FOLLOWS, Shares, make_way
from framemesh.subjects import Consumer
from framemesh.telemetry import STAGE_SECONDS, child_trace

if TYPE_CHECKING:  # a worker of sound needs no OpenCV, one of pictures no FFmpeg
    from framemesh.audio import Samples
    from framemesh.pictures import Image, Size

log = logging.getLogger(__name__)

LAST_BATCH_SECONDS = 1.5
IDLE = float("inf")
"""When a batch was begun, while there is none."""
SUSPECT_DELIVERIES = 2
"""A task that comes again may be what ended the worker that had it: it goes to the model alone."""
MOST_ATTEMPTS = 3
"""How often a process may end while it has a suspect. What only lay beside it there is not counted."""
SUSPECT_SECONDS = 3600.0

SKIPPED = Counter("framemesh_skipped_total", "What a model did not look at, by reason", ["model", "reason"])


class WorkerSettings(Settings):
    """Settings of every model worker."""

    batch_size: int = Field(1, ge=1, le=256, description="Most frames that the model is given at once")
    inference_threads: int = Field(
        1, ge=1, description="Threads of one inference; workers scale better than threads"
    )
    onnx_providers: list[str] = Field(
        [], description="ONNX Runtime providers in order; empty: cuda if there, else cpu"
    )
    inference_timeout: float = Field(
        60.0,
        gt=0,
        description="Seconds after which a model that gives no answer counts as hung and is started anew",
    )
    worker_memory_mb: int = Field(
        0, ge=0, description="Most memory of a worker in MiB before it is started anew; 0: half of the machine's"
    )


W = TypeVar("W", bound=WorkerSettings)
T = TypeVar("T", Task, AudioTask)


class ModelError(Exception):
    """What a model raised, in one line that says where; the stack is that of its cause."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Given among the findings: something that was not looked at, and why in a word or two."""

    reason: str
    count: int = 1


@dataclass
class Work(Generic[T]):
    """One task on its way through a worker."""

    envelope: Envelope[T]
    data: bytes
    places: asyncio.Semaphore
    timing: dict[str, float] = field(default_factory=dict)
    parts: list[tuple[Size, Box | None]] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    error: Exception | None = None
    done: bool = False
    attempts: int = 0
    """How often it was with a model that did not come back from it, this time included; counted of suspects."""
    settled: bool = False
    """Whether somebody has seen to its ack, its nak or its burial."""

    @property
    def task(self) -> T:
        """What is asked for."""
        return self.envelope.message

    @property
    def suspect(self) -> bool:
        """Whether it came before and was not finished."""
        return self.envelope.deliveries >= SUSPECT_DELIVERIES


class Worker(Service[W], Generic[W, T]):
    """A model as a service. Use ModelWorker for pictures and AudioWorker for sound.

    The model runs in one thread of the worker's own, so it needs no locks and the event loop stays free. The
    thread takes one batch after the other, and does not wait for the event loop in between. A model that raises
    fails its task; one that hangs or takes too much memory ends the worker, to be started again.
    """

    medium: ClassVar[Medium]
    task_type: type[T]
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Models that this worker can run, and the assets, or files by their path, that each needs."""
    chosen_by: ClassVar[str] = ""
    """The setting that chooses among them."""
    follows_sources: ClassVar[bool] = False
    """Whether all tasks of a source go to one replica, for a model that remembers what it has seen of it."""

    model_name: str = ""
    model_sha256: str = ""
    provider: str = "cpu"
    """What the model runs on; known once it is loaded."""

    @abstractmethod
    def load(self) -> None:
        """Load the weights. Raises FramemeshError when that is impossible."""

    @abstractmethod
    def infer(self, batch: list[Any]) -> Sequence[Any]:
        """Run the model on a batch; one output for each input."""

    async def refine(self, found: list[Found], task: T) -> list[Found]:
        """Change the findings with what others know, on the event loop, before they are published."""
        return found

    @abstractmethod
    def _read(self, work: Work[T]) -> None:
        """Decode what was fetched into ``work.inputs``."""

    @abstractmethod
    def _found(self, work: Work[T], outputs: list[Any]) -> Sequence[Found | Skipped]:
        """Turn the outputs of a work's inputs into findings."""

    # -- life ---------------------------------------------------------------------------------------

    def load_checked(self) -> None:
        """Load the model; where that names none, it has the name of its kind. Raises FramemeshError."""
        with blaming(f"{type(self).__name__} cannot be loaded"):
            self.load()
        self.model_name = self.model_name or self.kind

    async def prepare(self) -> None:
        """Load the model before the mesh is told that it is there."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._ready: queue.SimpleQueue[Work[T] | None] = queue.SimpleQueue()
        self._batch: list[Work[T]] = []
        self._begun = IDLE
        self._finished: list[Work[T]] = []
        self._publishing: set[asyncio.Task[None]] = set()
        self._blobs = BlobStore(self.settings.master_url)
        await self.bus.declare(subjects.RESULTS)
        guard.offer_to_the_kernel()
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._thread, self.load_checked)
        log.info("%s loaded, on %s", self.model_name, self.provider)

    async def run(self) -> None:
        """Work off live and lossless tasks until cancelled."""
        await self.bus.declare(*subjects.task_streams(self.kind, self.medium))
        await make_way(self.bus, self.registry, self.kind, self.medium, follows=self.follows_sources)
        async with guard.against_starving(), asyncio.TaskGroup() as group:
            if self.follows_sources:
                shares = Shares(self.bus, self.registry, self.kind, self.medium, self.instance)
                group.create_task(shares.run(self._fetching_source))
            else:
                for consumer in subjects.worker_consumers(self.kind, self.medium):
                    group.create_task(self._fetching(consumer))
            group.create_task(self._inferring())
            group.create_task(self._watching_memory())

    async def finish(self) -> None:
        """Let what has been inferred be published, and give back what has not been begun."""
        while not self._ready.empty():
            if work := self._ready.get_nowait():
                await work.envelope.nak(0.1)
        self._ready.put(None)
        if self._publishing:
            await asyncio.wait(self._publishing, timeout=1)
        await self._blobs.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def heartbeat(self) -> Heartbeat:
        """What this worker says of itself."""
        detail: dict[str, Any] = {"sha256": self.model_sha256, "batch_size": self.settings.batch_size}
        detail |= {"provider": self.provider, FOLLOWS: self.follows_sources}
        update = {"model": self.model_name, "takes": self.medium, "detail": detail}
        return super().heartbeat().model_copy(update=update)

    # -- fetch --------------------------------------------------------------------------------------

    async def _fetching_source(self, source: str) -> None:
        """Fetch the tasks of one source."""
        async with asyncio.TaskGroup() as group:
            for consumer in subjects.worker_consumers(self.kind, self.medium, source):
                group.create_task(self._fetching(consumer))

    async def _fetching(self, consumer: Consumer) -> None:
        """Fetch one batch ahead of the model and no more: a live frame that waits here grows old."""
        pull = await self.bus.pull(consumer, self.task_type, window=self.settings.batch_size)
        places = asyncio.Semaphore(2 * self.settings.batch_size)
        try:
            while True:
                await places.acquire()
                for envelope in await pull.batch(1):
                    await self._fetch_work(envelope, places)
        finally:
            await pull.stop()

    async def _fetch_work(self, envelope: Envelope[T], places: asyncio.Semaphore) -> None:
        begun = time.perf_counter()
        timing = {"queue": max(0.0, (time.time() - envelope.meta.stored_at) * 1000)}
        try:
            data = await self._blobs.get_patiently(envelope.message.url)
        except asyncio.CancelledError:
            await envelope.nak(0.1)  # for the replica that has the source now
            raise
        except BlobMissing as error:
            places.release()
            await self.bus.bury(envelope, f"{envelope.message.key} is gone: {error}", error)
        except BlobError as error:
            places.release()
            log.warning("%s", error)
            await envelope.nak(5)
        else:
            self._ready.put(Work(envelope, data, places, timing | {"fetch": _since(begun)}))

    # -- infer --------------------------------------------------------------------------------------

    async def _inferring(self) -> None:
        """Let the model's thread work, and see to it that it does not hang."""
        turns = self._loop.run_in_executor(self._thread, self._turns)
        timeout = self.settings.inference_timeout
        try:
            while not turns.done():
                await asyncio.wait([turns], timeout=min(1.0, timeout / 8))
                if time.monotonic() - self._begun > timeout:
                    await self._start_again(f"{self.model_name} gave no answer in {timeout:g} s")
            turns.result()
        except asyncio.CancelledError:
            # What is nearly done is worth a moment more than a redelivery.
            self._ready.put(None)
            await asyncio.wait([turns], timeout=LAST_BATCH_SECONDS)
            raise
        finally:
            self._hand_on(self._finished)
            self._hand_on(self._batch)

    def _turns(self) -> None:
        """One batch after the other, in the model's thread, until None comes."""
        while batch := self._next_batch():
            self._batch = batch
            if not (batch[0].suspect and self._is_fatal(batch[0])):
                self._begun = time.monotonic()
                self._work(batch)
            self._begun = IDLE
            self._hand_over()
            self._finished = batch
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the last batch to the event loop to publish, in the model's thread.

        Where a next batch is ready, that is when its inference begins, not before: decoding and publishing would
        wait for each other, as both need the interpreter; most models run without it.
        """
        if self._finished:
            self._loop.call_soon_threadsafe(self._hand_on, self._finished)
            self._finished = []

    def _is_fatal(self, work: Work[T]) -> bool:
        """Whether a suspect has ended workers, in the model's thread. What was done before is published first."""
        self._hand_over()
        return asyncio.run_coroutine_threadsafe(self._bury_fatal(work), self._loop).result()

    async def _bury_fatal(self, work: Work[T]) -> bool:
        """Move a suspect that has ended workers to the dead letters, instead of giving it to the model again."""
        work.attempts = await self.registry.attempt(work.task.task_key, SUSPECT_SECONDS)
        if work.attempts <= MOST_ATTEMPTS:
            return False
        for each in _unsettled([work]):
            each.places.release()
            await self._bury(each, f"the process of {self.model_name} ended {MOST_ATTEMPTS} times while it had it")
        return True

    async def _bury(self, work: Work[T], reason: str) -> None:
        await self.bus.bury(work.envelope, reason)
        await self.registry.survived(work.task.task_key)  # who mends the model may give it again

    async def _watching_memory(self) -> None:
        limit = self.settings.worker_memory_mb << 20 or guard.machine_memory() // 2
        used = await guard.until_over(limit)
        await self._start_again(
            f"{self.model_name} uses {used >> 20} MiB of memory, {limit >> 20} are allowed (worker_memory_mb)"
        )

    async def _start_again(self, reason: str) -> None:
        """Give up what the model is at. A task that did this before goes to the dead letters."""
        for work in _unsettled(self._batch):
            if work.attempts > 1:
                await self._bury(work, reason)
                continue
            if not work.suspect:
                await self.registry.attempt(work.task.task_key, SUSPECT_SECONDS)
            await work.envelope.nak(0.1)
        raise StartAgain(reason)

    def _next_batch(self) -> list[Work[T]]:
        """What is ready, as much as the model takes at once; of a camera only its newest frame."""
        ready = self._take_ready()
        newest = {work.task.source: work for work in ready if self._only_newest(work)}
        batch: list[Work[T]] = []
        for work in ready:
            if newest.get(work.task.source, work) is not work:
                self._loop.call_soon_threadsafe(self._supersede, work)
            elif self._fits(work, batch):
                batch.append(work)
            else:
                self._ready.put(work)
        return batch

    def _take_ready(self) -> list[Work[T]]:
        """Wait for work, and take all that there is; nothing when it is over."""
        if self._ready.empty():
            self._hand_over()
        found = [self._ready.get()]
        while not self._ready.empty():
            found.append(self._ready.get_nowait())
        ready = [work for work in found if work]
        if len(ready) == len(found):
            return ready
        for work in ready:
            self._ready.put(work)  # to be given back
        return []

    def _supersede(self, work: Work[T]) -> None:
        """As the queue itself would have done with an older frame."""
        work.places.release()
        self._later(work.envelope.ack())

    def _only_newest(self, work: Work[T]) -> bool:
        """A missed word is missed; a missed frame is like the next one."""
        return self.medium is Medium.FRAME and work.task.delivery is Delivery.LIVE

    def _fits(self, work: Work[T], batch: list[Work[T]]) -> bool:
        alone = work.suspect or any(other.suspect for other in batch)
        return len(batch) < (1 if alone else self.settings.batch_size)

    def _hand_on(self, batch: list[Work[T]]) -> None:
        for work in _unsettled(batch):
            work.places.release()
            if work.suspect:
                self._later(self.registry.survived(work.task.task_key))
            self._later(self._publish(work) if work.done else work.envelope.nak(0.1))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    def _work(self, batch: list[Work[T]]) -> None:
        try:
            self._work_together(batch)
        except (Exception, SystemExit) as error:  # whatever a model raises is the task's failure, not the worker's
            if len(batch) == 1:
                batch[0].error, batch[0].done = _blamed(error), True
                return
            for work in batch:
                self._work([work])

    def _work_together(self, batch: list[Work[T]]) -> None:
        for work in batch:
            self._read(work)
        inputs = [each for work in batch for each in work.inputs]
        self._hand_over()
        begun = time.perf_counter()
        outputs = self.infer(inputs)
        spent = _since(begun) / len(batch)
        if len(outputs) != len(inputs):
            raise Reject(f"infer of {self.model_name} gave {len(outputs)} outputs for {len(inputs)} inputs")
        each = iter(outputs)
        for work in batch:
            work.timing["infer"] = spent
            begun = time.perf_counter()
            self._keep(work, self._found(work, list(islice(each, len(work.inputs)))))
            work.timing["postprocess"] = _since(begun)
            work.done = True

    def _keep(self, work: Work[T], given: Sequence[Found | Skipped]) -> None:
        work.found, work.skipped = [], {}
        for item in given:
            if isinstance(item, Skipped):
                work.skipped[item.reason] = work.skipped.get(item.reason, 0) + item.count
            else:
                work.found.append(item)

    # -- publish ------------------------------------------------------------------------------------

    async def _publish(self, work: Work[T]) -> None:
        async with self.bus.settling(work.envelope):
            if work.error:
                raise work.error
            found = await self.refine(work.found, work.task)
            for stage, milliseconds in work.timing.items():
                STAGE_SECONDS.labels(self.kind, stage).observe(milliseconds / 1000)
            for reason, count in work.skipped.items():
                SKIPPED.labels(self.kind, reason).inc(count)
            await self.bus.publish(
                subjects.results(self.kind, work.task.source),
                self._result(work, found),
                msg_id=work.task.task_key,
                trace=child_trace(work.envelope.trace),
            )

    def _result(self, work: Work[T], found: list[Found]) -> Result:
        timing = work.timing | {"latency": max(0.0, (time.time() - work.task.captured_at) * 1000)}
        return Result.of(
            work.task,
            result=found[:MOST_FOUND],
            skipped=work.skipped,
            timing_ms={name: round(value, 2) for name, value in timing.items()},
            model_name=self.model_name,
            model_sha256=self.model_sha256,
        )


class ModelWorker(Worker[W, Task], Generic[W]):
    """A model that looks at frames: ``load``, ``preprocess``, ``infer``, ``postprocess``, and a kind."""

    medium = Medium.FRAME
    task_type = Task
    min_size: int = 0
    """Shorter side in pixels that the model makes use of; larger frames are decoded smaller. 0: always in full."""

    @abstractmethod
    def preprocess(self, image: Image) -> Any:
        """Turn a BGR picture (height x width x 3, uint8) into what ``infer`` takes."""

    @abstractmethod
    def postprocess(self, output: Any, height: int, width: int) -> Sequence[Found | Skipped]:
        """Turn one output into findings, boxes in pixels of the ``height`` x ``width`` picture."""

    def track(self, found: list[Found | Skipped], task: Task) -> Sequence[Found | Skipped]:
        """Make one story of the findings of a source's frames, in the order in which this worker gets them."""
        return found

    def _read(self, work: Work[Task]) -> None:
        from framemesh import pictures  # noqa: PLC0415 - needs OpenCV

        begun = time.perf_counter()
        task = work.task
        image = pictures.decode(work.data, self.min_size, (task.height, task.width))
        parts = pictures.crops(image, task)
        work.timing["decode"] = _since(begun)
        begun = time.perf_counter()
        work.parts = [(cast("Size", crop.shape[:2]), box) for crop, box in parts]
        work.inputs = [self.preprocess(crop) for crop, _ in parts]
        work.timing["preprocess"] = _since(begun)

    def _found(self, work: Work[Task], outputs: list[Any]) -> Sequence[Found | Skipped]:
        from framemesh.pictures import placed  # noqa: PLC0415 - needs OpenCV

        return self.track(
            [
                placed(item, size, box, work.task, region)
                for region, (output, (size, box)) in enumerate(zip(outputs, work.parts, strict=True))
                for item in self.postprocess(output, *size)
            ],
            work.task,
        )


class AudioWorker(Worker[W, AudioTask], Generic[W]):
    """A model that listens to audio windows: ``load``, ``preprocess``, ``infer``, ``postprocess``, and a kind."""

    medium = Medium.AUDIO
    task_type = AudioTask

    @abstractmethod
    def preprocess(self, samples: Samples, task: AudioTask) -> Any:
        """Turn sound (float32 [n], 16 kHz, mono, -1 to 1) into what ``infer`` takes."""

    @abstractmethod
    def postprocess(self, output: Any, task: AudioTask) -> Sequence[Found | Skipped]:
        """Turn one output into findings; times are seconds since the epoch."""

    def _read(self, work: Work[AudioTask]) -> None:
        from framemesh import audio  # noqa: PLC0415 - needs NumPy, and FFmpeg for what others send

        begun = time.perf_counter()
        samples = audio.decode(work.data)
        work.timing["decode"] = _since(begun)
        begun = time.perf_counter()
        work.inputs = [self.preprocess(samples, work.task)]
        work.timing["preprocess"] = _since(begun)

    def _found(self, work: Work[AudioTask], outputs: list[Any]) -> Sequence[Found | Skipped]:
        return [item for output in outputs for item in self.postprocess(output, work.task)]


def _unsettled(batch: list[Work[T]]) -> list[Work[T]]:
    """Those that nobody has seen to, as the caller does now."""
    left = [work for work in batch if not work.settled]
    for work in left:
        work.settled = True
    return left


def _blamed(error: Exception | SystemExit) -> Exception:
    """The error of a task: as it is where it was raised for those who read it, else with the place of it."""
    if isinstance(error, Reject | Retry | FramemeshError):
        return error
    failed = ModelError(told(error))
    failed.__cause__ = error
    return failed


def _since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000
