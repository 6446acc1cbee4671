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


@dataclass
class _Lane(Generic[T]):
    """Results of one model in one run."""

    first: int
    next: int
    stride: int
    wait: float
    heap: list[tuple[int, int, float, T]] = field(default_factory=list)
    skipped: dict[int, None] = field(default_factory=dict)

    def drain(self) -> Iterator[T]:
        while self.heap and self.heap[0][0] <= self.next:
            seq, _, _, item = heapq.heappop(self.heap)
            if seq == self.next:
                self.next += self.stride
                yield item

    def skip_to(self, seq: int) -> None:
        for missing in range(self.next, seq, self.stride):
            self.skipped[missing] = None
        while len(self.skipped) > REMEMBERED:
            del self.skipped[next(iter(self.skipped))]
        self.next = seq


class Order(Generic[T]):
    """Hands items out by the ``seq`` of their results, each once, a lane for each model and run."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, str], _Lane[T]] = {}
        self._count = itertools.count()

    def push(self, result: Result, item: T, now: float) -> list[T]:
        """Take an item; returns those that are next. One that came before is dropped."""
        lane = self._lane(result)
        if result.seq < lane.next:
            return [item] if self._is_late(lane, result.seq) else []
        heapq.heappush(lane.heap, (result.seq, next(self._count), now, item))
        return list(lane.drain())

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
        key = (result.run, result.model)
        if key not in self._lanes:
            first = 0 if result.seq < FIRST_FRAMES * result.stride else result.seq
            wait = LIVE_WAIT if result.delivery is Delivery.LIVE else LOSSLESS_WAIT
            self._forget_other_runs(result)
            self._lanes[key] = _Lane(first, first, result.stride, wait)
        return self._lanes[key]

    def _forget_other_runs(self, result: Result) -> None:
        for key, lane in list(self._lanes.items()):
            if key[0] != result.run and key[1] == result.model and not lane.heap:
                del self._lanes[key]

    @staticmethod
    def _is_late(lane: _Lane[T], seq: int) -> bool:
        if seq < lane.first:
            return True
        return lane.skipped.pop(seq, seq) is None

    @staticmethod
    def _overdue(lane: _Lane[T], now: float) -> Iterator[T]:
        while lane.heap and now - min(entry[2] for entry in lane.heap) > lane.wait:
            lane.skip_to(lane.heap[0][0])
            yield from lane.drain()
