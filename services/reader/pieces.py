"""The pieces of a source's sound, laid on a line of time that damaged times do not tear."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from framemesh.audio import RATE

GAP_SECONDS = 0.25
"""A piece that lies this far from the end of the one before does not go on from it."""
SURE_SECONDS = 0.5
"""What jumps is believed when it goes on for this long: several pieces may have their times from a single one."""
JITTER_SECONDS = 0.04
"""Sound that is missing for this long is made up for with silence; less is jitter of the source's own times."""
FIRST_PIECES = 4
"""Where so many disagree about where the sound begins, the first one is believed."""


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A piece of decoded sound: float32 [samples, channels] at RATE. ``pts`` is seconds, None where unknown."""

    pts: float | None
    samples: NDArray[np.float32]

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / RATE

    def goes_on_at(self, moment: float) -> bool:
        """Whether it does not say that it begins elsewhere."""
        return self.pts is None or abs(self.pts - moment) < GAP_SECONDS


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A piece of sound that has its place: ``begin`` is seconds, never before the end of the one before."""

    begin: float
    samples: NDArray[np.float32]
    apart: bool
    """Whether something is missing between it and the one before."""
    anew: bool = False
    """Whether nobody knows how much: the source counts from elsewhere."""

    def until(self, moment: float) -> Piece:
        """What of it comes before ``moment``, maybe nothing."""
        if self.begin + len(self.samples) / RATE <= moment:
            return self
        return replace(self, samples=self.samples[: max(0, round((moment - self.begin) * RATE))])


class Line:
    """Lays the pieces of a sound one after the other.

    A piece lies where it says as long as it goes on from the one before. One that does not is held back for the
    next ones. If they go on from it, they are believed: a jump ahead is sound that was lost; after a jump back the
    source counts from elsewhere, and time goes on from where it was. If not, the time was damaged, and the piece
    lies directly after the one before.
    """

    def __init__(self) -> None:
        self.end = 0.0
        """Where the sound so far ends, seconds."""
        self._said: float | None = None  # the same by the source's own times, None before the first piece
        self._shift = 0.0
        self._held: list[Sound] = []

    def add(self, sound: Sound) -> list[Piece]:
        """Take the next piece; gives those that have their place now."""
        if self._said is None:
            self._held.append(sound)
            return self._begin(self._beginning())
        return self._judge(sound) if self._held else self._take(sound)

    def finish(self) -> list[Piece]:
        """No more pieces come: gives those that were held back."""
        begun = self._begin(self._held[0].pts or 0.0) if self._held and self._said is None else []
        return [*begun, *self._doubt()]

    def _beginning(self) -> float | None:
        """Where the sound begins by the first two pieces in a row that agree; None as long as none do."""
        for number, (one, two) in enumerate(pairwise(self._held)):
            if one.pts is None or two.goes_on_at(one.pts + one.seconds):
                return (one.pts or 0.0) - _seconds(self._held[:number])
        return (self._held[0].pts or 0.0) if len(self._held) == FIRST_PIECES else None

    def _begin(self, begin: float | None) -> list[Piece]:
        if begin is None:
            return []
        self.end = self._said = begin
        held, self._held = self._held, []
        return [piece for sound in held for piece in self.add(sound)]

    def _take(self, sound: Sound) -> list[Piece]:
        """Lay a piece, or hold it back where it does not go on from the one before."""
        if sound.goes_on_at(self._said or 0.0):
            return [self._lay(sound)]
        self._held = [sound]
        return []

    def _judge(self, sound: Sound) -> list[Piece]:
        """Lay what is held back as soon as it is known where."""
        if not sound.goes_on_at((self._held[0].pts or 0.0) + _seconds(self._held)):
            return [*self._doubt(), *self._take(sound)]
        self._held.append(sound)
        if _seconds(self._held) < SURE_SECONDS:
            return []
        agreed = any(other.pts is not None for other in self._held[1:])
        return self._believe() if agreed else self._doubt()

    def _believe(self) -> list[Piece]:
        (first, *others), self._held = self._held, []
        shift = self.end - (first.pts or 0.0)
        back, self._shift = shift > self._shift, max(shift, self._shift)
        return [replace(self._lay(first), apart=True, anew=back), *map(self._lay, others)]

    def _doubt(self) -> list[Piece]:
        held, self._held = self._held, []
        return [self._lay(replace(sound, pts=None)) for sound in held]

    def _lay(self, sound: Sound) -> Piece:
        pts = (self._said or 0.0) if sound.pts is None else sound.pts
        missing = pts + self._shift - self.end
        begin = self.end + (missing if missing >= JITTER_SECONDS else 0.0)
        self._said, self.end = pts + sound.seconds, begin + sound.seconds
        return Piece(begin, sound.samples, missing >= GAP_SECONDS)


def _seconds(sounds: Iterable[Sound]) -> float:
    return sum(sound.seconds for sound in sounds)
