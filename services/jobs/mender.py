"""Finds jobs that stand still because somebody died between a state and what follows from it, and sends that.

Workers mend most of it themselves, as what they did not ack comes again. What is left: who submitted a job, or let
a parked one begin, has nothing that comes again.
"""

from __future__ import annotations

import logging
import time

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.database.jobs import JobTable
from framemesh.steps import advance
from framemesh.steps.admission import Admission
from framemesh.steps.advance import Order
from framemesh.steps.job import Job
from framemesh.steps.store import JobStore

log = logging.getLogger(__name__)

STILL_S = 10.0
"""A step that is to be done for this long and lies nowhere was never sent."""


class Mender:
    """Looks after the jobs that are not over."""

    def __init__(self, bus: Bus, table: JobTable, store: JobStore, admission: Admission) -> None:
        self._bus, self._table, self._store, self._admission = bus, table, store, admission
        self._missing: dict[tuple[str, str, int], float] = {}

    async def look(self, window: int) -> int:
        """Send what was never sent, with ``window`` jobs of an owner at a time; returns how many were helped."""
        await self._admission.set_window(window)
        jobs = await self._table.open_jobs()
        await self._share_out(jobs)
        lying = await self._lying()
        now = time.monotonic()
        missing = {
            (order.job, order.place, order.attempt): job
            for job in jobs
            for order in advance.orders(job)
            if not _lies(order, lying)
        }
        self._missing = {key: self._missing.get(key, now) for key in missing}
        still = {missing[key].id for key, since in self._missing.items() if now - since >= STILL_S}
        for job_id in still:
            await self._help(job_id)
        return len(still) + await self._tell_parents(jobs)

    async def _share_out(self, jobs: list[Job]) -> None:
        own = [job for job in jobs if job.parent is None]
        begun = [job for job in own if not job.parked]
        for job_id in await self._admission.rebuild(begun, [job for job in own if job.parked]):
            await self._store.admit(job_id)

    async def _lying(self) -> set[str]:
        info = await self._bus.stream_info(subjects.JOBS.name, "jobs.>")
        return set(info.state.subjects or {}) if info else set()

    async def _help(self, job_id: str) -> None:
        job = await self._store.find(job_id)
        if job is None or job.status.over:
            return
        log.warning("job %s stood still: sending what it waits for", job_id)
        await self._store.send(advance.orders(job), job)

    async def _tell_parents(self, jobs: list[Job]) -> int:
        """A sub-job that is over tells its parent; one that died before it could is made up for here."""
        told = 0
        for parent in jobs:
            for child_id in advance.sub_jobs(parent):
                child = await self._store.find(child_id)
                if child and child.status.over and child.ended and time.time() - child.ended > STILL_S:
                    await self._store.follow_up(child)
                    told += 1
        return told


def _lies(order: Order, lying: set[str]) -> bool:
    """Whether a try waits somewhere for a worker, or for its time."""
    if order.function is None:
        return False
    step = subjects.job_step(order.function, order.priority, order.job, order.place)
    return step in lying or subjects.job_retry(order.job, order.place) in lying
