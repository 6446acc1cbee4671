"""A worker of pictures in this process, on real servers: what is published when the model stops in the middle."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from framemesh import guard, subjects
from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.errors import StartAgain, inside
from framemesh.inference import ModelWorker, WorkerSettings
from framemesh.messages import Delivery, Finding, Found, Result, Task
from framemesh.pictures import Image
from framemesh.registry import Registry
from services.reader import jpeg
from tests.samples import task, until

WHITE, BLACK = 255, 0


class Stops(ModelWorker[WorkerSettings]):
    """Stops at black pictures, where it is told to, until it is let go."""

    settings_type = WorkerSettings
    where = "preprocess"

    def load(self) -> None:
        self.stopped, self.let_go = threading.Event(), threading.Event()

    def preprocess(self, image: Image) -> Any:
        self._stop("preprocess", float(image.mean()))
        return float(image.mean())

    def infer(self, batch: list[Any]) -> Sequence[Any]:
        self._stop("infer", min(batch))
        time.sleep(0.2)  # meanwhile the next one is fetched
        return batch

    def postprocess(self, output: Any, height: int, width: int) -> Sequence[Found]:
        return [Finding(kind="mean", data={"mean": output})]

    def _stop(self, where: str, mean: float) -> None:
        if where == self.where and mean < WHITE / 2:
            self.stopped.set()
            self.let_go.wait(30)


@pytest.fixture
def makes(
    bus: Bus, registry: Registry, servers: Mapping[str, str], model: str, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Makes a worker in this process, which the kernel need not end first."""
    monkeypatch.setattr(guard, "offer_to_the_kernel", lambda: None)

    def make(*, follows: bool = False, **settings: Any) -> Stops:
        kind: type[Stops] = type("Kind", (Stops,), {"kind": model, "follows_sources": follows})
        return kind(WorkerSettings(master_url=servers["master_url"], **settings), bus, registry)

    return make


@asynccontextmanager
async def working(worker: Stops) -> AsyncIterator[asyncio.Task[None]]:
    await worker.prepare()
    run = asyncio.create_task(worker.run())
    try:
        yield run
    finally:
        while not run.done():  # Python 3.11's wait_for may swallow a cancellation that comes with its answer
            run.cancel()
            await asyncio.wait([run], timeout=3)
        await worker.finish()
        worker.let_go.set()


async def ask(bus: Bus, blobs: BlobStore, model: str, source: str, *shades: int) -> None:
    """A lossless task for a picture of each shade."""
    for seq, shade in enumerate(shades):
        url = await blobs.put(jpeg.encode_bgr(np.full((48, 64, 3), shade, np.uint8), 90))
        about = {"url": url, "width": 64, "height": 48, "delivery": Delivery.LOSSLESS}
        asked = Task.model_validate(task(source, model, seq).model_dump() | about)
        await bus.publish(subjects.tasks(model, source, lossless=True), asked, msg_id=asked.task_key)


async def told(bus: Bus, model: str, source: str) -> list[int]:
    read = bus.read(subjects.RESULTS.name, subjects.results(model, source), 1, Result)
    return [stored.message.seq async for stored in read]


async def stopped(worker: Stops) -> bool:
    return worker.stopped.is_set()


async def holds(worker: Stops) -> bool:
    """Whether the model has stopped at a picture, and another one is fetched."""
    return worker.stopped.is_set() and not worker._ready.empty()


async def left(bus: Bus, model: str) -> int:
    info = await bus.stream_info(subjects.task_stream(model, lossless=True))
    return info.state.messages if info else -1


@pytest.mark.parametrize("where", ["preprocess", "infer"])
async def test_what_is_done_is_published_though_the_next_hangs(
    makes: Any, bus: Bus, blobs: BlobStore, model: str, source: str, where: str
) -> None:
    worker = makes(inference_timeout=1)
    worker.where = where
    async with working(worker) as run:
        await ask(bus, blobs, model, source, WHITE, BLACK, WHITE)
        with pytest.raises(ExceptionGroup) as raised:
            await run
        assert "gave no answer in 1 s" in str(inside(raised.value, StartAgain))
    assert await told(bus, model, source) == [0]
    assert await left(bus, model) == 2  # to be tried again


async def test_a_result_waits_for_no_other_task(
    makes: Any, bus: Bus, blobs: BlobStore, model: str, source: str
) -> None:
    async with working(makes()):
        for number in range(1, 4):
            await ask(bus, blobs, model, f"{source}-{number}", WHITE)
            assert await until(partial(told, bus, model, f"{source}-{number}")) == [0]
        assert await left(bus, model) == 0


async def test_a_result_is_published_while_the_next_is_inferred(
    makes: Any, bus: Bus, blobs: BlobStore, model: str, source: str
) -> None:
    worker = makes()
    worker.where = "infer"
    async with working(worker):
        await ask(bus, blobs, model, source, WHITE, BLACK)
        await until(partial(stopped, worker))
        assert await until(partial(told, bus, model, source), within=3) == [0]
        worker.let_go.set()


async def test_a_worker_that_ends_finishes_its_batch_and_gives_back_the_rest(
    makes: Any, bus: Bus, blobs: BlobStore, model: str, source: str
) -> None:
    worker = makes()
    async with working(worker) as run:
        await ask(bus, blobs, model, source, BLACK, WHITE, WHITE)
        await until(partial(holds, worker))
        run.cancel()
        await asyncio.sleep(0.2)
        worker.let_go.set()
    assert await until(lambda: told(bus, model, source)) == [0]
    async with working(makes()):  # long before the ack wait of what it held is over
        assert await until(lambda: all_of(bus, model, source, 3), within=5) == [0, 1, 2]


async def test_a_worker_that_ends_gives_back_what_its_model_hangs_on(
    makes: Any, bus: Bus, blobs: BlobStore, model: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framemesh.inference.LAST_BATCH_SECONDS", 0.2)
    worker, other = makes(), makes()
    other.where = "nowhere"
    async with working(worker) as run:
        await ask(bus, blobs, model, source, BLACK)
        await until(partial(stopped, worker))
        run.cancel()
        await asyncio.wait([run])
        async with working(other):
            assert await until(partial(told, bus, model, source), within=5) == [0]


@pytest.mark.parametrize("follows", [False, True])
async def test_a_model_may_begin_to_follow_its_sources_and_cease_to(
    makes: Any,
    bus: Bus,
    blobs: BlobStore,
    registry: Registry,
    model: str,
    source: str,
    follows: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A queue's consumers may not overlap: those of the way before go when no worker of it lives any more."""
    before, after = makes(follows=follows, instance="before"), makes(follows=not follows, instance="after")
    async with working(before):
        await ask(bus, blobs, model, source, WHITE)
        assert await until(partial(told, bus, model, source)) == [0]
    alive = asyncio.create_task(registry.beating(before.heartbeat()))
    async with working(after) as run:
        await ask(bus, blobs, model, f"{source}-2", WHITE)
        await asyncio.sleep(1)
        assert not run.done()
        assert await told(bus, model, f"{source}-2") == []
        [said] = [line for line in caplog.messages if "waits" in line]
        assert "before" in said
        alive.cancel()
        assert await until(partial(told, bus, model, f"{source}-2")) == [0]


async def all_of(bus: Bus, model: str, source: str, count: int) -> list[int]:
    found = sorted(await told(bus, model, source))
    return found if len(found) == count else []
