"""Pitch: how high a voice is, when, and how far it moves.

By probabilistic YIN (Mauch & Dixon, ICASSP 2014) as librosa has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np

from framemesh.audio import RATE, Samples
from framemesh.locks import locked
from services.voice.sound import Stretch, Values, runs
from services.voice.untold import Untold

HOP = 160
HOP_S = HOP / RATE
FRAME = 1024
"""Samples that a pitch is told from. With 2048, librosa's own choice, moving voices lose it and breath has one."""
AT_BOUND = 1.003
"""A pitch so near to the lower bound is none: librosa gives the bound where nothing between the two fits."""
AROUND = 5
"""Frames before and after a stretch that its pitch is also told from."""
LEAST_FRAMES = 3
LEAST_VOICED = 10
LEAST_VOICED_SHARE = 0.1
CELL_S = 0.1
_FULL_CELL = round(CELL_S / HOP_S)


@dataclass(frozen=True)
class Track:
    """Pitch every 10 ms: ``hz`` [1 + n // 160], NaN where unvoiced. Frame i has its middle at i * 10 ms."""

    hz: Values

    @property
    def voiced(self) -> list[tuple[int, int]]:
        """First frame, and frame after the last one, of each voiced run."""
        return runs(~np.isnan(self.hz))

    def between(self, begin: float, end: float) -> Track:
        """The same with nothing before ``begin`` and from ``end`` on, seconds."""
        times = np.arange(len(self.hz)) * HOP_S
        return Track(np.where((times >= begin) & (times < end), self.hz, np.nan))


class Pitch(NamedTuple):
    """Percentiles of the pitch over voiced time."""

    median: float
    low: float
    high: float
    semitones: float


def track(samples: Samples, stretches: Sequence[Stretch], *, low_hz: float, high_hz: float) -> Track:
    """Pitch of the stretches of ``samples`` [n], seconds, between two bounds."""
    hz = np.full(1 + len(samples) // HOP, np.nan)
    for begin, end in stretches:
        first, last = round(begin / HOP_S), min(round(end / HOP_S) + 1, len(hz))
        origin = max(0, first - AROUND)
        part = samples[origin * HOP : (last + AROUND) * HOP]
        hz[first:last] = _pyin(part, low_hz, high_hz)[first - origin :][: last - first]
    for begin, end in runs(~np.isnan(hz)):
        if end - begin < LEAST_FRAMES:
            hz[begin:end] = np.nan
    return Track(hz)


@cache
def warm_up() -> None:
    """Have librosa compile, which takes 20 s on a machine where it never ran.

    It keeps what it has compiled beside itself, for all processes. Two that did so at once would keep a mixture,
    and it ends each process that loads it (SIGSEGV): so one at a time.
    """
    with locked(Path(librosa.__file__).parent):
        _librosa_pyin(np.zeros(FRAME, np.float32), 65, 500)


def _pyin(samples: Samples, low_hz: float, high_hz: float) -> Values:
    warm_up()
    hz = _librosa_pyin(samples.astype(np.float32, copy=False), low_hz, high_hz)
    return np.where(hz > low_hz * AT_BOUND, hz, np.nan)


def _librosa_pyin(samples: Samples, low_hz: float, high_hz: float) -> Values:
    found: Values = librosa.pyin(samples, fmin=low_hz, fmax=high_hz, sr=RATE, frame_length=FRAME, hop_length=HOP)[
        0
    ]
    return found


def check_voiced(track: Track, speaking_s: float) -> None:
    """Raise Untold for a whisper: in 100 frames of breath a few look voiced, in speech some 50 are."""
    voiced = np.count_nonzero(~np.isnan(track.hz))
    if voiced < LEAST_VOICED or voiced * HOP_S < LEAST_VOICED_SHARE * speaking_s:
        raise Untold("unvoiced")


def pitch(track: Track) -> Pitch:
    """Median, 5th and 95th percentile in Hz, and the distance of the two in semitones. Raises Untold."""
    hz = track.hz[~np.isnan(track.hz)]
    if not len(hz):
        raise Untold("unvoiced")
    low, median, high = (float(value) for value in np.percentile(hz, (5, 50, 95)))
    return Pitch(median, low, high, 12 * float(np.log2(high / low)))


def contour(track: Track, begin: float, end: float) -> list[float | None]:
    """Median pitch of each 0.1 s from ``begin`` to ``end``; None where less than half of it is voiced."""
    first, last = round(begin / HOP_S), round(end / HOP_S)
    cells = [track.hz[index : min(index + _FULL_CELL, last)] for index in range(first, last, _FULL_CELL)]
    return [
        round(float(np.nanmedian(cell)), 1) if 2 * np.count_nonzero(~np.isnan(cell)) >= _FULL_CELL else None
        for cell in cells
    ]
