"""Jobs by the clock: the server keeps the schedules and fires them, ``services/jobs`` makes jobs of what it fires.

While nobody makes jobs, what fires waits: of several runs that were missed, one is made up for.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from framemesh import subjects
from framemesh.bus import Bus, BusError, Conflict
from framemesh.errors import FramemeshError
from framemesh.headers import EXPECTED
from framemesh.messages import Message
from framemesh.steps.job import Owner, Priority
from framemesh.steps.plan import NAME_PATTERN, Plan

_FIELDS = 6
_ALIASES = ("@yearly", "@monthly", "@weekly", "@daily", "@hourly")


class JobRequest(Message):
    """Asks for a job (``jobs.trigger.<name>``)."""

    plan: Plan
    input: dict[str, Any] = Field(default_factory=dict)
    owner: Owner = "nobody"
    priority: Priority = Priority.NORMAL
    key: str | None = Field(None, max_length=256, description="The same key and owner: the same job")


class Schedule(JobRequest):
    """A job that is made again and again (``jobs.sched.cron.<name>``)."""

    name: str = Field(pattern=NAME_PATTERN)
    cron: str = Field(
        max_length=200, description="Second, minute, hour, day, month, weekday; or @daily, @every 5m"
    )
    zone: str = Field("UTC", max_length=64, description="Time zone, e.g. Europe/Berlin")


def six_fields(cron: str) -> str:
    """The expression with seconds: one of five fields begins at second 0. Raises FramemeshError."""
    parts = cron.split()
    if cron in _ALIASES or re.fullmatch(r"@every \d+(?:h|m|s)(?:\d+(?:m|s))*", cron):
        return cron
    if len(parts) == _FIELDS - 1:
        parts = ["0", *parts]
    if len(parts) != _FIELDS:
        raise FramemeshError(
            f"cron: {cron!r} has {len(parts)} fields: want minute, hour, day, month and weekday, with the second "
            "before them if you like, as in '30 6 * * mon-fri'; or @hourly, @daily, @every 5m"
        )
    return " ".join(parts)


def checked_zone(zone: str) -> str:
    """The time zone, if there is one of that name. Raises FramemeshError."""
    if zone not in zoneinfo.available_timezones():
        raise FramemeshError(f"zone: there is no time zone {zone!r}: give one such as Europe/Berlin or UTC")
    return zone


class Schedules:
    """The schedules of a mesh."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def all(self) -> list[Schedule]:
        """Every schedule, by name."""
        read = self._bus.read(subjects.JOBS.name, subjects.job_schedule("*"), 1, Schedule)
        return sorted([stored.message async for stored in read], key=lambda schedule: schedule.name)

    async def get(self, name: str) -> Schedule:
        """One schedule. Raises FramemeshError."""
        stored = await self._bus.newest(subjects.JOBS.name, subjects.job_schedule(name))
        if stored is None:
            raise FramemeshError(f"schedule {name}: there is none of that name: `framemesh schedules list`")
        return Schedule.model_validate_json(stored[1])

    async def add(self, schedule: Schedule) -> bool:
        """Add a schedule, if there is none of its name. Raises FramemeshError."""
        try:
            await self._put(schedule, {EXPECTED: "0"})
        except Conflict:
            return False
        return True

    async def put(self, schedule: Schedule) -> None:
        """Add a schedule, or replace the one of its name. Raises FramemeshError."""
        await self._put(schedule, {})

    async def _put(self, schedule: Schedule, conditions: Mapping[str, str]) -> None:
        headers: Mapping[str, str] = {
            "Nats-Schedule": six_fields(schedule.cron),
            "Nats-Schedule-Target": subjects.job_trigger(schedule.name),
            **conditions,
        }
        if not schedule.cron.startswith("@every"):
            headers = {**headers, "Nats-Schedule-Time-Zone": checked_zone(schedule.zone)}
        payload = schedule.model_dump_json().encode()
        try:
            await self._bus.publish_raw(subjects.job_schedule(schedule.name), payload, dict(headers), patience=10)
        except Conflict:
            raise
        except BusError as error:
            raise FramemeshError(
                f"cron: the server does not take {schedule.cron!r} ({error}): check its fields"
            ) from error

    async def remove(self, name: str) -> None:
        """Delete a schedule. Raises FramemeshError where there is none."""
        await self.get(name)
        await self._bus.purge(subjects.JOBS.name, subjects.job_schedule(name))

    async def run(self, name: str) -> None:
        """Make its job now, beside its times."""
        schedule = await self.get(name)
        await self._bus.publish_raw(subjects.job_trigger(name), schedule.model_dump_json().encode(), {})
