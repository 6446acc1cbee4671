"""The base of every model worker: pull, fetch, decode, infer in micro-batches, publish, ack."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pydantic import Field

from framemesh import subjects
from framemesh.blobs import BlobError, BlobMissing, BlobStore
from framemesh.bus import Reject
from framemesh.messages import MOST_FOUND, Box, Classification, Delivery, Detection, Heartbeat, Result, Task
from framemesh.pull import Envelope, Pull
from framemesh.service import Service
from framemesh.settings import Settings
from framemesh.telemetry import STAGE_SECONDS, child_trace

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]
"""A picture: BGR, uint8, height x width x 3."""
Found = Detection | Classification

LAST_BATCH_SECONDS = 1.5
MAX_PIXELS = 64 << 20


class WorkerSettings(Settings):
    """Settings of every model worker."""

    batch_size: int = Field(1, ge=1, le=256, description="Most frames that the model is given at once")
    inference_threads: int = Field(
        1, ge=1, description="Threads of one inference; workers scale better than threads"
    )
    onnx_providers: list[str] = Field([], description="ONNX Runtime providers in order; empty: the best there are")


W = TypeVar("W", bound=WorkerSettings)


@dataclass
class Work:
    """One task on its way through a worker."""

    envelope: Envelope[Task]
    jpeg: bytes
    places: asyncio.Semaphore
    timing: dict[str, float] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)
    error: Exception | None = None
    done: bool = False

    @property
    def task(self) -> Task:
        """What is asked for."""
        return self.envelope.message


class ModelWorker(Service[W], Generic[W]):
    """A model as a service: ``load``, ``preprocess``, ``infer``, ``postprocess``, and a kind.

    The four run in one thread of the worker's own, so a model needs no locks and the event loop stays free.
    """

    model_name: str = ""
    model_sha256: str = ""
    min_size: int = 0
    """Shorter side in pixels that the model makes use of; larger frames are decoded smaller. 0: always in full."""

    @abstractmethod
    def load(self) -> None:
        """Load the weights. Raises FramemeshError when that is impossible."""

    @abstractmethod
    def preprocess(self, image: Image) -> Any:
        """Turn a BGR picture (height x width x 3, uint8) into what ``infer`` takes."""

    @abstractmethod
    def infer(self, batch: list[Any]) -> Sequence[Any]:
        """Run the model on a batch; one output for each input."""

    @abstractmethod
    def postprocess(self, output: Any, height: int, width: int) -> Sequence[Found]:
        """Turn one output into findings, boxes in pixels of the ``height`` x ``width`` picture."""

    # -- life ---------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Load the model before the mesh is told that it is there."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._ready: asyncio.Queue[Work] = asyncio.Queue()
        self._publishing: set[asyncio.Task[None]] = set()
        self._blobs = BlobStore(self.settings.master_url)
        await self.bus.declare(subjects.RESULTS)
        await asyncio.get_running_loop().run_in_executor(self._thread, self.load)
        log.info("%s loaded", self.model_name)

    async def run(self) -> None:
        """Work off live and lossless tasks until cancelled."""
        consumers = subjects.worker_consumers(self.kind)
        pulls = [await self.bus.pull(consumer, Task, window=self.settings.batch_size) for consumer in consumers]
        async with asyncio.TaskGroup() as group:
            for pull in pulls:
                group.create_task(self._fetching(pull))
            group.create_task(self._inferring())

    async def finish(self) -> None:
        """Let what has been inferred be published, and give back what has not been begun."""
        while not self._ready.empty():
            await self._ready.get_nowait().envelope.nak(0.1)
        if self._publishing:
            await asyncio.wait(self._publishing, timeout=1)
        await self._blobs.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def heartbeat(self) -> Heartbeat:
        """What this worker says of itself."""
        detail = {"sha256": self.model_sha256, "batch_size": self.settings.batch_size}
        return super().heartbeat().model_copy(update={"model": self.model_name, "detail": detail})

    # -- fetch --------------------------------------------------------------------------------------

    async def _fetching(self, pull: Pull[Task]) -> None:
        """Fetch one batch ahead of the model and no more: a live frame that waits here grows old."""
        places = asyncio.Semaphore(2 * self.settings.batch_size)
        while True:
            await places.acquire()
            for envelope in await pull.batch(1):
                await self._fetch_work(envelope, places)

    async def _fetch_work(self, envelope: Envelope[Task], places: asyncio.Semaphore) -> None:
        begun = time.perf_counter()
        timing = {"queue": max(0.0, (time.time() - envelope.meta.stored_at) * 1000)}
        try:
            jpeg = await self._blobs.get_patiently(envelope.message.url)
        except BlobMissing as error:
            places.release()
            await self.bus.bury(envelope, f"frame {envelope.message.frame_id} is gone: {error}", error)
        except BlobError as error:
            places.release()
            log.warning("%s", error)
            await envelope.nak(5)
        else:
            self._ready.put_nowait(Work(envelope, jpeg, places, timing | {"fetch": _since(begun)}))

    # -- infer --------------------------------------------------------------------------------------

    async def _inferring(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            inference = loop.run_in_executor(self._thread, self._work, batch)
            try:
                await asyncio.shield(inference)
            except asyncio.CancelledError:
                # What is nearly done is worth a moment more than a redelivery.
                await asyncio.wait([inference], timeout=LAST_BATCH_SECONDS)
                raise
            finally:
                self._hand_on(batch)

    async def _next_batch(self) -> list[Work]:
        """What is ready, as much as the model takes at once; of a live source only its newest frame."""
        ready = [await self._ready.get()]
        while not self._ready.empty():
            ready.append(self._ready.get_nowait())
        newest = {work.task.source: work for work in ready if work.task.delivery is Delivery.LIVE}
        batch: list[Work] = []
        for work in ready:
            if newest.get(work.task.source, work) is not work:
                work.places.release()
                await work.envelope.ack()  # superseded, as the queue itself would have done
            elif len(batch) < self.settings.batch_size:
                batch.append(work)
            else:
                self._ready.put_nowait(work)
        return batch

    def _hand_on(self, batch: list[Work]) -> None:
        for work in batch:
            work.places.release()
            task = asyncio.create_task(self._publish(work) if work.done else work.envelope.nak(0.1))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    def _work(self, batch: list[Work]) -> None:
        try:
            self._work_together(batch)
        except Exception as error:  # whatever a model raises is the task's failure, not the worker's
            if len(batch) == 1:
                batch[0].error, batch[0].done = error, True
                return
            for work in batch:
                self._work([work])

    def _work_together(self, batch: list[Work]) -> None:
        inputs: list[Any] = []
        regions: list[list[tuple[Image, Box | None]]] = []
        for work in batch:
            begun = time.perf_counter()
            image = decode(work.jpeg, self.min_size)
            regions.append(crops(image, work.task))
            work.timing["decode"] = _since(begun)
            begun = time.perf_counter()
            inputs += [self.preprocess(crop) for crop, _ in regions[-1]]
            work.timing["preprocess"] = _since(begun)
        begun = time.perf_counter()
        outputs = iter(self.infer(inputs))
        spent = _since(begun) / len(batch)
        for work, parts in zip(batch, regions, strict=True):
            work.timing["infer"] = spent
            begun = time.perf_counter()
            work.found = [
                found
                for index, (crop, box) in enumerate(parts)
                for found in self._findings(next(outputs), crop, box, index, work.task)
            ]
            work.timing["postprocess"] = _since(begun)
            work.done = True

    def _findings(self, output: Any, crop: Image, box: Box | None, index: int, task: Task) -> list[Found]:
        height, width = crop.shape[:2]
        found = self.postprocess(output, height, width)
        if box is None:
            return [_scaled(item, task.width / width, task.height / height, 0, 0) for item in found]
        x1, y1, x2, y2 = box
        placed = (_scaled(item, (x2 - x1) / width, (y2 - y1) / height, x1, y1) for item in found)
        return [
            item.model_copy(update={"region": index}) if isinstance(item, Classification) else item
            for item in placed
        ]

    # -- publish ------------------------------------------------------------------------------------

    async def _publish(self, work: Work) -> None:
        async with self.bus.settling(work.envelope):
            if work.error:
                raise work.error
            for stage, milliseconds in work.timing.items():
                STAGE_SECONDS.labels(self.kind, stage).observe(milliseconds / 1000)
            task = work.task
            await self.bus.publish(
                subjects.results(self.kind, task.source),
                self._result(work),
                msg_id=task.task_key,
                trace=child_trace(work.envelope.trace),
            )

    def _result(self, work: Work) -> Result:
        task = work.task
        timing = work.timing | {"latency": max(0.0, (time.time() - task.captured_at) * 1000)}
        return Result(
            model=self.kind,
            source=task.source,
            run=task.run,
            seq=task.seq,
            frame_id=task.frame_id,
            timestamp=task.timestamp,
            frame_url=task.url,
            result=work.found[:MOST_FOUND],
            timing_ms={name: round(value, 2) for name, value in timing.items()},
            delivery=task.delivery,
            stride=task.stride,
            captured_at=task.captured_at,
            width=task.width,
            height=task.height,
            model_name=self.model_name,
            model_sha256=self.model_sha256,
            regions=task.regions,
        )


def decode(jpeg: bytes, min_size: int = 0) -> Image:
    """Decode a JPEG to BGR, uint8, height x width x 3. Raises Reject for what is none.

    With ``min_size``, a larger picture is decoded at half or a quarter of its size, for a third of the time, as
    long as its shorter side keeps that many pixels.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
        if height * width > MAX_PIXELS:  # a few kilobytes can claim gigabytes
            raise Reject(f"the frame has {width}x{height} pixels; at most {MAX_PIXELS >> 20} million are decoded")
        factor = _reduction(min(height, width), min_size)
        if factor == 1:
            return np.asarray(simplejpeg.decode_jpeg(jpeg, colorspace="BGR"))
        image = simplejpeg.decode_jpeg(
            jpeg, colorspace="BGR", min_height=height // factor, min_width=width // factor
        )
    except ValueError as error:
        raise Reject(f"the frame is not a JPEG that can be read: {error}") from error
    return np.asarray(image)


def _reduction(shorter: int, min_size: int) -> int:
    if not min_size:
        return 1
    return next((factor for factor in (4, 2) if shorter // factor >= min_size), 1)


def crops(image: Image, task: Task) -> list[tuple[Image, Box | None]]:
    """The parts of a decoded picture that a task asks for, each with its box in pixels of the frame.

    The box is that of the crop: whole pixels of the picture, inside of it.
    """
    if task.regions is None:
        return [(image, None)]
    scale_x, scale_y = image.shape[1] / task.width, image.shape[0] / task.height
    return [_crop(image, box, scale_x, scale_y) for box in task.regions]


def _crop(image: Image, box: Box, scale_x: float, scale_y: float) -> tuple[Image, Box]:
    height, width = image.shape[:2]
    left = min(max(int(box[0] * scale_x), 0), width - 1)
    top = min(max(int(box[1] * scale_y), 0), height - 1)
    right = min(max(int(box[2] * scale_x), left + 1), width)
    bottom = min(max(int(box[3] * scale_y), top + 1), height)
    cut = (left / scale_x, top / scale_y, right / scale_x, bottom / scale_y)
    return image[top:bottom, left:right], cut


def _scaled(item: Found, scale_x: float, scale_y: float, left: float, top: float) -> Found:
    if isinstance(item, Classification) or (scale_x == scale_y == 1 and left == top == 0):
        return item
    x1, y1, x2, y2 = item.box
    box = (left + x1 * scale_x, top + y1 * scale_y, left + x2 * scale_x, top + y2 * scale_y)
    return item.model_copy(update={"box": box})


def _since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000


cv2.setNumThreads(1)  # a worker is one core's work; more workers use more cores
