"""Finds jobs that stand still because somebody died between a state and what follows from it, and sends that.

Workers mend most of it themselves, as what they did not ack comes again. What is left: who submitted a job, or let
a parked one begin, has nothing that comes again. Each state is looked at once, when it has been the last for some
seconds; so tens of thousands of jobs that wait cost nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.database.jobs import JobTable, Share
from framemesh.steps import advance
from framemesh.steps.admission import Admission
from framemesh.steps.advance import Order
from framemesh.steps.client import Jobs
from framemesh.steps.job import Job
from framemesh.steps.store import JobMissing

log = logging.getLogger(__name__)

STILL_S = 10.0
"""What is out of step for this long nobody else will mend."""
AT_ONCE = 32


class Mender:
    """Looks after the jobs that are not over."""

    def __init__(self, bus: Bus, table: JobTable, jobs: Jobs, admission: Admission) -> None:
        self._bus, self._table, self._jobs, self._store, self._admission = bus, table, jobs, jobs.store, admission
        self._looked = 0
        """Stream sequence up to which every state that is the last of its job has been looked at."""
        self._seen: deque[tuple[float, int]] = deque()
        self._stuck: set[str] = set()
        self._odd: dict[tuple[Share, str, bool | None, bool | None], float] = {}

    async def look(self, window: int) -> int:
        """Send what was never sent, with ``window`` jobs of an owner at a time; returns how many were helped."""
        await self._admission.set_window(window)
        helped = await self._mend_shares()
        stuck, self._stuck = self._stuck, set()
        helped += sum([await self._mend(job_id) for job_id in stuck])
        while resting := await self._table.resting(self._looked, await self._rested()):
            helped += sum(await self._look_at([job for _, job in resting]))
            self._looked = resting[-1][0]
        for child_id in await self._table.orphans():
            with contextlib.suppress(JobMissing):
                await self._jobs.cancel(child_id, "cancelled, as nobody waits for it any more")
                helped += 1
        return helped

    async def _rested(self) -> int:
        """Stream sequence that all had seen ``STILL_S`` seconds ago; what is newer may still be on its way."""
        now, newest = time.monotonic(), await self._table.checkpoint()
        if newest < self._looked:  # the stream counts anew
            self._looked = 0
            self._seen.clear()
        self._seen.append((now, newest))
        while len(self._seen) > 1 and self._seen[1][0] <= now - STILL_S:
            self._seen.popleft()
        moment, seq = self._seen[0]
        return seq if moment <= now - STILL_S else 0

    # -- steps that nobody has ----------------------------------------------------------------------

    async def _look_at(self, jobs: list[Job]) -> list[bool]:
        found: list[bool] = []
        for start in range(0, len(jobs), AT_ONCE):
            found += await asyncio.gather(*(self._look_at_one(job) for job in jobs[start : start + AT_ONCE]))
        return found

    async def _look_at_one(self, job: Job) -> bool:
        if job.status.over:
            return await self._tell_parent(job)
        if all([await self._lies(order) for order in advance.orders(job)]):
            return False
        return await self._mend(job.id)

    async def _mend(self, job_id: str) -> bool:
        """Send what a job waits for, until it lies somewhere."""
        job = await self._store.find(job_id)
        missing = [order for order in advance.orders(job) if not await self._lies(order)] if job else []
        if job is None or not missing:
            return False
        log.warning("job %s stood still: sending what it waits for", job_id)
        self._stuck.add(job_id)
        with contextlib.suppress(JobMissing):
            await self._store.send(missing, job)
        return True

    async def _lies(self, order: Order) -> bool:
        """Whether a try waits somewhere for a worker, or for its time."""
        if order.function is None:
            return False
        step = subjects.job_step(order.function, order.priority, order.job, order.place)
        places = (step, subjects.job_retry(order.job, order.place), step)  # its time may come between two looks
        return any([await self._bus.newest(subjects.JOBS.name, place) is not None for place in places])

    async def _tell_parent(self, child: Job) -> bool:
        """A sub-job that is over tells its parent; one that died before it could is made up for here."""
        up = child.parent
        parent = await self._store.find(up.job) if up else None
        if up is None or parent is None or parent.status.over:
            return False
        work = parent.work(up.step, up.item)
        if work.attempt != up.attempt or not work.status.active:
            return False
        log.warning("job %s never heard of the end of %s: telling it", parent.id, child.id)
        await self._store.follow_up(child)
        return True

    # -- shares -------------------------------------------------------------------------------------

    async def _mend_shares(self) -> int:
        """Bring what Redis knows in step with the jobs, where it has been out of step for a while."""
        ours, theirs = await self._table.shares(), await self._admission.sizes()
        now, odd = time.monotonic(), dict[tuple[Share, str, bool | None, bool | None], float]()
        for share in sorted(ours.keys() | theirs.keys()):
            if ours.get(share, (0, 0)) != theirs.get(share, (0, 0)):
                jobs, known = await self._table.share(share), await self._admission.share(share)
                for job_id in jobs.keys() | known.keys():
                    if (is_parked := jobs.get(job_id)) is not (said := known.get(job_id)):
                        key = share, job_id, is_parked, said
                        odd[key] = self._odd.get(key, now)
        self._odd = odd
        wrong = [key for key, since in odd.items() if now - since >= STILL_S]
        for share, job_id, _, _ in sorted(
            wrong, key=lambda key: key[2] is not False
        ):  # who has begun counts first
            await self._mend_share(share, job_id)
        return len(wrong)

    async def _mend_share(self, share: Share, job_id: str) -> None:
        job = await self._store.find(job_id)
        if job is None or job.status.over:
            for other in await self._admission.forget(share, job_id):
                await self._store.admit(other)
        elif not job.parked:
            await self._admission.begun(job)
        elif await self._admission.enter(job):
            await self._store.admit(job_id)
