"""What the figures share: levels of sound, runs of frames, and stretches in seconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import oaconvolve  # type: ignore[import-untyped]

from framemesh.audio import RATE, Samples

Values = NDArray[np.float64]
Stretch = tuple[float, float]
"""Begin and end, seconds from the first sample of the window."""

FULL_SCALE = 32767 / 32768
"""The highest sample that 16 bits hold; the lowest, -1, is beyond it."""
_LEAST_POWER = 1e-20


def decibels(power: Values) -> Values:
    """Power, as the square of the full scale, in dBFS; digital zero is -200."""
    return 10 * np.log10(np.maximum(power, _LEAST_POWER))


def power(samples: Samples, width_s: float, hop_s: float, *, smooth: bool = False) -> Values:
    """Mean square around every ``hop_s``, shape [1 + n // hop]; frame i has its middle at i * ``hop_s``.

    Over ``width_s``, each sample as much as the other, or ``smooth`` in a Hann window. The mean of the samples
    does not count: it is an offset of the recorder. Outside of the window there is silence.
    """
    width, hop = round(width_s * RATE), round(hop_s * RATE)
    squares = np.square(samples.astype(np.float64) - samples.mean(dtype=np.float64))
    if smooth:
        window = np.hanning(width + 1)
        smoothed = oaconvolve(squares, window / window.sum())[width // 2 :: hop][: 1 + len(samples) // hop]
        return np.asarray(np.maximum(smoothed, 0))
    total = np.concatenate(([0.0], np.cumsum(squares)))
    middles = np.arange(0, len(samples) + 1, hop)
    edges = np.clip(middles[:, None] + (-(width // 2), width // 2), 0, len(samples))
    return np.asarray((total[edges[:, 1]] - total[edges[:, 0]]) / width)


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where ``flags`` [n] are set: first index, and index after the last one, of each run."""
    steps = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in steps.reshape(-1, 2)]


def joined(stretches: Sequence[Stretch], gap_s: float) -> list[Stretch]:
    """Stretches in order of time; those less than ``gap_s`` apart become one."""
    out: list[Stretch] = []
    for begin, end in sorted(stretches):
        if out and begin - out[-1][1] < gap_s:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    return out


def clipped(stretches: Sequence[Stretch], begin: float, end: float) -> list[Stretch]:
    """What lies between ``begin`` and ``end``."""
    inside = ((max(first, begin), min(last, end)) for first, last in stretches)
    return [(first, last) for first, last in inside if first < last]


def length(stretches: Sequence[Stretch]) -> float:
    """Seconds together."""
    return sum(end - begin for begin, end in stretches)
