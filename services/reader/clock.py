"""Time of a source's frames and sound: for frames strictly rising, over all runs, whatever the source says."""

from __future__ import annotations

import time

STEP = 0.001
"""Seconds between frames whose own times do not rise."""
DRIFT = 0.0005
"""Seconds a second by which a camera's sound may run slow."""


class LiveClock:
    """Timestamps of a camera: when its frames arrive, by a clock that never steps back."""

    def __init__(self, after: float = 0.0) -> None:
        self._wall = time.time() - time.monotonic()
        self._last = after
        self._heard = after

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._wall + time.monotonic()

    def heard(self, moment: float) -> float:
        """Time of a window that begins at ``moment``; over all connections it never goes back."""
        self._heard = moment if moment >= self._heard else self._heard + STEP
        return self._heard

    def stamp(self, pts: float | None) -> float:
        """Timestamp of a frame that has just arrived, seconds since the epoch."""
        self._last = max(self.now(), self._last + STEP)
        return self._last


class FileClock:
    """Timestamps of a file: its own time line, laid from the moment it was opened."""

    def __init__(self, fps: float | None, after: float = 0.0, sound: float | None = None) -> None:
        """``sound`` is when its sound begins, where it has one: seconds, below 0 for before the first picture."""
        self._lead = min(0.0, sound or 0.0)
        self.base = max(time.time(), after + STEP - self._lead)
        self._step = 1 / fps if fps else 1 / 25
        # Sound and pictures share the source's own line; pictures alone begin with the first that can be seen.
        self._first: float | None = None if sound is None else 0.0
        self._offset = -self._step

    def stamp(self, pts: float | None) -> float:
        """Timestamp of the next frame, seconds since the epoch."""
        if pts is not None and self._first is None:
            self._first = pts
        offset = self._offset + self._step if pts is None or self._first is None else pts - self._first
        self._offset = max(offset, self._offset + STEP, 0.0)
        return self.base + self._offset

    def hear(self, end: float, *, anew: bool = False) -> None:
        """A file's sound says itself when it was."""

    def at(self, pts: float) -> float:
        """Time of a moment of the file that is no frame, seconds since the epoch."""
        return self.base + max(self._lead, pts - (self._first or 0.0))

    @property
    def offset(self) -> float:
        """Seconds from the beginning of the file to the last frame."""
        return max(0.0, self._offset)


class LiveSound:
    """Where a camera's sound lies on the clock of its frames: at its arrival, without the network's jitter.

    Sound comes in bursts and never early, so the earliest arrival tells when it was made; one of long ago tells
    less, as no two clocks run alike.
    """

    def __init__(self, clock: LiveClock) -> None:
        self._clock = clock
        self._begin = float("inf")
        self._at = clock.now()

    def hear(self, end: float, *, anew: bool = False) -> None:
        """Sound up to ``end`` seconds from its beginning is here; ``anew`` where an unknown time has passed."""
        now = self._clock.now()
        earliest = float("inf") if anew else self._begin + DRIFT * (now - self._at)
        self._begin = min(earliest, now - end)
        self._at = now

    def at(self, offset: float) -> float:
        """Time of the moment ``offset`` seconds from the beginning, seconds since the epoch."""
        return self._clock.heard(self._begin + offset)
