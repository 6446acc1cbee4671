"""The steps of one function that wait, by priority; and the slots of a function whose concurrency has a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Self

from framemesh import subjects
from framemesh.bus import Bus, Conflict
from framemesh.messages import Message
from framemesh.pull import Envelope, Pull
from framemesh.steps.job import Priority, StepTask

PATIENCE_S = 1.0
"""What waits here for longer is handed back: another worker may be free."""
ON_ITS_WAY_S = 0.05
UPSIDE_DOWN = 16
"""Every so manieth time the lowest priority comes first, so that it never waits for ever."""


_RANKS = {priority: rank for rank, priority in enumerate(Priority)}


class Lane:
    """The steps of one priority."""

    def __init__(self, pull: Pull[StepTask]) -> None:
        self.pull = pull
        self._more = False  # whether the server had more when it sent the last one

    @property
    def coming(self) -> bool:
        """Whether nothing is here, but something is on its way."""
        return self._more and self.pull.idle

    def given_up(self) -> None:
        """What was on its way went to somebody else."""
        self._more = False

    async def take(self, most: int) -> list[Envelope[StepTask]]:
        """What is here."""
        if self.pull.idle:
            return []
        found = await self.pull.batch(most, wait=0)
        self._more = bool(found and found[-1].meta.pending)
        return found


class Lanes:
    """Takes the steps of one function, the highest priority first, and no more than there are hands for."""

    def __init__(self, lanes: Sequence[Lane], arrived: asyncio.Event) -> None:
        self._lanes = list(lanes)
        self._arrived = arrived
        self._taken = 0

    @classmethod
    async def open(cls, bus: Bus, function: str) -> Self:
        """Ask for nothing yet."""
        arrived = asyncio.Event()
        consumers = [subjects.step_consumer(function, priority) for priority in Priority]
        pulls = [await bus.pull(consumer, StepTask, window=0, arrived=arrived) for consumer in consumers]
        return cls([Lane(pull) for pull in pulls], arrived)

    def waiting_above(self, priority: Priority) -> bool:
        """Whether something of a higher priority waits, as far as is known here."""
        above = self._lanes[: _RANKS[priority]]
        return any(not lane.pull.idle or lane.coming for lane in above)

    async def take(self, most: int, wait: float = PATIENCE_S) -> list[Envelope[StepTask]]:
        """Up to ``most`` steps, as many as there are; none after ``wait`` seconds."""
        for lane in self._lanes:
            await lane.pull.ask(most)
        if all(lane.pull.idle for lane in self._lanes) and not await self._arrives(wait):
            return []
        self._taken += 1
        found: list[Envelope[StepTask]] = []
        for lane in self._lanes if self._taken % UPSIDE_DOWN else reversed(self._lanes):
            if len(found) < most:
                await self._let_come(lane)
                found += await lane.take(most - len(found))
        return found

    async def _let_come(self, lane: Lane) -> None:
        """What is of a higher priority is not overtaken by what only came sooner."""
        until = time.monotonic() + ON_ITS_WAY_S
        while lane.coming:
            if not await self._arrives(until - time.monotonic()):
                lane.given_up()

    async def _arrives(self, wait: float) -> bool:
        self._arrived.clear()
        try:
            async with asyncio.timeout(wait):
                return await self._arrived.wait()
        except TimeoutError:
            return False

    async def rest(self, older: float = PATIENCE_S) -> None:
        """There are no hands: hand back what has waited for ``older`` seconds."""
        for lane in self._lanes:
            await lane.pull.hand_back(older)

    async def close(self) -> None:
        """Hand back what has not been begun."""
        for lane in self._lanes:
            await lane.pull.stop()


class Slot(Message):
    """Who holds this message may do one step of the function."""

    number: int


class Slots:
    """Bounds how many steps of a function are done at a time in the whole mesh: there are so many messages.

    One that is held by a worker which dies comes back to the others when its ack wait is over.
    """

    def __init__(self, pull: Pull[Slot]) -> None:
        self._pull = pull

    @classmethod
    async def open(cls, bus: Bus, function: str) -> Self:
        """Join those who share the slots."""
        return cls(await bus.pull(subjects.slot_consumer(function), Slot, window=0))

    async def take(self, wait: float = PATIENCE_S) -> Envelope[Slot] | None:
        """A slot, to be given back by a nak; None when none was free for ``wait`` seconds."""
        await self._pull.ask(1)
        found = await self._pull.batch(1, wait=wait)
        return found[0] if found else None

    async def rest(self) -> None:
        """No slot is wanted now."""
        await self._pull.hand_back()

    async def close(self) -> None:
        """Give back what is not in use."""
        await self._pull.stop()


async def set_slots(bus: Bus, function: str, count: int) -> None:
    """Make it ``count`` slots. Whoever holds one too many may end what it does."""
    info = await bus.stream_info(subjects.JOBS.name, subjects.job_slot(function, "*"))
    there = {int(subject.rpartition(".")[2]) for subject in (info.state.subjects or {})} if info else set[int]()
    for number in there - set(range(count)):
        await bus.purge(subjects.JOBS.name, subjects.job_slot(function, number))
    for number in set(range(count)) - there:
        try:
            await bus.publish(
                subjects.job_slot(function, number),
                Slot(number=number),
                msg_id=f"{function}/{number}/{asyncio.get_running_loop().time()}",
                after=0,
            )
        except Conflict:
            continue  # somebody else was first
