"""What is known of each function, and what its users have set: paused or not, how many at a time, how fast."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable

from pydantic import Field
from redis.asyncio import Redis
from redis.exceptions import RedisError

from framemesh import subjects
from framemesh.bus import Bus, BusError, Conflict
from framemesh.errors import FramemeshError
from framemesh.headers import EXPECTED
from framemesh.messages import Message
from framemesh.steps.functions import Function
from framemesh.steps.lanes import set_slots
from framemesh.steps.plan import NAME_PATTERN
from framemesh.tasks import heed_cancellation

log = logging.getLogger(__name__)

LOOK_S = 2.0


class FunctionState(Message):
    """A function that some worker has, or had (``jobs.function.<name>``)."""

    name: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    timeout: float = Field(gt=0, description="Seconds of a try, where a plan says nothing")
    process: bool = False
    concurrency: int = Field(0, ge=0, le=10_000, description="Most at a time in the whole mesh; 0: no bound")
    rate: float = Field(0, ge=0, description="Most begun a second in the whole mesh; 0: no bound")
    paused: bool = False

    @property
    def bounded(self) -> bool:
        """Whether a step may not simply begin."""
        return self.paused or bool(self.concurrency or self.rate)

    @property
    def summary(self) -> str:
        """In a few words what has been set."""
        most = f"{self.concurrency} at a time" if self.concurrency else "any number at a time"
        fast = f", {self.rate:g} a second" if self.rate else ""
        return ("paused, " if self.paused else "") + most + fast


class Switchboard:
    """The functions of the mesh, and the settings that take effect without a restart."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def all(self) -> dict[str, FunctionState]:
        """Every function that a worker has ever had."""
        read = self._bus.read(subjects.JOBS.name, subjects.job_function("*"), 1, FunctionState)
        return {stored.message.name: stored.message async for stored in read}

    async def find(self, name: str) -> FunctionState | None:
        """One function; None where no worker has ever had it."""
        stored = await self._bus.last(subjects.JOBS.name, subjects.job_function(name), FunctionState)
        return stored.message if stored else None

    async def waiting(self) -> dict[str, int]:
        """How many steps of each function are to be done or being done."""
        info = await self._bus.stream_info(subjects.JOBS.name, subjects.job_step("*", "*", "*", "*"))
        counts: dict[str, int] = {}
        for subject in (info.state.subjects or {}) if info else ():
            function = subject.split(".")[2]
            counts[function] = counts.get(function, 0) + 1
        return counts

    async def announce(self, function: Function) -> FunctionState:
        """Say that a worker has a function; what its users have set stays."""

        def known(old: FunctionState | None) -> FunctionState:
            return FunctionState(
                name=function.name,
                description=function.description,
                timeout=function.timeout,
                process=function.process,
                concurrency=old.concurrency if old else function.concurrency,
                rate=old.rate if old else function.rate,
                paused=bool(old and old.paused),
            )

        return await self._change(function.name, known)

    async def change(self, name: str, **values: object) -> FunctionState:
        """Set ``paused``, ``concurrency`` or ``rate``. Raises FramemeshError for a function that is not known."""
        _check_name(name)

        def changed(old: FunctionState | None) -> FunctionState:
            if old is None:
                raise _unknown(name)
            return FunctionState.model_validate(old.model_dump() | values)

        return await self._change(name, changed)

    async def forget(self, name: str) -> None:
        """Take a function away, with what has been set. Raises FramemeshError for one that is not known."""
        _check_name(name)
        if await self.find(name) is None:
            raise _unknown(name)
        await set_slots(self._bus, name, 0)
        await self._bus.purge(subjects.JOBS.name, subjects.job_function(name))

    async def _change(self, name: str, change: Callable[[FunctionState | None], FunctionState]) -> FunctionState:
        subject = subjects.job_function(name)
        while True:
            stored = await self._bus.newest(subjects.JOBS.name, subject)
            old = FunctionState.model_validate_json(stored[1]) if stored else None
            new = change(old)
            if new.concurrency != (old.concurrency if old else 0):
                await set_slots(self._bus, name, new.concurrency)
            if new == old:
                return new
            headers = {EXPECTED: str(stored[0] if stored else 0)}
            try:
                await self._bus.publish_raw(subject, new.model_dump_json().encode(), headers)
            except Conflict:
                continue
            return new


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise _unknown(name)


def _unknown(name: str) -> FramemeshError:
    return FramemeshError(f"function {name}: no worker has ever had it: `framemesh functions list`")


class Switch:
    """The newest settings of one function, as a worker sees them."""

    def __init__(self, board: Switchboard, function: Function) -> None:
        self._board = board
        self._function = function
        self.state: FunctionState

    async def begin(self) -> None:
        """Announce the function, and read what has been set."""
        self.state = await self._board.announce(self._function)

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            heed_cancellation()
            await asyncio.sleep(LOOK_S)
            try:
                state = await self._board.find(self._function.name)
            except BusError as error:
                log.debug("functions cannot be read: %s", error)
                continue
            if state is None:  # somebody has deleted the stream
                await self.begin()
            elif state != self.state:
                log.info("%s: %s", state.name, state.summary)
                self.state = state


# The generic cell rate algorithm (ITU-T I.371): one time a function, the earliest at which the next may begin.
_TURN = """
local now, every = tonumber(ARGV[1]), tonumber(ARGV[2])
local due = tonumber(redis.call('GET', KEYS[1]) or '0')
if due > now then return tostring(due - now) end
redis.call('SET', KEYS[1], tostring(now + every), 'PX', math.ceil(every * 1000) + 1000)
return '0'
"""


class Rate:
    """Spaces out the steps of a function over the whole mesh. Without Redis nothing is held up."""

    def __init__(self, redis: Redis, function: str) -> None:
        self._key = f"rate:{function}"
        self._turn = redis.register_script(_TURN)

    async def wait(self, rate: float) -> None:
        """Wait for one's turn, where there is a rate."""
        while rate:
            try:
                rest = float(await self._turn(keys=[self._key], args=[time.time(), 1 / rate]))
            except RedisError as error:
                log.warning("the rate of %s is not kept, Redis does not answer: %s", self._key, error)
                return
            if rest <= 0:
                return
            await asyncio.sleep(min(rest, 1.0))
