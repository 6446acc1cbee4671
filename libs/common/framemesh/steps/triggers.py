"""Events that start jobs: whoever publishes on ``triggers.<name>`` starts the plan that is subscribed to it.

The stream has an event before its publisher hears that it was taken, and keeps it until it is a job. One that
cannot become a job is a dead letter, and so is that of a job that has failed: `framemesh dead replay` sends it
again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.media import BUILT_IN
from framemesh.messages import Message
from framemesh.steps.job import Job, Owner, Priority
from framemesh.steps.plan import Plan

TRIGGER_PATTERN = r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,3}$"
TriggerName = Annotated[str, Field(pattern=TRIGGER_PATTERN)]


class TriggerEvent(Message):
    """Something happened (``triggers.<name>``)."""

    input: dict[str, Any] = Field(default_factory=dict, description="The job's input")
    owner: Owner = "nobody"
    priority: Priority = Priority.NORMAL
    key: str | None = Field(None, max_length=256, description="The same key and owner: the same job")


class Subscription(Message):
    """The plan that a trigger starts (``jobs.subscription.<name>``)."""

    trigger: TriggerName
    plan: Plan


class Triggers:
    """The subscriptions of a mesh. What nobody subscribed to has the plan that is built in, if there is one."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def all(self) -> list[tuple[Subscription, bool]]:
        """Every subscription by its trigger, and whether it is built in."""
        read = self._bus.read(subjects.JOBS.name, subjects.job_subscription(">"), 1, Subscription)
        found = {stored.message.trigger: (stored.message, False) async for stored in read}
        built_in = {name: (Subscription(trigger=name, plan=plan()), True) for name, plan in BUILT_IN.items()}
        return [each for _, each in sorted((built_in | found).items())]

    async def find(self, trigger: str) -> Plan | None:
        """The plan that a trigger starts."""
        stored = await self._bus.newest(subjects.JOBS.name, subjects.job_subscription(checked(trigger)))
        if stored:
            return Subscription.model_validate_json(stored[1]).plan
        return BUILT_IN[trigger]() if trigger in BUILT_IN else None

    async def put(self, subscription: Subscription) -> None:
        """Subscribe a plan, instead of the one that was subscribed before."""
        subject = subjects.job_subscription(subscription.trigger)
        await self._bus.publish_raw(subject, subscription.model_dump_json().encode(), {})

    async def remove(self, trigger: str) -> None:
        """End a subscription; a built-in plan takes its place. Raises FramemeshError where there is none."""
        subject = subjects.job_subscription(checked(trigger))
        if await self._bus.newest(subjects.JOBS.name, subject) is None:
            why = "it has the plan that is built in" if trigger in BUILT_IN else "no plan is subscribed to it"
            raise FramemeshError(f"trigger {trigger}: {why}: `framemesh triggers list` shows them")
        await self._bus.purge(subjects.JOBS.name, subject)

    async def fire(self, trigger: str, event: TriggerEvent, headers: Mapping[str, str] | None = None) -> int:
        """Publish an event; it is durable when this returns. Its stream sequence.

        Raises BusError, FramemeshError for one that is too large.
        """
        payload = event.model_dump_json(exclude_none=True).encode()
        if len(payload) > subjects.MOST_EVENT_BYTES:
            raise FramemeshError(
                f"trigger {trigger}: the event has {len(payload)} bytes, {subjects.MOST_EVENT_BYTES} are taken: "
                "store what is large elsewhere, and give its address"
            )
        return await self._bus.publish_raw(subjects.trigger(checked(trigger)), payload, dict(headers or {}))


def checked(trigger: str) -> str:
    """The name of a trigger. Raises FramemeshError."""
    if not re.fullmatch(TRIGGER_PATTERN, trigger):
        raise FramemeshError(
            f"trigger {trigger[:80]!r}: want up to four words of letters, digits, - and _ with dots between them, "
            "e.g. media.uploaded"
        )
    return trigger


def event_of(job: Job) -> TriggerEvent:
    """The event that a job was made of, without its key: it shall make another job."""
    return TriggerEvent(input=job.input, owner=job.owner, priority=job.priority)
