"""Jitter and shimmer of voices whose every pulse is known."""

from __future__ import annotations

import numpy as np
import pytest

from services.voice.perturbation import Perturbation, cycles, perturbation
from services.voice.pitch import Track, track
from services.voice.untold import Untold
from tests.unit.test_voice_sound import DAMPED, Samples, local, noise, pulses, silence, voice, voiced, whisper


def tracked(samples: Samples) -> Track:
    return track(samples, [(0.0, len(samples) / 16_000)], low_hz=65, high_hz=500)


def measured(samples: Samples) -> Perturbation:
    return perturbation(samples, tracked(samples))


@pytest.mark.parametrize("jitter", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("hz", [80, 120, 170])
def test_jitter_is_that_of_the_pulses(hz: float, jitter: float) -> None:
    times = pulses(hz, 3.0, jitter, seed=3)
    found = measured(voiced(times, 3.0, formants=DAMPED)).jitter
    assert found == pytest.approx(local(np.diff(times)), rel=0.03)


@pytest.mark.parametrize("shimmer", [2.0, 5.0, 10.0])
@pytest.mark.parametrize("hz", [80, 120, 170])
def test_shimmer_is_that_of_the_pulses(hz: float, shimmer: float) -> None:
    times = pulses(hz, 3.0)
    chance = np.random.default_rng(5)
    heights = 1 + shimmer / 100 * np.sqrt(np.pi) / 2 * chance.standard_normal(len(times))
    found = measured(voiced(times, 3.0, heights=heights, formants=DAMPED))
    assert found.shimmer == pytest.approx(local(heights), rel=0.03)
    assert found.jitter < 0.2


@pytest.mark.parametrize("hz", [80, 120, 200, 300])
def test_a_perfect_voice_has_next_to_none(hz: float) -> None:
    found = measured(voice(hz, 2.0))
    assert found.jitter < 0.15
    assert found.shimmer < 1


def test_more_is_more_in_a_vowel_that_rings_too() -> None:
    found = [measured(voiced(pulses(150, 3.0, jitter), 3.0)).jitter for jitter in (0, 0.5, 1, 2, 4)]
    assert found == sorted(found)
    assert found[2] == pytest.approx(1.0, rel=0.35)


def test_noise_20_db_below_changes_little() -> None:
    sound = voiced(pulses(120, 3.0, 1.0), 3.0)
    assert measured(sound + noise(3.0, 0.01)).jitter == pytest.approx(measured(sound).jitter, rel=0.1)


def test_cycles_are_found_all_and_once() -> None:
    sound = voiced(pulses(100, 1.0), 1.0, formants=DAMPED)
    found = cycles(sound, tracked(sound), 0, 101)
    assert len(found.lengths) == len(found.heights) == len(found.likeness)
    assert len(found.lengths) == pytest.approx(98, abs=2)
    assert found.lengths == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (whisper(2.0), "cycles"),
        (silence(2.0), "fewer than 30 cycles"),
        (voice(100, 0.2), "fewer than 30 cycles"),
        (voice(110, 2.0) + noise(2.0, 0.08), "too noisy"),
    ],
    ids=["whisper", "silence", "short", "noisy"],
)
def test_what_cannot_be_told_has_a_reason(sound: Samples, reason: str) -> None:
    with pytest.raises(Untold, match=reason):
        measured(sound)
