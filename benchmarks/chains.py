"""Chains of three steps that do nothing, against Celery on Redis, in one run: ``make bench``.

- Celery: ``chain`` of three tasks, acks late, a prefork pool of that many processes, broker and results in a Redis
  of its own.
- Framemesh: plans of three steps, as many worker processes, state and steps on a file-backed JetStream.

Both are up all the time and take turns, for some tenths of a second each, as the speed of a machine that others
share changes. Each keeps the same number of chains under way. Latency is one chain at a time, from its submission
until the one who submitted it knows that it is done. Overhead is a third of that of a chain.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
from nats.aio.msg import Msg

from benchmarks.meshes import temporary_mesh
from framemesh import subjects
from framemesh.bus import Bus
from framemesh.embedded import RedisServer, choose_ports
from framemesh.registry import connect as connect_redis
from framemesh.steps.client import Jobs
from framemesh.steps.job import new_id
from framemesh.steps.plan import Plan
from framemesh.terminal import run_until

STEPS = 3
ALONE = 40
"""Chains one at a time in each turn."""
FEWER = 8
"""Celery gets so many times fewer chains, that the turns of both take as long."""
WARM_UP = 200
PLAN = Plan.model_validate(
    {
        "name": "chain",
        "steps": {
            "a": {"function": "noop", "input": {"n": "$input.n"}},
            "b": {"function": "noop", "after": ["a"], "input": {"n": "$steps.a.n"}},
            "c": {"function": "noop", "after": ["b"], "input": {"n": "$steps.b.n"}},
        },
    }
)


class Side(Protocol):
    """One of the two that are compared."""

    async def alone(self, count: int) -> list[float]:
        """So many chains one after the other: the seconds of each."""

    async def many(self, count: int, under_way: int) -> float:
        """So many chains, ``under_way`` at a time: the seconds that all took."""


@dataclass
class Taken:
    """What one side took in all its turns."""

    chains: int = 0
    seconds: float = 0.0
    alone: list[float] = field(default_factory=list)

    async def turn(self, side: Side, chains: int, under_way: int) -> float:
        """One more turn; its chains a second."""
        self.alone += await side.alone(ALONE)
        seconds = await side.many(chains, under_way)
        self.chains += chains
        self.seconds += seconds
        return chains / seconds

    @property
    def pace(self) -> Pace:
        """All in all."""
        cuts = statistics.quantiles(self.alone, n=100)
        per_second, median = self.chains / self.seconds, statistics.median(self.alone)
        return Pace(round(per_second, 1), round(1000 * median, 2), round(1000 * cuts[98], 2))


@dataclass(frozen=True)
class Pace:
    """Chains a second, and the latency of one by itself, milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


# -- Celery -------------------------------------------------------------------------------------------


@contextmanager
def celery_worker(redis: str, processes: int, folder: Path) -> Iterator[None]:
    """A worker with a pool of that many processes."""
    log = (folder / "celery.log").open("w")
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_noop", "worker"]
    worker = subprocess.Popen(
        [*command, "-c", str(processes), "--loglevel", "WARNING", "--without-gossip", "--without-mingle"],
        env=os.environ | {"CELERY_REDIS": redis, "C_FORCE_ROOT": "1"},
        stdout=log,
        stderr=log,
    )
    try:
        yield
    finally:
        children = psutil.Process(worker.pid).children(recursive=True)
        worker.terminate()
        worker.wait(20)
        for child in children:
            if child.is_running():
                child.kill()
        log.close()


class CeleryDriver:
    """Submits chains and waits for them; its settings come from the environment."""

    def __init__(self) -> None:
        from celery import chain  # noqa: PLC0415

        from benchmarks.celery_noop import app, noop  # noqa: PLC0415

        self._submit: Callable[[int], Any] = lambda number: chain(noop.s(number), noop.s(), noop.s()).apply_async()
        while not app.control.ping(timeout=0.5):  # what is sent before it is up may never come back
            continue

    def _wait(self, chained: Any) -> None:
        """Of some ten thousand results one is never heard of, though it is there: so look after a while."""
        from celery.exceptions import TimeoutError as Late  # noqa: PLC0415

        while True:
            try:
                chained.get(timeout=0.2)
            except Late:
                if chained.backend.get_state(chained.id) != "SUCCESS":
                    continue
            return

    def alone(self, count: int) -> list[float]:
        """As ``Side``."""
        taken = []
        for number in range(count):
            begun = time.perf_counter()
            self._wait(self._submit(number))
            taken.append(time.perf_counter() - begun)
        return taken

    def many(self, count: int, under_way: int) -> float:
        """As ``Side``."""
        waiting: list[Any] = []
        begun = time.perf_counter()
        for number in range(count):
            if len(waiting) >= under_way:
                self._wait(waiting.pop(0))
            waiting.append(self._submit(number))
        for each in waiting:
            self._wait(each)
        return time.perf_counter() - begun

    def serve(self) -> None:
        """Do what the lines of the input say, and print what it took."""
        self.many(WARM_UP // FEWER, WARM_UP // FEWER)
        for asked in sys.stdin:
            count, under_way = json.loads(asked)
            print(json.dumps(self.many(count, under_way) if under_way else self.alone(count)), flush=True)


class Celery:
    """Celery, driven by a process of its own."""

    def __init__(self, driver: asyncio.subprocess.Process) -> None:
        self._driver = driver

    async def alone(self, count: int) -> list[float]:
        """As ``Side``."""
        found: list[float] = await self._ask(count, 0)
        return found

    async def many(self, count: int, under_way: int) -> float:
        """As ``Side``."""
        return float(await self._ask(count, under_way))

    async def _ask(self, count: int, under_way: int) -> Any:
        assert self._driver.stdin and self._driver.stdout
        self._driver.stdin.write(json.dumps([count, under_way]).encode() + b"\n")
        return json.loads(await self._driver.stdout.readline())


@asynccontextmanager
async def celery(processes: int) -> AsyncIterator[Celery]:
    """A Redis, a worker and a driver."""
    folder = Path(tempfile.mkdtemp(prefix="framemesh-bench-"))
    server = RedisServer(folder, choose_ports({}, {}))
    await server.start()
    try:
        await server.ready()
        address = f"redis://127.0.0.1:{server.environment()['redis_port']}/0"
        with celery_worker(address, processes, folder):
            driver = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.chains", "--celery-driver"),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"CELERY_REDIS": address},
            )  # fmt: skip
            assert driver.stdin
            try:
                yield Celery(driver)
            finally:
                driver.stdin.close()
                await driver.wait()
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


# -- Framemesh ----------------------------------------------------------------------------------------


class Ends:
    """Which jobs have ended, as everybody can hear it."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def expect(self, job_id: str) -> asyncio.Future[None]:
        """Done when the job is."""
        self._waiting[job_id] = asyncio.get_running_loop().create_future()
        return self._waiting[job_id]

    def hear(self, msg: Msg) -> None:
        """Take in an update."""
        job_id = msg.subject.rpartition(".")[2]
        if job_id in self._waiting and b'"status":"done","steps":' in msg.data:
            self._waiting.pop(job_id).set_result(None)


class Framemesh:
    """Chains through the workers of a mesh."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._ends = Ends()
        self._submitted = 0

    async def begin(self, bus: Bus) -> None:
        """Hear what ends, and warm up."""
        await bus.client.listen(subjects.job_updates(), self._ends.hear)
        await self.many(WARM_UP, WARM_UP // 4)

    async def _chain(self) -> None:
        self._submitted += 1
        key, number = str(self._submitted), self._submitted
        ended = self._ends.expect(new_id("bench", key))
        await self._jobs.submit(PLAN, {"n": number}, owner="bench", key=key)
        await ended

    async def alone(self, count: int) -> list[float]:
        """As ``Side``."""
        taken = []
        for _ in range(count):
            begun = time.perf_counter()
            await self._chain()
            taken.append(time.perf_counter() - begun)
        return taken

    async def many(self, count: int, under_way: int) -> float:
        """As ``Side``."""
        free = asyncio.Semaphore(under_way)

        async def one() -> None:
            try:
                await self._chain()
            finally:
                free.release()

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                await free.acquire()
                group.create_task(one())
        return time.perf_counter() - begun


@asynccontextmanager
async def working(processes: int) -> AsyncIterator[tuple[Bus, Jobs]]:
    """A mesh with so many workers."""
    async with temporary_mesh() as mesh:
        await mesh.start_servers()
        for number in range(processes):
            settings = {"step_concurrency": "32"}
            await mesh.start_service("benchmarks.noop", settings, label=f"noop-{number}")
        found = mesh.environment()
        bus = await Bus.connect(found["nats_host"], "bench")
        redis = await connect_redis(found["redis_host"], int(found["redis_port"]))
        jobs = Jobs(bus, redis)
        await jobs.store.declare()
        while "noop" not in await jobs.functions.all():
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)  # until the last of them is up
        try:
            yield bus, jobs
        finally:
            await redis.aclose()
            await bus.close()


# -- both ---------------------------------------------------------------------------------------------


async def compare(
    chains: int, under_way: int, processes: int, turns: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Turn by turn."""
    ours, theirs, ratios = Taken(), Taken(), list[float]()
    async with celery(processes) as their_side, working(processes) as (bus, jobs):
        our_side = Framemesh(jobs)
        await our_side.begin(bus)
        for turn in range(1, turns + 1):
            their_pace = await theirs.turn(their_side, max(1, chains // turns // FEWER), under_way)
            our_pace = await ours.turn(our_side, chains // turns, under_way)
            ratios.append(our_pace / their_pace)
            tell(f"turn {turn:>2}: Celery {their_pace:>7.1f}, Framemesh {our_pace:>7.1f} chains a second")
    paces = {"Celery": theirs.pace, "Framemesh": ours.pace}
    return {
        "paces": {name: asdict(pace) for name, pace in paces.items()},
        "throughput_ratio": round(ours.pace.per_second / theirs.pace.per_second, 2),
        "lowest_ratio": round(min(ratios), 2),
        "highest_ratio": round(max(ratios), 2),
        "latency_share": round(ours.pace.p50_ms / theirs.pace.p50_ms, 2),
        "step_overhead_ms": round(ours.pace.p50_ms / STEPS, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--chains", type=int, default=8000, help="chains through Framemesh; an eighth through Celery"
    )
    parser.add_argument("--under-way", type=int, default=48, help="chains under way at a time")
    parser.add_argument("--processes", type=int, default=2, help="worker processes on either side")
    parser.add_argument("--turns", type=int, default=10, help="turns that each of the two takes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--celery-driver", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.celery_driver:
        CeleryDriver().serve()
        return

    def tell(text: str) -> None:
        if not asked.json:
            print(text, flush=True)

    found = run_until(compare(asked.chains, asked.under_way, asked.processes, asked.turns, tell))
    if asked.json:
        print(json.dumps({"cpus": psutil.cpu_count(), **found}))
        return
    print(f"\n{'':<14}{'chains/s':>10}{'p50 ms':>12}{'p99 ms':>12}")
    for name, pace in found["paces"].items():
        print(f"{name:<14}{pace['per_second']:>10.1f}{pace['p50_ms']:>12.2f}{pace['p99_ms']:>12.2f}")
    print(
        f"\n{found['throughput_ratio']} times as many chains a second ({found['lowest_ratio']} to "
        f"{found['highest_ratio']} in single turns); the median latency is {found['latency_share']} of Celery's; "
        f"{found['step_overhead_ms']} ms a step."
    )


if __name__ == "__main__":
    main()
