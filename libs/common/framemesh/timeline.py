"""Messages by time, found without an index: along a source's subject, times only rise."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from framemesh.bus import Bus
from framemesh.messages import Frame, Message

M = TypeVar("M", bound=Message)


async def position(
    bus: Bus, stream: str, subject: str, model: type[M], key: Callable[[M], float], at: float
) -> int:
    """Stream sequence of the first message on ``subject`` whose ``key`` is ``at`` or more, by bisection.

    One past the end when there is none. The key must only rise along the stream.
    """
    info = await bus.stream_info(stream)
    if info is None:
        return 1
    low, high = max(1, info.state.first_seq), info.state.last_seq + 1
    while low < high:
        middle = (low + high) // 2
        found = await bus.at_or_after(stream, subject, middle, model)
        if found is None or key(found.message) >= at:
            high = middle
        else:
            low = found.seq + 1
    return low


async def between(bus: Bus, stream: str, subject: str, since: float, until: float) -> AsyncIterator[Frame]:
    """Frames on ``subject`` with ``since`` <= timestamp <= ``until``, in order."""
    begin = await position(bus, stream, subject, Frame, lambda frame: frame.timestamp, since)
    async for stored in bus.read(stream, subject, begin, Frame):
        if stored.message.timestamp > until:
            return
        if stored.message.timestamp >= since:
            yield stored.message


async def thinned(frames: AsyncIterator[Frame], fps: float) -> AsyncIterator[Frame]:
    """Only the frames that a video of ``fps`` pictures a second shows: the last one due at each."""
    start: float | None = None
    waiting: Frame | None = None
    due = 0
    async for frame in frames:
        start = frame.timestamp if start is None else start
        next_due = math.ceil((frame.timestamp - start) * fps - 1e-3)
        if waiting is not None and next_due > due:
            yield waiting
        waiting, due = frame, next_due
    if waiting is not None:
        yield waiting
