"""Processes of steps: kept for the next try, given up when something is wrong with them, and never too many."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import psutil
import pytest

from framemesh.steps import child, children
from framemesh.steps.client import Jobs
from framemesh.steps.functions import Function
from framemesh.steps.job import JobStatus
from tests.integration import step_bodies
from tests.integration.stepping import Begin, one, over
from tests.samples import until


def counting(name: str) -> Function:
    return Function(name, step_bodies.counts, process=True)


async def told(jobs: Jobs, name: str, **given: Any) -> dict[str, Any]:
    """What a job of one step says."""
    job = await over(jobs, await jobs.submit(one(name, input=given)))
    assert job.status is JobStatus.DONE, job
    found: dict[str, Any] = job.output["it"]
    return found


async def ended(pids: Iterable[int]) -> bool:
    return not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def test_a_process_serves_one_try_after_the_other(jobs: Jobs, begin: Begin, name: str) -> None:
    async with begin(counting(name)):
        first, second = await told(jobs, name), await told(jobs, name)
        assert (second["pid"], second["try"]) == (first["pid"], 2)
        assert second["tasks"] == first["tasks"] == 1
    assert await ended([first["pid"]])


async def test_tries_at_the_same_time_have_a_process_each(jobs: Jobs, begin: Begin, name: str) -> None:
    async with begin(counting(name), step_concurrency=2):
        found = await asyncio.gather(*(told(jobs, name, seconds=0.3) for _ in range(6)))
    assert len({each["pid"] for each in found}) <= 2
    assert max(each["try"] for each in found) >= 3


async def test_a_process_that_failed_in_order_goes_on_and_one_that_was_cut_short_does_not(
    jobs: Jobs, begin: Begin, name: str
) -> None:
    async with begin(counting(name), Function(f"{name}x", step_bodies.ends, process=True)):
        first = await told(jobs, name)
        failed = await over(jobs, await jobs.submit(one(f"{name}x", input={"how": "fatal"})))
        assert failed.error == "it: this will never work"
        late = await over(jobs, await jobs.submit(one(name, input={"seconds": 60}, timeout=0.3)))
        assert late.error == "it: took longer than 0.3 s (timeout)"
        assert await ended([first["pid"]])
        assert (await told(jobs, name))["try"] == 1


async def test_a_process_that_is_killed_while_it_waits_costs_nothing(jobs: Jobs, begin: Begin, name: str) -> None:
    async with begin(counting(name)):
        first = psutil.Process((await told(jobs, name))["pid"])
        first.kill()
        await until(lambda: ended([first.pid]))
        await asyncio.sleep(0.1)  # until its parent has heard
        job = await over(jobs, await jobs.submit(one(name)))
        assert (job.status, job.steps["it"].attempt, job.output["it"]["try"]) == (JobStatus.DONE, 1, 1)


async def test_what_a_step_leaves_behind_ends_with_its_process(jobs: Jobs, begin: Begin, name: str) -> None:
    async with begin(counting(name)):
        first = await told(jobs, name, leave=True)
        await until(lambda: ended([first["pid"], first["left"]]))
        assert (await told(jobs, name))["pid"] != first["pid"]


async def test_a_process_does_only_so_many_tries(jobs: Jobs, begin: Begin, name: str) -> None:
    async with begin(counting(name)):
        found = [await told(jobs, name) for _ in range(child.MOST_TRIES + 1)]
    assert [each["try"] for each in found] == [*range(1, child.MOST_TRIES + 1), 1]


async def test_a_process_that_nobody_needs_gives_its_memory_back(
    jobs: Jobs, begin: Begin, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "KEPT_S", 0.2)
    monkeypatch.setattr(children, "LOOK_S", 0.1)
    async with begin(counting(name)):
        first = await told(jobs, name)
        await until(lambda: ended([first["pid"]]))
        assert (await told(jobs, name))["try"] == 1
