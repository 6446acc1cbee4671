"""A source's sound: decoded on the way, cut into windows on the clock of its frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from framemesh.audio import RATE, Cut, Samples, Windower, mix

GAP_SECONDS = 0.25
"""Sound that is missing for this long was lost; less is jitter of the source's own times."""


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A piece of decoded sound: float32 [samples, channels] at RATE. ``pts`` is seconds, None where unknown."""

    pts: float | None
    samples: NDArray[np.float32]

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / RATE


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A piece of a source's sound that is ready to be stored."""

    begin: float
    """Seconds from the beginning of the sound."""
    samples: Samples
    overlap: float
    tail: float
    channel: int | None

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / RATE


class Clock(Protocol):
    """Turns seconds from the beginning of the sound into seconds since the epoch."""

    def hear(self, end: float, /) -> None:
        """Sound up to ``end`` seconds from its beginning is here."""

    def at(self, offset: float, /) -> float:
        """Time of a moment."""


class Windows:
    """Cuts the sound of one source, each channel by itself or all of them mixed."""

    def __init__(self, length_s: float, overlap_s: float, *, each_channel: bool) -> None:
        self._length, self._overlap = length_s, overlap_s
        self._each = each_channel
        self._windowers: list[Windower] = []
        self._first: float | None = None
        self._position = 0

    @property
    def end(self) -> float:
        """Seconds of sound so far, from its beginning."""
        return (self._first or 0.0) + self._position / RATE

    def add(self, sound: Sound) -> Iterator[Window]:
        """Take the next piece; gives the windows that are complete now."""
        channels = list(sound.samples.T) if self._each else [mix(sound.samples)]
        if len(channels) != len(self._windowers):
            yield from self.finish()
            self._windowers = [Windower(self._length, self._overlap) for _ in channels]
            self._first = self.end if sound.pts is None or self._first is not None else sound.pts
            self._position = 0
        yield from self._close_gap(sound)
        for number, (windower, samples) in enumerate(zip(self._windowers, channels, strict=True)):
            yield from self._windows(number, windower.add(np.ascontiguousarray(samples)))
        self._position += len(sound.samples)

    def finish(self) -> Iterator[Window]:
        """What is left."""
        for number, windower in enumerate(self._windowers):
            yield from self._windows(number, windower.finish())

    def _close_gap(self, sound: Sound) -> Iterator[Window]:
        if sound.pts is None or sound.pts - self.end < GAP_SECONDS:
            return
        self._position = round((sound.pts - (self._first or 0.0)) * RATE)
        for number, windower in enumerate(self._windowers):
            yield from self._windows(number, windower.gap(self._position))

    def _windows(self, number: int, cuts: list[Cut]) -> Iterator[Window]:
        channel = number if self._each else None
        for cut in cuts:
            begin = (self._first or 0.0) + cut.begin / RATE
            yield Window(begin, cut.samples, cut.overlap_s, cut.tail_s, channel)


class Listening:
    """The sound of one connection to a source: cut into windows, each handed on with its time."""

    def __init__(self, windows: Windows, clock: Clock, keep: Callable[[Window, float], None]) -> None:
        self._windows, self._clock, self._keep = windows, clock, keep

    def take(self, sound: Sound) -> float:
        """Take a piece; returns where it ends, seconds from the beginning."""
        windows = list(self._windows.add(sound))
        self._clock.hear(self._windows.end)
        self._hand_on(windows)
        return self._windows.end

    def finish(self) -> None:
        """The connection has ended: hand on what is left."""
        self._hand_on(self._windows.finish())

    def _hand_on(self, windows: Iterable[Window]) -> None:
        for window in windows:
            self._keep(window, self._clock.at(window.begin))
