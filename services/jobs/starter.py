"""Makes jobs of the events on ``triggers.<name>``, and dead letters of the events whose jobs have failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from framemesh import subjects
from framemesh.bus import Bus, Reject
from framemesh.deadletters import MAX_PAYLOAD
from framemesh.errors import FramemeshError
from framemesh.messages import DeadLetter
from framemesh.pull import Envelope
from framemesh.steps.client import Jobs
from framemesh.steps.job import Job, JobStatus
from framemesh.steps.triggers import TriggerEvent, Triggers, event_of

log = logging.getLogger(__name__)

AT_A_TIME = 64
"""Jobs that are put down at a time: each waits for the stream."""


class Starter:
    """Starts the plan that is subscribed to a trigger."""

    def __init__(self, bus: Bus, jobs: Jobs) -> None:
        self._bus, self._jobs, self._triggers = bus, jobs, Triggers(bus)

    async def run(self) -> None:
        """Make jobs until cancelled. An event is acked when its job is put down."""
        await self._bus.consume(subjects.event_consumer(), TriggerEvent, self._on_event, concurrency=AT_A_TIME)

    async def _on_event(self, envelope: Envelope[TriggerEvent]) -> None:
        event, name = envelope.message, envelope.subject.partition(".")[2]
        key = event.key or f"{name}/{envelope.meta.stream_seq}"
        try:
            plan = await self._triggers.find(name)
            if plan is None:
                raise Reject(f"{name}: no plan is subscribed to it: `framemesh triggers add {name} PLAN`")
            job = await self._jobs.submit(
                plan, event.input, owner=event.owner, priority=event.priority, key=key, trigger=name
            )
        except FramemeshError as error:
            raise Reject(f"{name}: {error}") from error
        if job.trigger != name:
            raise Reject(f"{name}: key {key}: job {job.id} of something else was made with it: take another")
        log.debug("%s asked for job %s", name, job.id)


async def bury(bus: Bus, jobs: Iterable[Job], origin: str) -> None:
    """Make a dead letter of the event of each job that has failed: replayed, it makes another job."""
    for job in jobs:
        if job.trigger and job.status is JobStatus.FAILED:
            letter = _letter(job, origin)
            msg_id = f"job/{job.id}/{job.ended}"
            await bus.publish(subjects.dead(letter.stream, letter.subject), letter, msg_id=msg_id)


def _letter(job: Job, origin: str) -> DeadLetter:
    event = event_of(job).model_dump_json(exclude_none=True)
    return DeadLetter(
        stream=subjects.TRIGGERS.name,
        subject=subjects.trigger(job.trigger),
        stream_seq=0,
        consumer=str(subjects.event_consumer().name),
        reason=f"job {job.id} failed: {job.error}",
        origin=origin,
        deliveries=1,
        payload=event[:MAX_PAYLOAD],
        cut=len(event) > MAX_PAYLOAD,
        timestamp=job.ended or time.time(),
    )
