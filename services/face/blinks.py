"""Blinks of one track."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

CLOSED, OPEN = 0.52, 0.62
"""Of the open eye's level: below the one an eye is closed, above the other open again."""
LONGEST_BLINK = 0.8
RISE, FALL, FALL_CLOSED = 0.3, 1.0, 10.0
"""Seconds in which the open eye's level follows; a long closure may be a squint or another light."""
LEAST_RATE = 8.0
LEAST_SECONDS = 10.0
WINDOW = 60

TOO_YOUNG = f"the eyes were not yet watched for {LEAST_SECONDS:.0f} s"
TOO_SLOW = f"fewer than {LEAST_RATE:.0f} frames a second: blinks would be missed"

_LONGEST_STEP = 1.1 / LEAST_RATE
"""A tenth more: camera clocks wobble."""


@dataclass
class _Second:
    """What was seen in one second."""

    number: int
    watched: float = 0.0
    frames: int = 0
    blinks: int = 0


class Blinks:
    """Counts blinks of ``lids.upright_edges`` over time, relative to the level of the same eyes when open.

    Closing and opening have different thresholds, so that noise makes no blinks. A closure that lasts longer than
    ``LONGEST_BLINK``, or in which no frame came for a while, counts for none. Holds a minute.
    """

    def __init__(self) -> None:
        self.closed = False
        self._level: float | None = None
        self._last = -math.inf
        self._first = math.inf
        self._since: float | None = None
        self._seconds: deque[_Second] = deque()

    def feed(self, at: float, edges: float) -> None:
        """Take what is seen at a time in seconds; times rise."""
        step = at - self._last
        second = self._second(at)
        second.frames += 1
        if step <= _LONGEST_STEP:
            second.watched += step
        else:
            self._since = None  # what happened in between was not seen
        self._first, self._last = min(self._first, at), at
        if self._level is None:
            self._level = edges
            return
        self._change(at, edges / max(self._level, 1e-6), step, second)
        self._follow(edges, step)

    def per_minute(self, at: float) -> float | str:
        """Blinks in a minute over the last one, or why that cannot be told."""
        self._forget(at)
        watched = sum(second.watched for second in self._seconds)
        if watched >= LEAST_SECONDS:
            return sum(second.blinks for second in self._seconds) * 60 / watched
        return TOO_YOUNG if at - self._first < LEAST_SECONDS or self._fast() else TOO_SLOW

    def _fast(self) -> bool:
        """Whether most of the frames came fast enough, and there are just too few of them yet."""
        frames = sum(second.frames for second in self._seconds)
        return bool(self._seconds) and frames >= LEAST_RATE * len(self._seconds)

    def _change(self, at: float, ratio: float, step: float, second: _Second) -> None:
        if not self.closed and ratio < CLOSED:
            self.closed = True
            self._since = at if step <= _LONGEST_STEP else None
        elif self.closed and ratio > OPEN:
            self.closed = False
            if self._since is not None and at - self._since <= LONGEST_BLINK:
                second.blinks += 1
            self._since = None

    def _follow(self, edges: float, step: float) -> None:
        level = edges if self._level is None else self._level
        seconds = FALL_CLOSED if self.closed else RISE if edges > level else FALL
        self._level = level + (edges - level) * -math.expm1(-step / seconds)

    def _second(self, at: float) -> _Second:
        number = math.floor(at)
        if not self._seconds or self._seconds[-1].number != number:
            self._seconds.append(_Second(number))
            self._forget(at)
        return self._seconds[-1]

    def _forget(self, at: float) -> None:
        while self._seconds and self._seconds[0].number <= at - WINDOW - 1:
            self._seconds.popleft()
