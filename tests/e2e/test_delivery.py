"""Slow models: a lossless source waits for them, a live one skips, and nothing else is held up."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from framemesh import assets, subjects
from framemesh.bus import Bus
from framemesh.flow import drained, waiting_tasks
from framemesh.mesh import LogFiles, Mesh
from framemesh.messages import Classification, DeadLetter, Detection, Result, SourceState
from framemesh.processes import Process

FRAMES = 120  # in the clip


@asynccontextmanager
async def slow_mesh(tmp_path: Path, **settings: str) -> AsyncIterator[tuple[Mesh, Bus]]:
    """Servers, uploader, router and one slow worker."""
    logs = LogFiles(tmp_path / "logs")
    async with Mesh(tmp_path, on_line=logs) as mesh:
        await mesh.start_servers()
        worker = Process(
            "slow",
            [sys.executable, "-m", "tests.e2e.slow_worker"],
            env=mesh.environment() | settings,
            on_line=logs,
        )
        await worker.start()
        await mesh.start_service("uploader")
        await mesh.start_service("router", {"routes": '{"*": ["SlowInference"]}'})
        # Live frames of a model that is not there are nobody's: wait until the router knows it.
        log = tmp_path / "logs" / "router.log"
        while not log.exists() or "SlowInference is alive" not in log.read_text():
            await asyncio.sleep(0.1)
        bus = await Bus.connect(mesh.environment()["nats_host"], "test")
        try:
            yield mesh, bus
        finally:
            await bus.close()
            await worker.stop()
    logs.close()


async def ended(bus: Bus, source: str) -> SourceState:
    while True:
        state = await bus.last(subjects.SOURCES.name, subjects.source_state(source), SourceState)
        if state and state.message.state != "started":
            return state.message
        await asyncio.sleep(0.1)


async def results_of(bus: Bus, source: str, at_least: int, patience: float = 30) -> list[Result]:
    deadline = time.monotonic() + patience
    subject = subjects.results("SlowInference", source)
    while True:
        found = [stored.message async for stored in bus.read(subjects.RESULTS.name, subject, 1, Result)]
        if len(found) >= at_least or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)


async def test_a_lossless_source_waits_for_a_slow_model(tmp_path: Path) -> None:
    async with slow_mesh(tmp_path, slow_seconds="0.03") as (mesh, bus):
        most = 0
        reader = {"video_source": str(assets.ensure("carphone")), "pace": "fast", "lossless_window": "8"}
        await mesh.start_service("reader", reader | {"source": "file"})
        ending = asyncio.create_task(ended(bus, "file"))
        while not ending.done():
            captured = await bus.stream_info("FRAMES")
            router = await bus.consumer_info(
                subjects.router_consumer(subjects.frames_stream("frames-stream", 900))
            )
            if captured and router and router.ack_floor:
                most = max(most, captured.state.last_seq - router.ack_floor.stream_seq)
            await asyncio.sleep(0.02)
        state = await ending
        results = await results_of(bus, "file", FRAMES)
    assert state.frames == FRAMES
    assert most <= 8
    assert sorted(result.seq for result in results) == list(range(FRAMES))


async def test_a_live_source_skips_for_a_slow_model(tmp_path: Path) -> None:
    async with slow_mesh(tmp_path, slow_seconds="0.2") as (mesh, bus):
        reader = {"video_source": str(assets.ensure("carphone")), "delivery": "live", "source": "camera"}
        await mesh.start_service("reader", reader)
        state = await ended(bus, "camera")
        while await waiting_tasks(bus, "camera"):
            await asyncio.sleep(0.1)
        results = await results_of(bus, "camera", 1)
        queue = await bus.stream_info("SlowInference")
        dead = await bus.stream_info(subjects.DEADLETTERS.name)
    assert state.frames == FRAMES
    assert 10 <= len(results) <= 40
    assert queue is not None
    assert queue.state.last_seq == FRAMES  # every frame was offered
    assert results[-1].seq >= FRAMES - 2  # and the newest was looked at
    waits = sorted(result.timing_ms["latency"] for result in results)
    assert waits[len(waits) // 2] < 1500  # what it looks at is never old
    assert dead is None or dead.state.messages == 0


async def test_a_model_that_breaks_ends_in_the_dead_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with slow_mesh(tmp_path, slow_seconds="0.001", slow_fails="1") as (mesh, bus):
        reader = {"video_source": str(assets.ensure("carphone")), "pace": "fast", "video_duration": "0.15"}
        await mesh.start_service("reader", reader | {"source": "file"})
        state = await ended(bus, "file")
        deadline = time.monotonic() + 60
        letters: list[DeadLetter] = []
        while len(letters) < state.frames and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            letters = [s.message async for s in bus.read(subjects.DEADLETTERS.name, "dead.>", 1, DeadLetter)]
    assert len(letters) == state.frames
    for letter in letters:
        assert letter.reason.endswith(": RuntimeError: the model broke"), letter.reason
        assert "slow_worker.py" in letter.stack
        assert letter.deliveries == 5
        assert letter.subject == "SlowInference-lossless.file"


async def test_a_model_follows_another(tmp_path: Path, assets: Callable[[str], Path]) -> None:
    """Detection, then classification of the people it found, every second frame."""
    for name in ("yolox-nano", "squeezenet", "squeezenet-labels"):
        assets(name)
    follower = '{"model": "ClassificationInference", "follows": "DetectionInference", "labels": ["person"]}'
    routes = f'{{"*": [{{"model": "DetectionInference", "stride": 2}}, {follower}]}}'
    logs = LogFiles(tmp_path / "logs")
    async with Mesh(tmp_path, on_line=logs) as mesh:
        await mesh.start_servers()
        for name in ("uploader", "detection", "classification"):
            await mesh.start_service(name)
        await mesh.start_service("router", {"routes": routes})
        bus = await Bus.connect(mesh.environment()["nats_host"], "test")
        reader = {"video_source": str(assets("people")), "pace": "fast", "video_duration": "9"}
        await mesh.start_service("reader", reader | {"source": "corridor"})
        state = await ended(bus, "corridor")
        while not await drained(bus, "frames-stream", state):
            await asyncio.sleep(0.2)
        read = bus.read(subjects.RESULTS.name, "inference.results.*.corridor", 1, Result)
        results = [stored.message async for stored in read]
        await bus.close()
    logs.close()
    detected = {r.seq: r for r in results if r.model == "DetectionInference"}
    classified = {r.seq: r for r in results if r.model == "ClassificationInference"}
    assert sorted(detected) == list(range(0, 90, 2))
    people = {seq: [d for d in r.result if d.label == "person"] for seq, r in detected.items()}
    assert set(classified) == {seq for seq, found in people.items() if found}
    assert len(classified) > 10
    for seq, result in classified.items():
        assert [d.box for d in people[seq] if isinstance(d, Detection)] == result.regions
        assert {c.region for c in result.result if isinstance(c, Classification)} <= set(range(len(people[seq])))
