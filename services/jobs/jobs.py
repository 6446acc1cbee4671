"""The jobs service: one replica at a time projects, mends and makes the jobs that schedules ask for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from nats.aio.msg import Msg
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from framemesh import subjects
from framemesh.bus import BusError, Reject
from framemesh.database.engine import open_database
from framemesh.database.jobs import JobTable
from framemesh.errors import FramemeshError
from framemesh.pull import Envelope
from framemesh.service import Service
from framemesh.steps.admission import Admission
from framemesh.steps.client import Jobs
from framemesh.steps.schedules import JobRequest
from framemesh.tasks import heed_cancellation
from services.jobs.mender import Mender
from services.jobs.projection import Projection
from services.jobs.settings import JobsSettings
from services.jobs.starter import Starter

log = logging.getLogger(__name__)

LEASE = "jobs"
LOOK_S = 5.0
PUT_AWAY_S = 30.0
AGAIN_S = 1.0


class JobsService(Service[JobsSettings]):
    """Off the hot path: while it is away jobs go on, and what it missed it makes up for."""

    kind = "Jobs"
    settings_type = JobsSettings

    async def prepare(self) -> None:
        """Bring the database up to date."""
        self._engine = await open_database(self.settings.jobs_database, self.settings.connect_patience)
        self._table = JobTable(self._engine)
        self._jobs = Jobs(self.bus, self.registry.redis)
        await self._jobs.store.declare()
        await self.bus.declare(subjects.TRIGGERS, subjects.DEADLETTERS)
        self._projection = Projection(self.bus, self._table)
        await self.bus.client.subscribe(subjects.job_updates(), cb=self._on_update)

    async def run(self) -> None:
        """Make jobs of triggers; project and mend while the lease is ours."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.bus.consume(subjects.trigger_consumer(), JobRequest, self._on_trigger))
            group.create_task(Starter(self.bus, self._jobs).run())
            group.create_task(self._leading())

    async def finish(self) -> None:
        """Close the database."""
        await self._engine.dispose()

    async def _on_update(self, _: Msg) -> None:
        self._projection.changed()

    async def _on_trigger(self, envelope: Envelope[JobRequest]) -> None:
        request = envelope.message
        name = envelope.subject.rpartition(".")[2]
        key = request.key or f"{name}/{envelope.meta.stream_seq}"
        try:
            job = await self._jobs.submit(
                request.plan, request.input, owner=request.owner, priority=request.priority, key=key
            )
        except FramemeshError as error:
            raise Reject(f"{name}: {error}") from error
        log.info("%s asked for job %s", name, job.id)

    async def _leading(self) -> None:
        while True:
            heed_cancellation()
            async with self.registry.lease(LEASE, self.instance) as lost:
                log.info("keeping the database up to date")
                mender = Mender(self.bus, self._table, self._jobs, Admission(self.registry.redis))
                async with asyncio.TaskGroup() as group:
                    work = [
                        group.create_task(_patiently(each))
                        for each in (self._projection.run, partial(self._mending, mender), self._tidying)
                    ]
                    await lost.wait()
                    for task in work:
                        task.cancel()

    async def _mending(self, mender: Mender) -> None:
        while True:
            heed_cancellation()
            await mender.look(self.settings.jobs_per_owner)
            await asyncio.sleep(LOOK_S)

    async def _tidying(self) -> None:
        while True:
            heed_cancellation()
            if count := await self._projection.put_away(self.settings.jobs_kept):
                log.info("put away %d jobs that ended %g s ago", count, self.settings.jobs_kept)
                continue
            await asyncio.sleep(PUT_AWAY_S)


async def _patiently(work: Callable[[], Awaitable[None]]) -> None:
    """Do it again when a server was away."""
    while True:
        try:
            await work()
        except (SQLAlchemyError, RedisError, BusError, FramemeshError, OSError) as error:
            log.warning("trying again in %g s: %s", AGAIN_S, str(error).strip().partition("\n")[0])
            await asyncio.sleep(AGAIN_S)
