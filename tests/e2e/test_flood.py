"""A flood of events: all are taken at the rate of the stream, none is lost, and each becomes one job."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.registry import Registry
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.functions import Function
from framemesh.steps.plan import Plan
from framemesh.steps.triggers import Subscription, TriggerEvent, Triggers
from services.jobs.jobs import JobsService
from services.jobs.settings import JobsSettings
from tests.integration.conftest import begin, jobs
from tests.integration.stepping import Begin, at_work
from tests.samples import until

__all__ = ["begin", "jobs"]
EVENTS = 10_000
AT_ONCE = 500


async def test_ten_thousand_events_are_taken_and_each_is_worked_off_once(
    bus: Bus, registry: Registry, servers: Mapping[str, str], jobs: Jobs, begin: Begin, tmp_path: Path
) -> None:
    name, seen = f"flood-{secrets.token_hex(3)}", list[int]()

    async def body(ctx: Context, given: Any) -> None:
        seen.append(given["n"])

    plan = Plan.model_validate({"name": name, "steps": {"it": {"function": name, "input": {"n": "$input.n"}}}})
    triggers = Triggers(bus)
    await bus.declare(subjects.TRIGGERS)
    await triggers.put(Subscription(trigger=name, plan=plan))
    numbers = iter(range(EVENTS))

    async def publish() -> None:
        for n in numbers:
            await triggers.fire(name, TriggerEvent(input={"n": n}, owner=name))

    await asyncio.gather(*(publish() for _ in range(AT_ONCE)))
    info = await bus.stream_info(subjects.TRIGGERS.name, subjects.trigger(name))
    assert info
    assert (info.state.subjects or {})[subjects.trigger(name)] == EVENTS

    given: dict[str, Any] = dict(servers)
    settings = JobsSettings(**given, instance="jobs", jobs_database=f"sqlite:///{tmp_path}/jobs.db")
    async with begin(Function(name, body)), at_work(JobsService(settings, bus, registry)):
        await until(lambda: _over(seen), within=240)
    assert sorted(seen) == list(range(EVENTS))
    left = await bus.stream_info(subjects.TRIGGERS.name, subjects.trigger(name))
    assert left
    assert subjects.trigger(name) not in (left.state.subjects or {})
    await bus.purge(subjects.JOBS.name, subjects.job_state("*"))  # ten thousand would disturb the tests after


async def _over(seen: list[int]) -> bool:
    return len(seen) >= EVENTS
