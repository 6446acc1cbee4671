"""Anyone's model: it joins a running mesh, and however badly it behaves, it hurts only itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from framemesh import assets, subjects
from framemesh.bus import Bus
from framemesh.mesh import Mesh
from framemesh.messages import DeadLetter, Finding, Result
from framemesh.registry import Registry
from framemesh.registry import connect as connect_redis
from tests.e2e.mesh import ended, environment, framemesh, known, mesh_of

SECONDS = 0.8
BAD = "tests.e2e.bad_worker:Bad"
GOOD = "examples.brightness:Brightness"
FOLLOWING = "tests.e2e.following_worker:Following"


async def read(mesh: Mesh, bus: Bus, source: str = "file", **settings: str) -> list[int]:
    """Read the first frames of a real clip to the end; gives their numbers."""
    reader = {"video_source": str(assets.ensure("carphone")), "pace": "fast", "video_duration": str(SECONDS)}
    await mesh.start_service("reader", reader | {"source": source} | settings, label=source)
    state = await ended(bus, source)
    assert state.frames > 10
    return list(range(state.frames))


async def seen(bus: Bus, kind: str, source: str = "file") -> list[int]:
    read = bus.read(subjects.RESULTS.name, subjects.results(kind, source), 1, Result)
    return sorted([stored.message.seq async for stored in read])


async def letters(bus: Bus) -> list[DeadLetter]:
    return [stored.message async for stored in bus.read("DEADLETTERS", "dead.>", 1, DeadLetter)]


@pytest.mark.parametrize(
    ("how", "settings", "reason", "restarts"),
    [
        ("fail", {}, "bad_worker.py:48 in fail: ValueError: no idea what this is", False),
        ("hang", {"inference_timeout": "1"}, "bad gave no answer in 1 s", True),
        ("eat", {"worker_memory_mb": "400"}, "of memory, 400 are allowed", True),
    ],
)
async def test_a_model_that_misbehaves_hurts_only_itself(
    tmp_path: Path, how: str, settings: dict[str, str], reason: str, restarts: bool
) -> None:
    bad = {"bad_how": how, "batch_size": "4"} | settings
    async with mesh_of(tmp_path, {BAD: bad, GOOD: {}}) as (mesh, bus):
        await known(tmp_path, "BadInference", "BrightnessInference")
        every = await read(mesh, bus)
        deadline = time.monotonic() + 60
        rest = [seq for seq in every if seq != 5]
        while await seen(bus, "BadInference") != rest or not await letters(bus):
            assert time.monotonic() < deadline, (await seen(bus, "BadInference"), await letters(bus))
            await asyncio.sleep(0.2)
        (letter,) = await letters(bus)
        assert reason in letter.reason
        assert json.loads(letter.payload)["seq"] == 5
        assert await seen(bus, "BrightnessInference") == every
        assert bool(mesh.services["Bad"].restarts) == restarts
        assert mesh.services["Brightness"].restarts == 0


async def test_a_model_that_kills_its_process_loses_the_frame_and_no_other(tmp_path: Path) -> None:
    """Nothing can be said of it but that: what lay beside it in the process that died comes again and is done."""
    async with mesh_of(tmp_path, {BAD: {"bad_how": "die", "batch_size": "4"}}) as (mesh, bus):
        await known(tmp_path, "BadInference")
        every = await read(mesh, bus)
        deadline = time.monotonic() + 120
        rest = [seq for seq in every if seq != 5]
        while await seen(bus, "BadInference") != rest or not await letters(bus):
            assert time.monotonic() < deadline, (await seen(bus, "BadInference"), await letters(bus))
            await asyncio.sleep(0.2)
        (letter,) = await letters(bus)
        assert letter.reason == "the process of bad ended 3 times while it had it"
        assert json.loads(letter.payload)["seq"] == 5
        assert mesh.services["Bad"].restarts == 4  # once when it was not yet alone


async def test_a_model_that_never_lets_go_of_the_interpreter_is_ended(tmp_path: Path) -> None:
    """Run in a process of its own: a timer in C ends it, and tells where it was."""
    code = (
        "import asyncio, re\n"
        "from framemesh import guard\n"
        "async def main():\n"
        "    async with guard.against_starving(0.5):\n"
        "        await asyncio.sleep(1)\n"
        "        print('breathed', flush=True)\n"
        "        re.match(r'(a|a)*b', 'a' * 60)\n"
        "asyncio.run(main())\n"
    )
    begun = time.monotonic()
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.stdout == "breathed\n"  # it does nothing to a loop that goes round
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr and "line 7 in main" in ended.stderr
    assert time.monotonic() - begun < 10


async def test_a_model_joins_a_running_mesh_and_leaves_it(tmp_path: Path) -> None:
    """As in examples/README.md: nothing is started again."""
    async with mesh_of(tmp_path, {}) as (mesh, bus):
        before = mesh.pids()
        mesh.mark_ready()
        command = [sys.executable, "-m", "framemesh", "worker", GOOD, "--data", str(tmp_path), "--replicas=2"]
        worker = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL, env=environment())
        try:
            await known(tmp_path, "BrightnessInference")
            redis = await connect_redis("127.0.0.1", int(mesh.environment()["redis_port"]))
            beats = await Registry(redis, 10).alive("BrightnessInference")
            while len(beats) < 2:
                beats = await Registry(redis, 10).alive("BrightnessInference")
                await asyncio.sleep(0.1)
            await redis.aclose()
            listed = json.loads(
                (await asyncio.to_thread(framemesh, "models", "list", "--json", "--data", str(tmp_path))).stdout
            )
            assert [row["replicas"] for row in listed if row["kind"] == "BrightnessInference"] == [2]
            every = await read(mesh, bus)
            deadline = time.monotonic() + 20
            while await seen(bus, "BrightnessInference") != every:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            # One of the two dies: it comes back.
            os.kill(beats[0].pid, signal.SIGKILL)
            every = await read(mesh, bus, "again")
            while await seen(bus, "BrightnessInference", "again") != every:
                assert time.monotonic() < deadline + 30
                await asyncio.sleep(0.1)
            assert {name: pid for name, pid in mesh.pids().items() if name in before} == before
        finally:
            worker.send_signal(signal.SIGINT)
            status = await asyncio.wait_for(worker.wait(), 10)
        assert status == 130


async def test_a_model_that_remembers_sees_all_of_a_source_and_its_replicas_share_the_sources(
    tmp_path: Path,
) -> None:
    replicas: dict[str, dict[str, str]] = {f"following-{number}={FOLLOWING}": {} for number in (1, 2)}
    async with mesh_of(tmp_path, replicas) as (mesh, bus):
        await known(tmp_path, "FollowingInference")
        sources = ("left", "right")
        runs = await asyncio.gather(*(read(mesh, bus, source, video_duration="3") for source in sources))

        async def numbers(source: str) -> list[tuple[int, int]]:
            stored = bus.read(subjects.RESULTS.name, subjects.results("FollowingInference", source), 1, Result)
            found = sorted([each.message async for each in stored], key=lambda result: result.seq)
            data = [item.data for result in found for item in result.result if isinstance(item, Finding)]
            return [(each["pid"], each["number"]) for each in data]

        pids = set()
        for source, every in zip(sources, runs, strict=True):
            deadline = time.monotonic() + 60
            while len(found := await numbers(source)) < len(every):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            assert [number for _, number in found] == list(range(1, len(every) + 1))
            assert len({pid for pid, _ in found}) == 1
            pids.add(found[0][0])
        assert len(pids) == 2
        # One of the two dies: the other takes its source over, and no frame is lost.
        os.kill(mesh.pids()["following-1"], signal.SIGKILL)
        mesh.services["following-1"].let_die()
        await read(mesh, bus, "left", video_duration="3")  # as many frames as before
        deadline = time.monotonic() + 60
        while len(await numbers("left")) < 2 * len(runs[0]):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("examples.brightnes:Brightness", "there is no module examples.brightnes"),
        ("examples.brightness:Brightnes", "did you mean examples.brightness:Brightness?"),
        ("framemesh.messages:Frame", "not a class derived from"),
        ("framemesh.inference:ModelWorker", "it still lacks"),
        ("detecton", "did you mean detection?"),
        ("no-such.yaml", "no-such.yaml"),
    ],
)
def test_what_is_no_worker(spec: str, says: str, tmp_path: Path) -> None:
    # The address is that of nobody: what the worker is, is looked at first.
    ended = framemesh("worker", spec, "--data", str(tmp_path / "none"), timeout=60, nats_host="nats://127.0.0.1:1")
    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
