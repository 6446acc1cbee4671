"""Whoever is killed, however often: every job is done, and each of its steps is recorded once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from framemesh import subjects
from framemesh.database.engine import open_database
from framemesh.database.jobs import JobTable
from framemesh.embedded import NatsServer
from framemesh.messages import DeadLetter
from framemesh.processes import Process
from framemesh.registry import connect as connect_redis
from framemesh.steps.client import Jobs
from framemesh.steps.job import Job, JobStatus, StepStatus
from framemesh.steps.plan import Plan
from tests.e2e.mesh import mesh_of
from tests.samples import until

JOBS, KILLS = 200, 40
SEED = 20261124
WITHIN_S = 45.0
"""After the last kill: an ack wait, and what the mender takes to see that something was never sent."""
STUCK_S = subjects.step_consumer("trace", "normal").ack_wait + 5.0
"""From the death of who had a step until somebody has it again: the ack wait, and some seconds for a server, a
worker and a queue. A server that is killed meanwhile may count the ack wait from its start."""


@dataclass(frozen=True)
class Run:
    """A try of a step that was begun: by which process, and when."""

    key: str
    pid: int
    time: float

    @classmethod
    def read(cls, file: Path) -> list[Run]:
        """All of them, in order."""
        return [
            cls(key, int(pid), float(at))
            for key, pid, at in (row.split() for row in file.read_text().splitlines())
        ]


def plan(file: Path) -> Plan:
    step = {"function": "trace", "retry": {"attempts": 20, "delay": 0.1, "most": 1}}
    fixed = {"file": str(file), "most": 0.05}
    return Plan.model_validate(
        {
            "name": "kills",
            "steps": {
                "a": step | {"input": fixed | {"n": "$input.n"}},
                "b": step | {"after": ["a"], "over": "$input.list", "input": fixed | {"n": "$item"}},
                "c": step | {"after": ["a", "b"], "input": fixed | {"n": "$steps.a.n"}},
            },
        }
    )


class Victim:
    """A process that is started again at once when it is killed, as somebody who watches it would."""

    def __init__(self, name: str, module: list[str], env: dict[str, str]) -> None:
        self._process = Process(name, [sys.executable, "-m", *module], env=env)
        self.deaths: dict[int, float] = {}
        """When each of its processes was killed."""

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def start(self) -> None:
        await self._process.start()

    async def kill(self) -> None:
        self.deaths[self.pid or 0] = time.time()
        self._process.signal(signal.SIGKILL)
        await self._process.wait()
        await self._process.close()
        await self._process.start()

    async def stop(self) -> None:
        await self._process.stop(2)


@asynccontextmanager
async def victims(environment: dict[str, str]) -> AsyncIterator[list[Victim]]:
    workers = [
        Victim(f"worker-{number}", ["framemesh.workers", "tests.e2e.kill_steps"], environment)
        for number in range(2)
    ]
    found = [
        *workers,
        *(Victim(f"jobs-{number}", ["services.jobs"], environment) for number in range(2)),
    ]
    for each in found:
        await each.start()
    try:
        yield found
    finally:
        await asyncio.gather(*(each.stop() for each in found))


async def test_jobs_survive_forty_kills(tmp_path: Path) -> None:
    chance, file = random.Random(SEED), tmp_path / "runs"
    async with mesh_of(tmp_path / "mesh", {}) as (mesh, bus):
        environment = mesh.environment()
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        redis = await connect_redis(environment["redis_host"], int(environment["redis_port"]))
        jobs = Jobs(bus, redis)
        await jobs.store.declare()
        nats = next(server for server in mesh.servers.servers if isinstance(server, NatsServer))
        async with victims(environment | {"PYTHONPATH": path}) as found:
            await until(lambda: _known(jobs), within=30)
            submitted, servers = asyncio.create_task(submit(jobs, plan(file))), list[float]()
            for number in range(KILLS):
                await asyncio.sleep(chance.uniform(0.1, 0.6))
                if number % 8 == 3:
                    servers.append(time.time())
                    os.kill(nats.process.pid, signal.SIGKILL)  # type: ignore[union-attr,arg-type]
                else:
                    await chance.choice(found).kill()
            begun = time.monotonic()
            made = await submitted
            ended = [await asyncio.wait_for(jobs.wait(job), WITHIN_S) for job in made]
            took, kills = time.monotonic() - begun, [len(each.deaths) for each in found]
            print(f"{KILLS} kills, {kills} of them of services; done {took:.1f} s after the last")
            assert took < WITHIN_S
            runs = Run.read(file)
            await check(ended, Counter(run.key for run in runs))
            check_stuck(runs, {pid: at for each in found for pid, at in each.deaths.items()}, servers)
            await projected(environment["jobs_database"], ended)
            assert await bus.last(subjects.DEADLETTERS.name, "dead.>", DeadLetter) is None
        await redis.aclose()


async def _known(jobs: Jobs) -> bool:
    return "trace" in await jobs.functions.all()


async def submit(jobs: Jobs, wanted: Plan) -> list[str]:
    """As a client that tries again with the same key until it has been heard."""
    found = []
    for number in range(JOBS):
        job = await jobs.submit(wanted, {"n": number, "list": [1, 2]}, owner=f"o{number % 5}", key=f"k{number}")
        found.append(job.id)
        await asyncio.sleep(0.03)
    return found


async def check(ended: list[Job], runs: Counter[str]) -> None:
    assert Counter(job.status for job in ended) == {JobStatus.DONE: JOBS}
    for number, job in enumerate(ended):
        works = [job.steps["a"], *(job.steps["b"].items or []), job.steps["c"]]
        assert [work.status for work in works] == 4 * [StepStatus.DONE]
        assert job.output["c"]["n"] == number + 2
        assert [output["n"] for output in job.steps["b"].output] == [2, 3]
    expected = {f"{job.id}/{place}" for job in ended for place in ("a", "b:0", "b:1", "c")}
    assert set(runs) == expected
    again = sum(count - 1 for count in runs.values())
    print(f"{sum(runs.values())} runs of {len(expected)} steps, {again} of them again")
    assert again < len(expected) / 4  # only what somebody was at when he was killed


def check_stuck(runs: list[Run], deaths: dict[int, float], servers: list[float]) -> None:
    """No step waits longer than the redelivery time for somebody when who had it has died."""
    by_key: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.time):
        by_key.setdefault(run.key, []).append(run)
    waits = [
        (after.time - deaths[before.pid], before, sum(deaths[before.pid] < at < after.time for at in servers))
        for each in by_key.values()
        for before, after in pairwise(each)
        if before.pid in deaths and deaths[before.pid] < after.time
    ]
    longest = max((wait for wait, *_ in waits), default=0.0)
    print(f"{len(waits)} steps were taken up again, the last after {longest:.1f} s")
    assert [wait for wait in waits if wait[0] > STUCK_S * (1 + wait[2])] == []


async def projected(database: str, ended: list[Job]) -> None:
    engine = await open_database(database)
    table = JobTable(engine)

    async def whole() -> bool:
        counts: dict[str, Any] = await table.counts()
        return counts == {"done": JOBS}

    await until(whole, within=20)
    assert await table.find(ended[0].id) == ended[0]
    await engine.dispose()
