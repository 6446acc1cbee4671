"""A source's sound: decoded on the way, cut into windows on the clock of its frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from framemesh.audio import RATE, Cut, Samples, Windower, mix
from services.reader.pieces import Line, Piece, Sound


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

    def hear(self, end: float, /, *, anew: bool = False) -> None:
        """Sound up to ``end`` seconds from its beginning is here; ``anew`` where an unknown time has passed."""

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

    def add(self, piece: Piece) -> Iterator[Window]:
        """Take the next piece; gives the windows that are complete now."""
        yield from self.before(piece)
        samples = self._filled(piece)
        channels = list(samples.T) if self._each else [mix(samples)]
        parts = zip(self._windowers, channels, strict=True)
        yield from self._windows([windower.add(np.ascontiguousarray(part)) for windower, part in parts])
        self._position += len(samples)

    def before(self, piece: Piece) -> Iterator[Window]:
        """What is complete because the next piece does not follow on it."""
        channels = piece.samples.shape[1] if self._each else 1
        if channels != len(self._windowers):
            yield from self.finish()
            self._windowers = [Windower(self._length, self._overlap) for _ in range(channels)]
            self._first = piece.begin if self._first is None else self.end
            self._position = 0
        if piece.apart:
            self._position += self._missing(piece)
            yield from self._windows([windower.gap(self._position) for windower in self._windowers])

    def finish(self) -> Iterator[Window]:
        """What is left."""
        yield from self._windows([windower.finish() for windower in self._windowers])

    def _filled(self, piece: Piece) -> NDArray[np.float32]:
        """The samples, after silence for a few that were lost: or all that follows would be early."""
        missing = self._missing(piece)
        return np.pad(piece.samples, ((missing, 0), (0, 0))) if missing else piece.samples

    def _missing(self, piece: Piece) -> int:
        """Samples that were lost before a piece."""
        return max(0, round((piece.begin - self.end) * RATE))

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

    def __init__(
        self, windows: Windows, clock: Clock, keep: Callable[[Window, float], None], *, until: float = math.inf
    ) -> None:
        """``until`` is how much is wanted, seconds from the beginning."""
        self._windows, self._clock, self._keep = windows, clock, keep
        self._until = until
        self._line = Line()
        self.seconds = 0.0
        """How much there was, without what was lost."""

    @property
    def end(self) -> float:
        """How far the source has come, seconds from the beginning."""
        return self._line.end

    def take(self, sound: Sound) -> None:
        """Take the next piece."""
        self.seconds += sound.seconds
        self._add(self._line.add(sound))

    def finish(self) -> None:
        """The connection has ended: hand on what is left."""
        self._add(self._line.finish())
        self._hand_on(self._windows.finish())

    def _add(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            wanted = piece.until(self._until)
            if len(wanted.samples):
                self._hand_on(self._windows.before(wanted))  # by what was known of the time until here
                windows = list(self._windows.add(wanted))
                self._clock.hear(self._windows.end, anew=wanted.anew)
                self._hand_on(windows)

    def _hand_on(self, windows: Iterable[Window]) -> None:
        for window in windows:
            self._keep(window, self._clock.at(window.begin))
