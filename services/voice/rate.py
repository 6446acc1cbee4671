"""Rate: syllables and words by time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.signal import find_peaks  # type: ignore[import-untyped]

from framemesh.audio import Samples
from services.voice.pitch import HOP_S, Track
from services.voice.sound import Stretch, clipped, decibels, length, power
from services.voice.untold import Untold

WIDTH_S = 0.064
SILENCE_DB = 25.0
DIP_DB = 2.0
VOICED_NEAR = 2
"""Frames: the loudest moment of a syllable may lie beside its voice."""
LOUD_PERCENTILE = 99
LEAST_SPEAKING_S = 0.5
LEAST_TALKING_S = 1.0


def nuclei(samples: Samples, stretches: Sequence[Stretch], track: Track) -> list[float]:
    """Times of the syllable nuclei, seconds: de Jong & Wempe 2009 (doi:10.3758/BRM.41.2.385).

    Peaks of the intensity that are voiced, less than 25 dB below the loud parts, and 2 dB above the dips on
    both of their sides. ``track`` has a pitch for each 10 ms of ``samples`` [n].
    """
    levels = decibels(power(samples, WIDTH_S, HOP_S, smooth=True))
    times = np.arange(len(levels)) * HOP_S
    spoken = np.zeros(len(levels), np.bool_)
    for begin, end in stretches:
        spoken |= (times >= begin) & (times < end)
    if not spoken.any():
        return []
    least = np.percentile(levels[spoken], LOUD_PERCENTILE) - SILENCE_DB
    # Silence around it, so that a nucleus at the edge of the window is a peak too.
    around = np.pad(levels, 1, constant_values=levels.min() - DIP_DB)
    peaks = find_peaks(around, height=least, prominence=DIP_DB)[0] - 1
    return [float(times[peak]) for peak in peaks if spoken[peak] and _voiced(track, int(peak))]


def _voiced(track: Track, frame: int) -> bool:
    near = track.hz[max(0, frame - VOICED_NEAR) : frame + VOICED_NEAR + 1]
    return not bool(np.isnan(near).all())


def syllables_per_s(nuclei: Sequence[float], stretches: Sequence[Stretch], begin: float, end: float) -> float:
    """Nuclei by seconds of speech between ``begin`` and ``end``, pauses left out. Raises Untold."""
    speaking = length(clipped(stretches, begin, end))
    if speaking < LEAST_SPEAKING_S:
        raise Untold(f"less than {LEAST_SPEAKING_S} s of speech")
    found = sum(begin <= time < end for time in nuclei)
    if not found:
        raise Untold("no syllable that stands out")
    return found / speaking


def words_per_minute(words: int | None, stretches: Sequence[Stretch]) -> float:
    """Words by the time from the first to the last speech, pauses and all. Raises Untold."""
    if words is None:
        raise Untold("no transcript")
    talking = stretches[-1][1] - stretches[0][0] if stretches else 0.0
    if talking < LEAST_TALKING_S:
        raise Untold(f"less than {LEAST_TALKING_S:.0f} s of speech")
    return 60 * words / talking
