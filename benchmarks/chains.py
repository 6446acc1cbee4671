"""Chains of three steps that do nothing, against Celery on Redis, in one run: ``make bench``.

1. Celery: ``chain`` of three tasks, acks late, a prefork pool of that many processes, broker and results in a
   Redis of its own.
2. Framemesh: plans of three steps, as many worker processes, state and steps on a file-backed JetStream.
3. Celery again: the ratio is to the mean of both.

Each side keeps the same number of chains under way. Latency is one chain at a time, from its submission until the
one who submitted it knows that it is done. Overhead is a third of that of a chain.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
SINGLE = 50
WARM_UP = 50
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


@dataclass(frozen=True)
class Pace:
    """Chains a second, and the latency of one by itself, milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, chains: int, seconds: float, alone: list[float]) -> Pace:
        """From a count, how long it took, and the latencies of single ones in seconds."""
        cuts = statistics.quantiles(alone, n=100)
        return cls(
            round(chains / seconds, 1), round(1000 * statistics.median(alone), 2), round(1000 * cuts[98], 2)
        )


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


def celery_chains(chains: int, under_way: int) -> Pace:
    """Chains through a worker that runs; in a process of its own, as its settings come from the environment."""
    from celery import chain  # noqa: PLC0415

    from benchmarks.celery_noop import noop  # noqa: PLC0415

    def submit(number: int) -> Any:
        return chain(noop.s(number), noop.s(), noop.s()).apply_async()

    for each in [submit(number) for number in range(WARM_UP)]:
        each.get(timeout=60)
    alone = []
    for number in range(SINGLE):
        begun = time.perf_counter()
        submit(number).get(timeout=60, interval=0.001)
        alone.append(time.perf_counter() - begun)
    waiting: list[Any] = []
    begun = time.perf_counter()
    for number in range(chains):
        if len(waiting) >= under_way:
            waiting.pop(0).get(timeout=60)
        waiting.append(submit(number))
    for each in waiting:
        each.get(timeout=60)
    return Pace.of(chains, time.perf_counter() - begun, alone)


async def celery(chains: int, under_way: int, processes: int) -> Pace:
    """A Redis and a worker of its own, then the chains."""
    folder = Path(tempfile.mkdtemp(prefix="framemesh-bench-"))
    server = RedisServer(folder, choose_ports({}, {}))
    await server.start()
    try:
        await server.ready()
        address = f"redis://127.0.0.1:{server.environment()['redis_port']}/0"
        with celery_worker(address, processes, folder):
            asked = [sys.executable, "-m", "benchmarks.chains", "--celery-only", str(chains), str(under_way)]
            child = await asyncio.create_subprocess_exec(
                *asked, stdout=asyncio.subprocess.PIPE, env=os.environ | {"CELERY_REDIS": address}
            )
            said, _ = await child.communicate()
        return Pace(**json.loads(said.splitlines()[-1]))
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


async def framemesh(chains: int, under_way: int, processes: int) -> Pace:
    """The chains through workers of this mesh."""
    async with working(processes) as (bus, jobs):
        ends = Ends()
        await bus.client.listen(subjects.job_updates(), ends.hear)

        async def chain(number: int, lap: str) -> None:
            key = f"{lap}{number}"
            ended = ends.expect(new_id("bench", key))
            await jobs.submit(PLAN, {"n": number}, owner="bench", key=key)
            await ended

        await asyncio.gather(*(chain(number, "warm") for number in range(WARM_UP)))
        alone = []
        for number in range(SINGLE):
            begun = time.perf_counter()
            await chain(number, "alone")
            alone.append(time.perf_counter() - begun)
        free = asyncio.Semaphore(under_way)

        async def one(number: int) -> None:
            try:
                await chain(number, "many")
            finally:
                free.release()

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(chains):
                await free.acquire()
                group.create_task(one(number))
        return Pace.of(chains, time.perf_counter() - begun, alone)


# -- both ---------------------------------------------------------------------------------------------


async def compare(
    chains: int, under_way: int, processes: int, tell: Callable[[str, Pace], None]
) -> dict[str, Any]:
    """Celery, Framemesh, Celery."""
    paces: dict[str, Pace] = {}
    for name, work in (("Celery", celery), ("Framemesh", framemesh), ("Celery again", celery)):
        # Celery gets fewer chains: it would take minutes, and its pace does not depend on how many there are.
        count = chains if work is framemesh else max(200, chains // 8)
        paces[name] = await work(count, under_way, processes)
        tell(name, paces[name])
    theirs = statistics.fmean((paces["Celery"].per_second, paces["Celery again"].per_second))
    latency = statistics.fmean((paces["Celery"].p50_ms, paces["Celery again"].p50_ms))
    ours = paces["Framemesh"]
    return {
        "paces": {name: asdict(pace) for name, pace in paces.items()},
        "throughput_ratio": round(ours.per_second / theirs, 2),
        "latency_share": round(ours.p50_ms / latency, 2),
        "step_overhead_ms": round(ours.p50_ms / STEPS, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--chains", type=int, default=4000, help="chains through Framemesh; an eighth through Celery"
    )
    parser.add_argument("--under-way", type=int, default=48, help="chains under way at a time")
    parser.add_argument("--processes", type=int, default=2, help="worker processes on either side")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--celery-only", nargs=2, type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.celery_only:
        print(json.dumps(asdict(celery_chains(*asked.celery_only))))
        return

    def tell(name: str, pace: Pace) -> None:
        if not asked.json:
            print(f"{name:<14}{pace.per_second:>10.1f}{pace.p50_ms:>12.2f}{pace.p99_ms:>12.2f}", flush=True)

    if not asked.json:
        print(f"{'':<14}{'chains/s':>10}{'p50 ms':>12}{'p99 ms':>12}")
    found = run_until(compare(asked.chains, asked.under_way, asked.processes, tell))
    if asked.json:
        print(json.dumps({"cpus": psutil.cpu_count(), **found}))
        return
    print(
        f"\n{found['throughput_ratio']} times as many chains a second; the median latency is "
        f"{found['latency_share']} of Celery's; {found['step_overhead_ms']} ms a step."
    )


if __name__ == "__main__":
    main()
