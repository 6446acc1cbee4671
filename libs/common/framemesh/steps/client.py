"""Jobs as those who want them see them: submit, watch, cancel, retry."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from nats.aio.msg import Msg
from pydantic import ValidationError
from redis.asyncio import Redis

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.pull import invalid
from framemesh.registry import Registry
from framemesh.steps import advance
from framemesh.steps.admission import Admission
from framemesh.steps.advance import Order
from framemesh.steps.job import Job, JobStatus, Priority, StepTask, is_id, new_id
from framemesh.steps.joblog import LogLines
from framemesh.steps.plan import Plan, check
from framemesh.steps.store import JobMissing, JobStore
from framemesh.steps.switchboard import Switchboard

KNOWN_S = 5.0


class Jobs:
    """The jobs of a mesh."""

    def __init__(self, bus: Bus, redis: Redis) -> None:
        self.store = JobStore(bus, Admission(redis))
        self.functions = Switchboard(bus)
        self._bus = bus
        self._registry = Registry(redis)
        self._known: set[str] = set()
        self._known_at = 0.0

    async def submit(
        self,
        plan: Plan,
        given: dict[str, Any] | None = None,
        *,
        owner: str = "nobody",
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
        trigger: str = "",
    ) -> Job:
        """Put a job down; it begins at once. With the same ``key`` and owner it is the same job, as it stands now.

        An optional step whose function no worker has ever had is skipped from the beginning.
        Raises PlanError when the plan cannot be worked off, FramemeshError for what cannot be kept.
        """
        await self.check(plan, given or {})
        try:
            job = Job(
                id=new_id(owner, key),
                plan=plan,
                owner=owner,
                priority=priority,
                input=given or {},
                created=time.time(),
                trigger=trigger,
            )
        except ValidationError as error:
            raise FramemeshError(invalid(Job, error)) from None
        advance.skip_absent(job, self._known)
        if not await self.store.create(job):
            return await self.store.get(job.id)
        return job

    async def check(self, plan: Plan, given: dict[str, Any] | None) -> None:
        """Raise PlanError, with the step and the fix, when the plan cannot be worked off with that input."""
        if not plan.functions() <= self._known or time.monotonic() > self._known_at + KNOWN_S:
            self._known, self._known_at = set(await self.functions.all()), time.monotonic()
        check(plan, given, self._known)

    async def forget(self, function: str) -> int:
        """Forget a function that no worker has any more; returns how many steps waited for it, which fail.

        Raises FramemeshError for one that is not known, or that a worker has.
        """
        for worker in await self._registry.alive():
            if function in worker.detail.get("functions", ()):
                raise FramemeshError(f"function {function}: worker {worker.instance} has it: stop that first")
        await self.functions.forget(function)
        waiting = subjects.job_step(function, "*", "*", "*")
        tasks = [stored.message async for stored in self._bus.read(subjects.JOBS.name, waiting, 1, StepTask)]
        for task in tasks:
            await self.store.fail(task, f"nobody has the function {function!r} any more: it was removed")
        await self._bus.purge(subjects.JOBS.name, waiting)
        return len(tasks)

    async def cancel(self, job_id: str, reason: str = "cancelled") -> Job:
        """End a job, whatever it is at; what waits is taken back. One that is over stays as it is."""
        _check_id(job_id)
        return await self.store.cancel(job_id, reason)

    async def retry(self, job_id: str) -> Job:
        """Let a job that failed, or was cancelled, go on from there. Raises FramemeshError for another."""
        _check_id(job_id)
        changed = False

        def event(job: Job) -> list[Order]:
            nonlocal changed
            changed = job.status in {JobStatus.FAILED, JobStatus.CANCELLED}
            return advance.retry(job, time.time())

        job = await self.store.change(job_id, event)
        if not changed:
            raise FramemeshError(f"job {job_id} is {job.status}: only a failed one can go on")
        return job

    async def get(self, job_id: str) -> Job:
        """The job as it stands. Raises JobMissing."""
        _check_id(job_id)
        return await self.store.get(job_id)

    async def logs(self, job_id: str) -> AsyncIterator[LogLines]:
        """What the steps of a job have logged, as far as it is kept. Raises JobMissing for what is no id."""
        _check_id(job_id)
        async for stored in self._bus.read(subjects.JOBLOGS.name, subjects.job_log(job_id), 1, LogLines):
            yield stored.message

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """The job as it stands, then each time that it has changed, until it is over. Raises JobMissing."""
        _check_id(job_id)
        changed = asyncio.Event()

        async def on_update(_: Msg) -> None:
            changed.set()

        subscription = await self._bus.client.subscribe(subjects.job_updates(job_id), cb=on_update)
        try:
            before: Job | None = None
            while True:
                job = await self.store.get(job_id)
                if job != before:
                    yield job
                if job.status.over:
                    return
                before = job
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(KNOWN_S):  # an update may be missed while NATS is away
                        await changed.wait()
                changed.clear()
        finally:
            await subscription.unsubscribe()

    async def wait(self, job_id: str) -> Job:
        """The job when it is over."""
        async for job in self.watch(job_id):
            last = job
        return last


def _check_id(job_id: str) -> None:
    """A pattern would match others' jobs. Raises JobMissing."""
    if not is_id(job_id):
        raise JobMissing(f"job {job_id!r}: there is none of that id: it is no id")
