"""What the tests of durable jobs share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from framemesh.registry import Registry
from framemesh.service import Service
from framemesh.steps.client import Jobs
from framemesh.steps.job import Job
from framemesh.steps.plan import Plan
from framemesh.steps.worker import StepSettings, StepWorker
from tests.samples import until


class AnyWorker(StepWorker[StepSettings]):
    """A worker with whatever functions a test gives it."""

    kind = "TestSteps"
    settings_type = StepSettings


Begin = Callable[..., AbstractAsyncContextManager[AnyWorker]]
"""Runs a worker with some functions for the length of a block."""


def plan(**steps: dict[str, Any]) -> Plan:
    return Plan.model_validate({"name": "test", "steps": steps})


def one(function: str, **step: Any) -> Plan:
    """A plan of one step."""
    return plan(it={"function": function, "retry": {"attempts": 2, "delay": 0.1}, **step})


async def over(jobs: Jobs, job: Job, within: float = 20) -> Job:
    """The job when it is over."""
    async with asyncio.timeout(within):
        return await jobs.wait(job.id)


class Crowd:
    """How many steps are under way at a time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def stay(self, seconds: float) -> None:
        """Be one of them for so long."""
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(seconds)
        self.now -= 1


S = TypeVar("S", bound=Service[Any])


@asynccontextmanager
async def at_work(service: S) -> AsyncIterator[S]:
    """A service that works for the length of a block; what it failed at fails the test."""
    await service.prepare()
    task = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        task.cancel()
        await asyncio.wait([task])
        await service.finish()
        if not task.cancelled() and (error := task.exception()):
            raise error


@asynccontextmanager
async def registered(registry: Registry, service: Service[Any]) -> AsyncIterator[None]:
    """For the length of a block, the others know that a service is alive."""
    beating = asyncio.create_task(registry.beating(service.heartbeat()))
    await until(partial(registry.alive, service.kind))
    yield
    beating.cancel()
    await asyncio.wait([beating])
