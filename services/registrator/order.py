"""Puts results back into the order of their frames.

Several workers finish out of order, and the tasks of one that was killed come late.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from framemesh.messages import Delivery, Result

T = TypeVar("T")

LIVE_WAIT = 1.0
LOSSLESS_WAIT = 35.0
"""Seconds that a gap is waited for. A lossless task comes again after its worker's ack wait; a live one may have
been dropped for a newer frame and never come."""
FIRST_FRAMES = 16
"""A lane that begins this early in a run begins at its first frame."""
REMEMBERED = 4096
"""Results that were given up, or that came before their lane began, of which a lane knows whether they came."""
KEPT_RUNS = 4
"""Runs of one model whose lanes are kept: the last results of a run come while the next one has begun."""


@dataclass
class _Lane(Generic[T]):
    """Results of one model in one run; of sound, those of one channel."""

    first: int
    next: int
    stride: int
    wait: float
    heap: list[tuple[int, int, float, T]] = field(default_factory=list)
    skipped: dict[int, None] = field(default_factory=dict)
    early: dict[int, None] = field(default_factory=dict)

    def drain(self) -> Iterator[T]:
        while self.heap and self.heap[0][0] <= self.next:
            seq, _, _, item = heapq.heappop(self.heap)
            if seq == self.next:
                self.next += self.stride
                yield item

    def skip_to(self, seq: int) -> None:
        for missing in range(self.next, seq, self.stride)[-REMEMBERED:]:
            self.skipped[missing] = None
        _forget_oldest(self.skipped)
        self.next = seq

    def is_new(self, seq: int) -> bool:
        """Whether a result that comes after its turn comes for the first time."""
        if seq >= self.first:
            return self.skipped.pop(seq, seq) is None
        new = seq not in self.early
        self.early[seq] = None
        _forget_oldest(self.early)
        return new


class Order(Generic[T]):
    """Hands items out by the number of their frames or windows, each once, a lane for each run, model and stride.

    The stride is part of it because the router may be given other routes in the middle of a run. So is the
    channel, as each counts its own windows.
    """

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, str, int, int | None], _Lane[T]] = {}
        self._count = itertools.count()

    def push(self, result: Result, item: T, now: float) -> list[T]:
        """Take an item; returns those that are next. One that came before is dropped."""
        lane = self._lane(result)
        if result.nth < lane.next:
            return [item] if lane.is_new(result.nth) else []
        heapq.heappush(lane.heap, (result.nth, next(self._count), now, item))
        return list(lane.drain())

    def passed(self, result: Result) -> None:
        """Another has handed this one out for good: its lane goes on after it, and none before it is wanted."""
        lane = self._lane(result)
        lane.first, lane.next = 0, max(lane.next, result.nth + result.stride)

    def due(self, now: float) -> list[T]:
        """Items that have waited long enough for those before them."""
        return [item for lane in self._lanes.values() for item in self._overdue(lane, now)]

    def flush(self) -> list[T]:
        """Everything that still waits: nothing more will come."""
        return self.due(float("inf"))

    def waiting(self) -> Iterator[T]:
        """Items that wait for others."""
        return (entry[3] for lane in self._lanes.values() for entry in lane.heap)

    def _lane(self, result: Result) -> _Lane[T]:
        key = (result.run, result.model, result.stride, None if result.number is None else result.channel)
        if key not in self._lanes:
            first = 0 if result.nth < FIRST_FRAMES * result.stride else result.nth
            # A model that follows another gets no task where that one found nothing: its gaps mean nothing.
            gaps = result.delivery is Delivery.LIVE or result.regions is not None
            wait = LIVE_WAIT if gaps else LOSSLESS_WAIT
            self._lanes[key] = _Lane(first, first, result.stride, wait)
            self._forget_old_runs(result.model)
        return self._lanes[key]

    def _forget_old_runs(self, model: str) -> None:
        lanes = [key for key in self._lanes if key[1] == model]
        old = list(dict.fromkeys(run for run, *_ in lanes))[:-KEPT_RUNS]
        for key in lanes:
            if key[0] in old and not self._lanes[key].heap:
                del self._lanes[key]

    @staticmethod
    def _overdue(lane: _Lane[T], now: float) -> Iterator[T]:
        last = max((seq for seq, _, since, _ in lane.heap if now - since > lane.wait), default=-1)
        while lane.heap and lane.heap[0][0] <= last:
            lane.skip_to(lane.heap[0][0])
            yield from lane.drain()


def _forget_oldest(seqs: dict[int, None]) -> None:
    while len(seqs) > REMEMBERED:
        del seqs[next(iter(seqs))]
