"""A source's sound: decoded on the way, cut into windows on the clock of its frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from framemesh.audio import RATE, Cut, Samples, Windower, mix

GAP_SECONDS = 0.25
"""Sound that is missing for this long was lost: a window ends there."""
JITTER_SECONDS = 0.04
"""Sound that is missing for this long is made up for with silence; less is jitter of the source's own times."""


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
        yield from self.before(sound)
        samples = self._filled(sound)
        channels = list(samples.T) if self._each else [mix(samples)]
        pieces = zip(self._windowers, channels, strict=True)
        yield from self._windows([windower.add(np.ascontiguousarray(piece)) for windower, piece in pieces])
        self._position += len(samples)

    def before(self, sound: Sound) -> Iterator[Window]:
        """What is complete because the next piece does not follow on it."""
        channels = sound.samples.shape[1] if self._each else 1
        if channels != len(self._windowers):
            yield from self.finish()
            self._windowers = [Windower(self._length, self._overlap) for _ in range(channels)]
            self._first = self.end if sound.pts is None or self._first is not None else sound.pts
            self._position = 0
        if sound.pts is not None and sound.pts - self.end >= GAP_SECONDS:
            self._position = round((sound.pts - (self._first or 0.0)) * RATE)
            yield from self._windows([windower.gap(self._position) for windower in self._windowers])

    def finish(self) -> Iterator[Window]:
        """What is left."""
        yield from self._windows([windower.finish() for windower in self._windowers])

    def _filled(self, sound: Sound) -> NDArray[np.float32]:
        """The samples, after silence for a few that were lost: or all that follows would be early."""
        missing = 0.0 if sound.pts is None else sound.pts - self.end
        if missing < JITTER_SECONDS:
            return sound.samples
        return np.pad(sound.samples, ((round(missing * RATE), 0), (0, 0)))

    def _windows(self, cuts: list[list[Cut]]) -> Iterator[Window]:
        """Windows of the cuts of each channel, in the order of their times."""
        windows = [
            Window(
                (self._first or 0.0) + cut.begin / RATE,
                cut.samples,
                cut.overlap_s,
                cut.tail_s,
                channel if self._each else None,
            )
            for channel, of_channel in enumerate(cuts)
            for cut in of_channel
        ]
        yield from sorted(windows, key=lambda window: window.begin)


class Listening:
    """The sound of one connection to a source: cut into windows, each handed on with its time."""

    def __init__(self, windows: Windows, clock: Clock, keep: Callable[[Window, float], None]) -> None:
        self._windows, self._clock, self._keep = windows, clock, keep

    @property
    def end(self) -> float:
        """Where the sound so far ends, seconds from the beginning."""
        return self._windows.end

    def take(self, sound: Sound) -> float:
        """Take a piece; returns where it ends, seconds from the beginning."""
        self._hand_on(self._windows.before(sound))  # by what was known of the time until here
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
