"""Pitch of voices whose pulses are known."""

from __future__ import annotations

import numpy as np
import pytest

from services.voice.pitch import Track, check_voiced, contour, pitch, track
from services.voice.untold import Untold
from tests.unit.test_voice_sound import Samples, noise, pulses, silence, sine, voice, voiced, whisper


def tracked(samples: Samples, **more: float) -> Track:
    bounds = {"low_hz": 65.0, "high_hz": 500.0} | more
    return track(samples, [(0.0, len(samples) / 16_000)], **bounds)


@pytest.mark.parametrize("snr_db", [60, 20, 10])
@pytest.mark.parametrize("hz", [70, 90, 120, 180, 250, 350, 480])
def test_pitch_is_that_of_the_pulses(hz: float, snr_db: float) -> None:
    found = tracked(voice(hz, 1.0) + noise(1.0, 0.1 * 10 ** (-snr_db / 20)))
    assert pitch(found).median == pytest.approx(hz, rel=0.01)
    assert pitch(found).low == pytest.approx(hz, rel=0.03)
    assert pitch(found).high == pytest.approx(hz, rel=0.03)
    assert np.mean(~np.isnan(found.hz)) > 0.95


@pytest.mark.parametrize("hz", [80, 200, 440])
def test_pitch_of_a_tone(hz: float) -> None:
    assert pitch(tracked(sine(hz, 1.0, 0.2))).median == pytest.approx(hz, rel=0.01)


@pytest.mark.parametrize(("low", "high"), [(68, 112), (110, 220), (180, 400)])
def test_a_voice_that_moves_is_followed_to_both_ends(low: float, high: float) -> None:
    def hz(at: float) -> float:
        return float(low * (high / low) ** (0.5 - 0.5 * np.cos(np.pi * at)))

    found = tracked(voice(hz, 4.0))
    true = np.array([hz(frame * 0.01) for frame in range(len(found.hz))])
    assert np.nanmedian(np.abs(found.hz / true - 1)) < 0.01
    assert np.nanpercentile(np.abs(found.hz / true - 1), 95) < 0.03
    assert (pitch(found).low, pitch(found).median, pitch(found).high) == pytest.approx(
        tuple(np.percentile(true, (5, 50, 95))), rel=0.03
    )
    expected = 12 * np.log2(np.percentile(true, 95) / np.percentile(true, 5))
    assert pitch(found).semitones == pytest.approx(expected, rel=0.03)


def test_a_telephone_without_the_fundamental_keeps_the_pitch() -> None:
    harmonics = np.stack([sine(130.0 * n, 1.0, 0.05) for n in range(3, 12)]).sum(axis=0)
    assert pitch(tracked(harmonics)).median == pytest.approx(130, rel=0.01)


@pytest.mark.parametrize("sound", [whisper(2.0), noise(2.0, 0.1), silence(2.0)], ids=["whisper", "noise", "zero"])
def test_what_has_no_pitch_has_none(sound: Samples) -> None:
    assert np.mean(~np.isnan(tracked(sound).hz)) < 0.03


def test_no_pitch_has_a_reason() -> None:
    with pytest.raises(Untold, match="unvoiced"):
        pitch(Track(np.full(100, np.nan)))
    some = Track(np.array([np.nan] * 90 + [100] * 10))
    check_voiced(some, 1.0)
    with pytest.raises(Untold, match="unvoiced"):
        check_voiced(some, 2.0)
    with pytest.raises(Untold, match="unvoiced"):
        check_voiced(Track(some.hz[:99]), 0.5)


def test_pitch_is_told_of_the_stretches_alone_and_is_the_same_there() -> None:
    sound = np.concatenate((voice(100, 1.0), voice(200, 1.0), voice(300, 1.0)))
    found = track(sound, [(1.2, 1.8)], low_hz=65, high_hz=500)
    assert np.flatnonzero(~np.isnan(found.hz)).tolist() == list(range(120, 181))
    assert found.hz[120:181] == pytest.approx(200, rel=0.01)
    assert len(found.hz) == 301


def test_the_bounds_bound() -> None:
    assert np.nanmax(tracked(voice(150, 1.0), low_hz=100, high_hz=200).hz) <= 200
    quiet = tracked(sine(90, 1.0, 0.1), low_hz=200, high_hz=500)
    assert np.all(np.isnan(quiet.hz) | (quiet.hz >= 200))


def test_voice_that_begins_and_ends_is_voiced_there_alone() -> None:
    sound = np.concatenate((silence(0.5), voice(120, 0.6), silence(0.4)))
    ((begin, end),) = tracked(sound).voiced
    assert (begin * 0.01, end * 0.01) == pytest.approx((0.5, 1.1), abs=0.035)  # a frame is 0.064 s


def test_contour_has_a_value_every_tenth_of_a_second() -> None:
    sound = np.concatenate((voice(100, 0.5), silence(0.5), voice(200, 0.5)))
    found = contour(tracked(sound), 0.0, 1.5)
    assert len(found) == 15
    assert found[:4] == pytest.approx([100] * 4, rel=0.01)
    assert found[6:9] == [None] * 3
    assert found[11:14] == pytest.approx([200] * 3, rel=0.01)
    assert contour(tracked(sound), 0.5, 1.5) == found[5:]
    assert len(contour(tracked(sound), 0.5, 1.48)) == 10


def test_jitter_moves_no_median() -> None:
    sound = voiced(pulses(110, 2.0, jitter=2.0), 2.0)
    assert pitch(tracked(sound)).median == pytest.approx(110, rel=0.01)
