"""A hundred users submit a short video at once, and all of it is analysed by 30 hands: ``make bench``.

Everything is a process of its own, as on a user's machine: the servers, the gateway, the jobs service and the five
services that do the steps. Nothing begins before all are taken in. Each user polls, some listen, too. Memory is
sampled from all processes the while.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.material import talk
from benchmarks.meshes import temporary_mesh
from benchmarks.users import Sight, User, users
from framemesh import assets, audio
from framemesh.analysis import AnalysisStatus, analysis_plan
from framemesh.bus import Bus
from framemesh.embedded import free_port
from framemesh.mesh import Mesh
from framemesh.steps.switchboard import LOOK_S, Switchboard
from framemesh.terminal import run_until

USERS = 100
SECONDS = 3.6
"""Of the clip: "And so, my fellow Americans. And", which Whisper's tiniest hears right."""
LISTENERS = 10
HANDS = {"media": 5, "transcribe.steps": 4, "face.steps": 4, "voice.steps": 3, "analyst": 3}
"""Steps of one function at a time. Media has two functions and the analyst three: 30 in all."""
SAMPLE_S = 2.0
MIB = 1 << 20


@dataclass
class Memory:
    """The most that was resident, bytes: of each service or server itself, of any process of a step, of all."""

    services: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    steps: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    total: int = 0
    """Shared pages count once for each process that has them."""

    def sample(self, pids: Mapping[str, int]) -> None:
        """Look at processes, by name, and at their children."""
        total = 0
        for name, pid in pids.items():
            for process, most in _family(pid, self.services, self.steps):
                size = _resident(process)
                most[name] = max(most[name], size)
                total += size
        self.total = max(self.total, total)


def _family(pid: int, own: dict[str, int], steps: dict[str, int]) -> list[tuple[psutil.Process, dict[str, int]]]:
    try:
        process = psutil.Process(pid)
        return [(process, own), *((child, steps) for child in process.children(recursive=True))]
    except psutil.Error:  # it has just ended
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


@dataclass
class Rush:
    """What came of it."""

    submitted: float
    """Seconds until all had been taken in; nothing began before."""
    seconds: float
    """From then until the last was done."""
    documents: list[dict[str, Any]]
    """Of each job, with its result."""
    places: list[int]
    """Of each job in the queue, when all were in."""
    polled: list[Sight]
    heard: list[Sight]
    queues: list[dict[str, Any]]
    """How much there was to do, again and again."""
    memory: Memory
    refused: int

    def step_seconds(self) -> dict[str, float]:
        """Median seconds from the start to the end of each step."""
        found = defaultdict(list)
        for document in self.documents:
            for step in document["steps"]:
                if step["status"] == "done":
                    found[step["name"]].append(step["ended"] - step["started"])
        return {name: round(statistics.median(each), 2) for name, each in found.items()}


@asynccontextmanager
async def pipeline(mesh: Mesh) -> AsyncIterator[str]:
    """All services of an analysis, started in a mesh whose servers run; gives the gateway's address."""
    port = free_port()
    await mesh.start_service("jobs")
    await mesh.start_service("gateway", {"gateway_port": str(port), "gateway_uploads": str(USERS)})
    for name, hands in HANDS.items():
        await mesh.start_service(name, {"step_concurrency": str(hands)})
    yield f"http://127.0.0.1:{port}"


def clip(path: Path, seconds: float = SECONDS) -> Path:
    """A video of somebody who begins to say the president's sentence."""
    speech = audio.decode(assets.ensure("jfk").read_bytes())
    talk(path, speech[: round(seconds * audio.RATE)])
    return path


async def rush(mesh: Mesh, count: int = USERS, seconds: float = SECONDS) -> Rush:
    """The whole scenario in a mesh whose servers run."""
    video = clip(mesh.data / "clip.mkv", seconds)
    async with (
        pipeline(mesh) as base,
        users(base, mesh.environment()["jobs_database"], count) as people,
        switchboard(mesh) as functions,
    ):
        await ready(mesh, people[0])
        memory, queues = Memory(), list[dict[str, Any]]()
        async with beside(_sample(mesh, memory), _count(people[0], queues)):
            begun = time.monotonic()
            async with closed(functions):
                ids = await asyncio.gather(*(user.submit(video, "rush") for user in people))
                asked = list(zip(people, ids, strict=True))
                submitted = time.monotonic() - begun
                places = await asyncio.gather(*(user.place(job) for user, job in asked))
            opened = time.monotonic()
            polled, heard = await asyncio.gather(
                asyncio.gather(*(user.poll(job) for user, job in asked)),
                asyncio.gather(*(user.listen(job) for user, job in asked[:: max(1, count // LISTENERS)])),
            )
            took = time.monotonic() - opened
        documents = [await user.get(f"/analysis/{job}") for user, job in asked]
        refused = sum(user.refused for user in people)
        return Rush(submitted, took, documents, places, polled, heard, queues, memory, refused)


@asynccontextmanager
async def switchboard(mesh: Mesh) -> AsyncIterator[Switchboard]:
    """The functions of a mesh."""
    bus = await Bus.connect(mesh.environment()["nats_host"], "rush")
    try:
        yield Switchboard(bus)
    finally:
        await bus.close()


@asynccontextmanager
async def closed(functions: Switchboard) -> AsyncIterator[None]:
    """While nothing begins, so that all have come before the first is served."""
    await functions.change(AnalysisStatus.DOWNLOADING_VIDEO, paused=True)
    await asyncio.sleep(LOOK_S + 0.5)
    try:
        yield
    finally:
        await functions.change(AnalysisStatus.DOWNLOADING_VIDEO, paused=False)


@asynccontextmanager
async def beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do these for the length of a block."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


async def ready(mesh: Mesh, user: User) -> None:
    """Wait until every function of an analysis has a worker."""
    while not analysis_plan().functions() <= {each["name"] for each in (await user.get("/queues"))["functions"]}:
        mesh.raise_failures()
        await asyncio.sleep(0.2)


async def _sample(mesh: Mesh, memory: Memory) -> None:
    while True:
        await asyncio.to_thread(memory.sample, mesh.pids())
        await asyncio.sleep(SAMPLE_S)


async def _count(user: User, queues: list[dict[str, Any]]) -> None:
    while True:
        queues.append(await user.get("/queues"))
        await asyncio.sleep(SAMPLE_S)


async def measure(count: int, seconds: float) -> Rush:
    """The scenario in a mesh of its own."""
    async with temporary_mesh() as mesh:
        await mesh.start_servers()
        return await rush(mesh, count, seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=USERS, help="each submits one video, at once")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of the video")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    asked = parser.parse_args()
    found = run_until(measure(asked.users, asked.seconds))
    print(json.dumps({"cpus": psutil.cpu_count(), **figures(found)}) if asked.json else told(found))


def figures(found: Rush) -> dict[str, Any]:
    """What is measured: seconds, videos a second, MiB."""
    done = sum(document["status"] == "done" for document in found.documents)
    return {
        "videos": len(found.documents),
        "done": done,
        "submitted_s": round(found.submitted, 1),
        "seconds": round(found.seconds, 1),
        "per_second": round(done / found.seconds, 2),
        "refused": found.refused,
        "step_s": found.step_seconds(),
        "services_mib": _mib(found.memory.services),
        "step_processes_mib": _mib(found.memory.steps),
        "total_mib": found.memory.total // MIB,
    }


def _mib(sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: size // MIB for name, size in sorted(sizes.items())}


def told(found: Rush) -> str:
    """The figures in words."""
    said = figures(found)
    lines = [
        f"{said['videos']} videos taken in {said['submitted_s']} s, "
        f"{said['done']} analysed in {said['seconds']} s: {said['per_second']} a second",
        f"{said['refused']} times a user got no answer, or was told to come again",
        *(
            f"{title:<38}" + ", ".join(f"{name} {value}" for name, value in said[key].items())
            for title, key in (
                ("a step, median seconds", "step_s"),
                ("services at their largest, MiB", "services_mib"),
                ("processes of steps, the largest, MiB", "step_processes_mib"),
            )
        ),
        f"all at once, shared pages counted each time: {said['total_mib']} MiB",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
