"""The steps of one function that wait, by priority; and the slots of a function whose concurrency has a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

from framemesh import subjects
from framemesh.bus import Bus, Conflict
from framemesh.messages import Message
from framemesh.pull import Envelope, Pull
from framemesh.steps.job import Priority, StepTask

PATIENCE_S = 1.0
"""What waits here for longer is handed back: another worker may be free."""
UPSIDE_DOWN = 16
"""Every so manieth time the lowest priority comes first, so that it never waits for ever."""


class Lanes:
    """Takes the steps of one function, the highest priority first, and no more than there are hands for."""

    def __init__(self, pulls: Sequence[Pull[StepTask]], arrived: asyncio.Event) -> None:
        self._pulls = list(pulls)
        self._arrived = arrived
        self._taken = 0

    @classmethod
    async def open(cls, bus: Bus, function: str) -> Self:
        """Ask for nothing yet."""
        arrived = asyncio.Event()
        return cls(
            [
                await bus.pull(subjects.step_consumer(function, priority), StepTask, window=0, arrived=arrived)
                for priority in Priority
            ],
            arrived,
        )

    async def take(self, most: int, wait: float = PATIENCE_S) -> list[Envelope[StepTask]]:
        """Up to ``most`` steps, as many as there are; none after ``wait`` seconds."""
        for pull in self._pulls:
            await pull.ask(most)
        if all(pull.idle for pull in self._pulls):
            self._arrived.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        return await self._waiting(most)

    async def _waiting(self, most: int) -> list[Envelope[StepTask]]:
        found: list[Envelope[StepTask]] = []
        self._taken += 1
        for pull in self._pulls if self._taken % UPSIDE_DOWN else reversed(self._pulls):
            if len(found) < most and not pull.idle:
                found += await pull.batch(most - len(found), wait=0)
        return found

    async def rest(self, older: float = PATIENCE_S) -> None:
        """There are no hands: hand back what has waited for ``older`` seconds."""
        for pull in self._pulls:
            await pull.hand_back(older)

    async def close(self) -> None:
        """Hand back what has not been begun."""
        for pull in self._pulls:
            await pull.stop()


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
