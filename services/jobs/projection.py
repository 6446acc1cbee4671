"""States of jobs into rows of the results database.

The stream is read from where the database says it was read to, and both move in one transaction, so nothing is
lost and nothing is taken twice. Updates on the wire only say that it is time to look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.database.jobs import JobTable
from framemesh.steps.job import Job
from framemesh.tasks import heed_cancellation
from services.jobs.starter import bury

log = logging.getLogger(__name__)

BATCH = 256
LOOK_S = 2.0
"""Longest rest between two looks: an update may be missed."""
PAUSE_S = 0.1
"""Least rest: a job that changes quickly is written once."""


class Projection:
    """Follows the stream."""

    def __init__(self, bus: Bus, table: JobTable) -> None:
        self._bus, self._table = bus, table
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Some job has another state."""
        self._changed.set()

    async def run(self) -> None:
        """Follow until cancelled."""
        seq = await self._begin()
        while True:
            heed_cancellation()
            self._changed.clear()
            seq = await self.catch_up(seq)
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()

    async def _begin(self) -> int:
        seq = await self._table.checkpoint()
        info = await self._bus.stream_info(subjects.JOBS.name)
        if info and info.state.last_seq < seq:
            log.warning("the stream is another one than the database has read: reading it from its beginning")
            await self._table.begin_anew()
            return 0
        return seq

    async def catch_up(self, seq: int) -> int:
        """Take in all states after ``seq``; returns the sequence of the last."""
        states: list[tuple[int, Job]] = []
        async for stored in self._bus.read(subjects.JOBS.name, subjects.job_state("*"), seq + 1, Job, batch=BATCH):
            seq = stored.seq
            states.append((seq, stored.message))
            if len(states) >= BATCH:
                await self._take_in(states)
                states = []
        if states:
            await self._take_in(states)
        return seq

    async def _take_in(self, states: list[tuple[int, Job]]) -> None:
        await bury(self._bus, (job for _, job in states), self._bus.instance)
        await self._table.save(states, states[-1][0])

    async def put_away(self, kept_s: float) -> int:
        """Take jobs out of the stream that ended ``kept_s`` seconds ago and are in the database; how many."""
        found = await self._table.over_before(time.time() - kept_s)
        for _, seq in found:  # this very state: somebody may just be asking for the job again
            await self._bus.delete(subjects.JOBS.name, seq)
        await self._table.put_away(found)
        return len(found)
