"""Voices that are made: pulses at known times through formants; and what all figures share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import signal  # type: ignore[import-untyped]

from services.voice.sound import clipped, decibels, joined, length, power, runs

RATE = 16_000
FINE = 160_000
Values = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]
A = ((700, 90), (1200, 110), (2600, 160))
DAMPED = ((700, 300), (1500, 400))
"""Formants so broad that nothing of a pulse is left when the next one comes."""


def pulses(hz: float | Callable[[float], float], seconds: float, jitter: float = 0.0, seed: int = 0) -> Values:
    """Times of glottal pulses whose periods differ at random, by ``jitter`` percent on average."""
    chance = np.random.default_rng(seed)
    spread = jitter / 100 * np.sqrt(np.pi) / 2
    at, out = 0.002, []
    while at < seconds:
        out.append(round(at * FINE) / FINE)
        at += (1 + spread * chance.standard_normal()) / (hz(at) if callable(hz) else hz)
    return np.array(out)


def local(values: Values) -> float:
    """Mean change of neighbours by the mean, percent."""
    return 100 * float(np.abs(np.diff(values)).mean() / values.mean())


def voiced(
    times: Values,
    seconds: float,
    *,
    heights: Values | None = None,
    formants: Sequence[tuple[float, float]] = A,
    level: float = 0.1,
) -> Samples:
    """A voice of these pulses, ``level`` RMS of the full scale, shape [seconds * 16000]."""
    sound = np.zeros(round(seconds * FINE))
    places = np.round(times * FINE).astype(int)
    inside = places < len(sound)
    sound[places[inside]] = 1 if heights is None else heights[: len(times)][inside]
    glottis = np.exp(-2 * np.pi * 300 / FINE)
    sound = signal.lfilter([1, -1], [1, -2 * glottis, glottis**2], sound)
    for middle, width in formants:
        radius = np.exp(-np.pi * width / FINE)
        sound = signal.lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * middle / FINE), radius**2], sound)
    sound = signal.resample_poly(sound, 1, FINE // RATE)
    return np.asarray(level * sound / np.sqrt(np.mean(sound**2)), np.float32)


def voice(hz: float | Callable[[float], float], seconds: float, **more: Any) -> Samples:
    return voiced(pulses(hz, seconds), seconds, **more)


def noise(seconds: float, level: float, seed: int = 0) -> Samples:
    chance = np.random.default_rng(seed)
    return (level * chance.standard_normal(round(seconds * RATE))).astype(np.float32)


def whisper(seconds: float, level: float = 0.05) -> Samples:
    """Noise through the same formants."""
    sound = np.random.default_rng(3).standard_normal(round(seconds * RATE))
    for middle, width in A:
        radius = np.exp(-np.pi * width / RATE)
        sound = signal.lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * middle / RATE), radius**2], sound)
    return np.asarray(level * sound / np.sqrt(np.mean(sound**2)), np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def sine(hz: float, seconds: float, level: float = 1.0) -> Samples:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def probabilities(samples: Samples, stretches: Sequence[tuple[float, float]] | None = None) -> Samples:
    """What a perfect detector says: 1 in the stretches, or everywhere."""
    out = np.zeros(-(-len(samples) // 512), np.float32)
    for begin, end in [(0.0, 1e9)] if stretches is None else stretches:
        out[int(begin * RATE / 512) : min(len(out), int(np.ceil(end * RATE / 512)))] = 1
    return out


def test_runs_have_a_begin_and_an_end_behind() -> None:
    assert runs(np.array([1, 1, 0, 1, 0, 0, 1], bool)) == [(0, 2), (3, 4), (6, 7)]
    assert runs(np.zeros(3, bool)) == []
    assert runs(np.zeros(0, bool)) == []


def test_stretches_are_joined_over_short_gaps_and_cut_to_a_part() -> None:
    stretches = [(2.0, 3.0), (0.0, 1.0), (1.1, 1.5), (2.5, 2.6)]
    assert joined(stretches, 0.2) == [(0.0, 1.5), (2.0, 3.0)]
    assert joined(stretches, 0.05) == [(0.0, 1.0), (1.1, 1.5), (2.0, 3.0)]
    assert clipped([(0.0, 1.0), (2.0, 3.0)], 0.5, 2.0) == [(0.5, 1.0)]
    assert length([(0.0, 1.0), (2.0, 2.5)]) == pytest.approx(1.5)


@pytest.mark.parametrize("smooth", [False, True])
def test_power_is_the_mean_square_whatever_the_offset(smooth: bool) -> None:
    found = power(sine(200, 1) * 0.1 + 0.3, 0.05, 0.01, smooth=smooth)
    assert found.shape == (101,)
    assert decibels(found[5:-5]) == pytest.approx(-23.01, abs=0.2)


def test_digital_zero_has_a_level() -> None:
    assert decibels(power(silence(0.1), 0.02, 0.005)) == pytest.approx(-200)
