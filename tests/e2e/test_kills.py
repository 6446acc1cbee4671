"""Whatever is killed in the middle, the same events come out, and every result once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
import pytest

from framemesh import demo, subjects
from framemesh.demo import Demo, Plan, Progress
from framemesh.mesh import LogFiles, Mesh
from framemesh.messages import Result

Kill = Callable[[Mesh], None]


def kill(mesh: Mesh, name: str) -> None:
    os.kill(mesh.pids()[name], signal.SIGKILL)


async def run(plan: Plan, data: Path, moments: dict[int, Kill]) -> tuple[dict[str, Any], list[Result]]:
    """Run a plan; call each of ``moments`` when that many results are in."""
    seen: list[Result] = []
    waiting = dict(sorted(moments.items()))
    logs = LogFiles(data / "logs")

    def watch(progress: Progress) -> None:
        for count in [count for count in waiting if sum(progress.results.values()) >= count]:
            with contextlib.suppress(KeyError):  # it is only being started again: at the next one
                waiting[count](mesh)
                waiting.pop(count)

    async def listen() -> None:
        """A plain NATS client, which knows nothing of JetStream."""
        client = await nats.connect(mesh.environment()["nats_host"], max_reconnect_attempts=-1)
        subscription = await client.subscribe(subjects.RESULTS_FEED)
        try:
            async for message in subscription.messages:
                seen.append(Result.model_validate_json(message.data))
        finally:
            with contextlib.suppress(Exception):
                await client.close()

    async with Mesh(data, on_line=logs) as mesh:
        listening: list[asyncio.Task[None]] = []

        def progress(value: Progress) -> None:
            if not listening:
                listening.append(asyncio.create_task(listen()))
            watch(value)

        summary = await Demo(mesh, plan, progress).run()
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
    logs.close()
    assert not waiting, "the run was over before everything was killed"
    return summary, seen


def spans(summary: dict[str, Any]) -> list[tuple[str, float, float, dict[str, int]]]:
    return [(e["label"], e["start_s"], e["end_s"], e["counts"]) for e in summary["events"]]


def clip() -> Plan:
    plan = demo.plan(None, [], [])
    plan.detection_workers, plan.skip_frames = 2, 0
    return plan


def check(summary: dict[str, Any], plan: Plan) -> None:
    kinds = len(plan.models)
    assert summary["frames_stored"] == summary["frames_read"]
    assert summary["tasks"] == summary["results"] == summary["frames_stored"] * kinds
    assert summary["dropped"] == summary["dead_letters"] == 0
    assert [event["state"] for event in summary["events"]] == ["FINISHED"] * len(summary["events"])
    for event in summary["events"]:
        assert [step["state"] for step in event["transitions"]] == ["CREATED", "PENDING", "DONE", "FINISHED"]
        assert all(path.stat().st_size for path in demo.evidence_of(event))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, float, float, dict[str, int]]]:
    plan = clip()
    summary, _ = asyncio.run(run(plan, tmp_path_factory.mktemp("undisturbed"), {}))
    check(summary, plan)
    assert summary["events"]
    return spans(summary)


async def test_killed_registrator_and_worker(
    undisturbed: list[tuple[str, float, float, dict[str, int]]], tmp_path: Path
) -> None:
    plan = clip()
    end = 120 if len(plan.models) == 1 else 1000
    moments: dict[int, Kill] = {
        int(end * 0.2): lambda mesh: kill(mesh, "registrator"),
        int(end * 0.4): lambda mesh: kill(mesh, "detection-1"),
        int(end * 0.7): lambda mesh: kill(mesh, "registrator"),
    }
    summary, results = await run(plan, tmp_path, moments)
    check(summary, plan)
    assert spans(summary) == undisturbed
    keys = Counter(result.task_key for result in results)
    assert len(keys) == summary["results"]
    assert set(keys.values()) == {1}


async def test_killed_servers_and_the_rest(
    undisturbed: list[tuple[str, float, float, dict[str, int]]], tmp_path: Path
) -> None:
    plan = clip()
    end = 120 if len(plan.models) == 1 else 1000
    moments: dict[int, Kill] = {
        int(end * 0.1): lambda mesh: kill(mesh, "uploader"),
        int(end * 0.2): lambda mesh: kill(mesh, "nats"),
        int(end * 0.4): lambda mesh: kill(mesh, "router"),
        int(end * 0.5): lambda mesh: kill(mesh, "seaweedfs"),
        int(end * 0.6): lambda mesh: kill(mesh, "redis"),
    }
    summary, _ = await run(plan, tmp_path, moments)
    check(summary, plan)
    assert spans(summary) == undisturbed


async def test_a_registrator_that_wakes_up_after_another_took_over(
    undisturbed: list[tuple[str, float, float, dict[str, int]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that holds the lease is stopped for longer than the lease, then goes on as if nothing had been."""
    monkeypatch.setenv("routing_ttl", "2")
    plan = clip()
    end = 120 if len(plan.models) == 1 else 1000
    rules = json.dumps([{"name": "demo", "labels": list(plan.labels)}])
    tasks: list[asyncio.Task[Any]] = []

    def second(mesh: Mesh) -> None:
        tasks.append(
            asyncio.create_task(mesh.start_service("registrator", {"event_rules": rules}, label="second"))
        )

    def pause(mesh: Mesh) -> None:
        first = mesh.pids()["registrator"]
        os.kill(first, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(5, os.kill, first, signal.SIGCONT)

    moments: dict[int, Kill] = {1: second, int(end * 0.3): pause}
    summary, _ = await run(plan, tmp_path, moments)
    check(summary, plan)
    assert spans(summary) == undisturbed
    assert "CREATED" in "".join(
        (tmp_path / "logs" / f"{name}.log").read_text() for name in ("registrator", "second")
    )
    assert "lost to another instance" in (tmp_path / "logs" / "registrator.log").read_text()
