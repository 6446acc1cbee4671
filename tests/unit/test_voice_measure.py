"""All figures of a window, on sound that is made, with speech where the test says."""

from __future__ import annotations

from itertools import pairwise
from types import NoneType
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from framemesh.errors import FramemeshError
from framemesh.messages import Voice, Word
from services.voice.loudness import loudness
from services.voice.measure import Choices, fault, measure
from services.voice.pauses import pauses
from services.voice.pitch import track
from services.voice.rate import nuclei
from services.voice.speech import stretches
from services.voice.untold import Untold
from services.voice.worker import VoiceSettings, choices
from tests.unit.test_voice_sound import (
    DAMPED,
    Samples,
    noise,
    probabilities,
    pulses,
    silence,
    sine,
    voice,
    voiced,
    whisper,
)

START = 1_790_000_000.25
NULLABLE = {name for name, field in Voice.model_fields.items() if NoneType in get_args(field.annotation)}
OF_SPEECH = NULLABLE - {"loudness_lufs", "loudness_deviation_db", "peak_dbfs"}


def measured(samples: Samples, said: Samples | None = None, **more: object) -> Voice:
    said = probabilities(samples) if said is None else said
    found = measure(samples, start=START, probabilities=said, **more)  # type: ignore[arg-type]
    check(found)
    return found


def check(found: Voice) -> None:
    """What holds for every finding: a number or a reason, stretches in order, and shares that fit."""
    assert {name for name in NULLABLE if getattr(found, name) is None} == set(found.missing)
    assert all(found.missing.values())
    assert found.speech_s <= found.duration_s + 1e-3
    assert sum(end - begin for begin, end in found.speech) == pytest.approx(found.speech_s, abs=1e-3)
    assert all(begin <= end for begin, end in found.speech)
    assert all(first[1] < second[0] for first, second in pairwise(found.speech))
    assert (found.label == "speech") == bool(found.speech)
    assert Voice.model_validate_json(found.model_dump_json()) == found


def train(gaps: list[float], speaking: float = 0.8, hz: float = 120) -> tuple[Samples, list[tuple[float, float]]]:
    """A voice with these gaps in it, after 0.3 s of silence, and where it speaks."""
    parts, spoken, at = [silence(0.3)], [], 0.3
    for gap in [*gaps, 0.3]:
        times = pulses(hz, speaking)
        parts += [voiced(times, speaking, formants=DAMPED), silence(gap - (speaking - times[-1]))]
        end = at + float(times[-1])  # a voice ends with its last pulse, not a cycle later
        spoken.append((at, end))
        at = end + gap
    return np.concatenate(parts), spoken


# -- speech and pauses --------------------------------------------------------------------------------


@pytest.mark.parametrize("gaps", [[0.5], [0.25, 0.4, 1.0], [2.0, 0.3]])
@pytest.mark.parametrize("hz", [90, 220])
def test_pauses_are_the_gaps(gaps: list[float], hz: float) -> None:
    sound, spoken = train(gaps, hz=hz)
    found = measured(sound, probabilities(sound, spoken))
    assert found.label == "speech"
    assert found.pauses == len(gaps)
    assert found.longest_pause_s == pytest.approx(max(gaps), rel=0.03)
    assert found.speech_s == pytest.approx(sum(end - begin for begin, end in spoken), rel=0.03)
    whole = spoken[-1][1] - spoken[0][0]
    assert found.pause_share == pytest.approx(sum(gaps) / whole, rel=0.03)
    for (begin, end), true in zip(found.speech, spoken, strict=True):
        assert (begin - START, end - START) == pytest.approx(true, abs=0.015)


def test_a_gap_that_the_detector_slept_through_is_a_pause_too() -> None:
    sound, _ = train([0.5])
    assert measured(sound).pauses == 1
    assert measured(sound).longest_pause_s == pytest.approx(0.5, rel=0.03)


def test_a_short_gap_is_the_closure_of_a_plosive() -> None:
    sound, spoken = train([0.12])
    assert measured(sound, probabilities(sound, spoken)).pauses == 0
    short = measured(sound, probabilities(sound, spoken), choices=Choices(pause_s=0.1))
    assert short.pauses == 1


def test_pauses_in_noise_are_those_of_the_detector() -> None:
    sound, spoken = train([0.6])
    found = measured(sound + noise(len(sound) / 16_000, 0.03), probabilities(sound, spoken))
    assert found.pauses == 1
    assert found.longest_pause_s == pytest.approx(0.6, abs=0.2)  # the detector's 32 ms, and room for onsets


def test_a_sound_that_is_no_speech_is_no_stretch() -> None:
    sound = np.concatenate((voice(120, 1.0), sine(1000, 1.0, 0.1), voice(120, 1.0)))
    found = stretches(sound, probabilities(sound, [(0, 1), (2, 3)]), threshold=0.5, pause_s=0.2)
    assert len(found) == 2
    assert np.ravel(found) == pytest.approx([0, 1, 2, 3], abs=0.1)


def test_a_pause_counts_in_the_window_where_it_ends() -> None:
    spoken = [(0.0, 1.0), (1.6, 2.0), (2.5, 3.0)]
    assert tuple(pauses(spoken, 0.0, 3.0)) == pytest.approx((2, 1.1 / 3, 0.6))
    assert tuple(pauses(spoken, 1.2, 3.0)) == pytest.approx((2, 0.9 / 1.8, 0.6))
    assert pauses(spoken, 1.6, 3.0).number == 2
    assert tuple(pauses(spoken, 1.7, 3.0)) == pytest.approx((1, 0.5 / 1.3, 0.5))
    assert tuple(pauses(spoken[:1], 0.0, 3.0)) == (0, 0, 0)
    with pytest.raises(Untold, match="no speech"):
        pauses(spoken, 3.0, 5.0)


# -- rate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [2, 3, 4, 5, 6])
def test_syllables_of_a_train(rate: float) -> None:
    seconds = 4.0
    times = np.arange(round(seconds * 16_000)) / 16_000
    opening = (0.03 + 0.97 * np.sin(np.pi * rate * times) ** 2).astype(np.float32)
    sound = voice(120, seconds) * opening
    found = measured(sound)
    assert found.syllables_per_s == pytest.approx(rate, rel=0.05)
    spoken = [(0.0, seconds)]
    assert len(nuclei(sound, spoken, track(sound, spoken, low_hz=65, high_hz=500))) == rate * seconds


def test_a_syllable_needs_a_voice() -> None:
    assert measured(whisper(3.0)).missing["syllables_per_s"] == "unvoiced"


def words(*middles: float) -> list[Word]:
    return [
        Word(text="word", start=START + middle - 0.1, end=START + middle + 0.1, confidence=1) for middle in middles
    ]


def test_words_per_minute_count_from_the_first_to_the_last_speech() -> None:
    sound, spoken = train([0.4])
    said = probabilities(sound, spoken)
    assert measured(sound, said, words=words(0.4, 0.8, 1.6, 1.9)).words_per_minute == pytest.approx(120, rel=0.03)
    # What is said in the tail is given with the next window, so it counts there, though it lies in its overlap.
    whole = measured(sound, said, words=words(0.4, 1.6))
    assert measured(sound, said, words=words(0.4, 1.6), overlap=0.9).words_per_minute == whole.words_per_minute
    assert measured(sound, said, words=words(0.4, 1.6), tail=0.5).words_per_minute == pytest.approx(66.7, rel=0.03)
    assert measured(sound, said, words=[]).words_per_minute == 0
    assert measured(sound, said).missing["words_per_minute"] == "no transcript"
    short = voice(120, 0.9)
    assert measured(short, words=words(0.4)).missing["words_per_minute"] == "less than 1 s of speech"


# -- loudness -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level_db", [0, -6, -20, -40])
def test_loudness_of_the_sine_of_the_standard(level_db: float) -> None:
    sound = sine(997, 5.0, 10 ** (level_db / 20))
    found = measured(sound, probabilities(sound, []))
    assert found.loudness_lufs == pytest.approx(-3.01 + level_db, abs=0.1)
    assert found.peak_dbfs == pytest.approx(level_db, abs=0.02)
    assert found.loudness_deviation_db == pytest.approx(0, abs=0.05)
    assert found.label == "no speech"
    assert {found.missing[name] for name in OF_SPEECH} == {"no speech"}


def test_loudness_is_gated_and_its_deviation_known() -> None:
    loud, quiet = sine(997, 4.0, 0.1), sine(997, 4.0, 0.05)
    assert loudness(np.concatenate((loud, silence(4.0)))).integrated == pytest.approx(-23.01, abs=0.3)
    found = measured(np.concatenate((loud, quiet)))
    assert found.loudness_deviation_db == pytest.approx(3.01, abs=0.1)


def test_clipping_leaves_loudness_and_takes_perturbation() -> None:
    sound = np.clip(voice(120, 2.0, level=0.6), -1, 1)
    found = measured(sound)
    assert found.clipped_share > 0.01
    assert found.loudness_lufs is not None
    assert found.pitch_median_hz == pytest.approx(120, rel=0.03)
    assert found.missing == {
        "jitter_percent": "clipped",
        "shimmer_percent": "clipped",
        "words_per_minute": "no transcript",
    }
    assert measured(10 * sound).peak_dbfs == 0


# -- what cannot be told ------------------------------------------------------------------------------


def test_speech_has_every_figure() -> None:
    sound, spoken = train([0.4])
    found = measured(sound, probabilities(sound, spoken), words=words(0.5))
    assert found.missing == {}
    assert found.confidence > 0.8
    assert found.pitch_median_hz == pytest.approx(120, rel=0.03)


@pytest.mark.parametrize("sound", [noise(5, 0.0005) + 0.05, silence(5) - 0.3])
def test_an_offset_of_the_recorder_is_silence_too(sound: Samples) -> None:
    assert measured(sound.astype(np.float32)).label == "silence"


@pytest.mark.parametrize("sound", [silence(5), noise(5, 0.0005)], ids=["zero", "a quiet room"])
def test_silence(sound: Samples) -> None:
    found = measured(sound)
    assert (found.label, found.confidence, found.speech, found.duration_s) == ("silence", 1, [], 5)
    assert {found.missing[name] for name in OF_SPEECH} == {"silence"}
    assert found.missing.get("peak_dbfs") == (None if sound.any() else "digital silence")


def test_one_quiet_word_is_no_silence() -> None:
    sound = np.concatenate((silence(9), voice(120, 0.5, level=0.003), silence(0.5)))
    assert measured(sound).label == "speech"


def test_a_whisper_has_no_pitch() -> None:
    found = measured(whisper(3.0))
    assert found.label == "speech"
    assert [name for name, reason in found.missing.items() if reason == "unvoiced"] == [
        "pitch_median_hz",
        "pitch_low_hz",
        "pitch_high_hz",
        "pitch_range_semitones",
        "pitch_contour_hz",
        "syllables_per_s",
        "jitter_percent",
        "shimmer_percent",
    ]
    assert found.pauses == 0


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (silence(0), "no samples"),
        (np.full(16_000, np.nan, np.float32), "samples that are not numbers"),
        (np.append(sine(100, 1), np.float32(np.inf)), "samples that are not numbers"),
    ],
)
def test_what_cannot_be_measured(sound: Samples, reason: str) -> None:
    found = measured(sound, probabilities(sound[:0]))
    assert fault(sound) == reason
    assert (found.label, found.confidence) == ("no speech", 0)
    assert set(found.missing.values()) == {reason}
    assert set(found.missing) == NULLABLE


def test_nothing_but_overlap() -> None:
    found = measured(voice(100, 1.0), overlap=1.0)
    assert (found.duration_s, set(found.missing.values())) == (0, {"nothing but overlap"})


@pytest.mark.parametrize("seconds", [0.0001, 0.01, 0.032, 0.1, 0.3, 0.39])
def test_short_windows_tell_what_they_can(seconds: float) -> None:
    found = measured(voice(150, 1.0)[: round(seconds * 16_000)])
    assert found.missing["loudness_lufs"] == "shorter than 0.4 s"
    assert found.missing["syllables_per_s"]
    assert seconds > 0.1 or found.missing["jitter_percent"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_comes_is_measured_or_has_a_reason(data: st.DataObject) -> None:
    length = data.draw(st.integers(0, 12_000))
    values = st.floats(width=32) if data.draw(st.booleans()) else st.floats(-1, 1, width=32)
    sound = data.draw(arrays(np.float32, length, elements=values))
    if data.draw(st.booleans()):  # hypothesis repeats one value: shake it, as sound never stands still
        scale = data.draw(st.sampled_from([1e-30, 1e-4, 0.1, 1.0, 1e30]))
        sound = (noise(1, 1, data.draw(st.integers(0, 99)))[:length] * np.float32(scale)).astype(np.float32)
    chunks = -(-length // 512)
    said = data.draw(arrays(np.float32, chunks, elements=st.floats(0, 1, width=32)))
    measured(sound, said, overlap=data.draw(st.floats(0, 2)), words=data.draw(st.none() | st.just(words(0.2))))


# -- windows ------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    gaps=st.lists(st.floats(0.25, 0.9), min_size=1, max_size=5),
    window=st.floats(2.0, 4.0),
    overlap=st.floats(1.0, 1.5),
)
def test_lengths_and_pauses_sum_up_over_windows(gaps: list[float], window: float, overlap: float) -> None:
    sound, spoken = train(gaps, speaking=0.5)
    whole = measured(sound, probabilities(sound, spoken))
    parts, at = [], 0.0
    cuts = [window + number * (window - overlap) for number in range(20)]
    # What begins within milliseconds of a cut may be seen by neither side.
    assume(all(abs(edge - cut) > 0.05 for cut in cuts for stretch in spoken for edge in stretch))
    while at == 0 or at + overlap < len(sound) / 16_000:
        part = sound[round(at * 16_000) : round((at + window) * 16_000)]
        inside = [(max(0.0, begin - at), end - at) for begin, end in spoken if end > at]
        parts.append(measured(part, probabilities(part, inside), overlap=overlap if at else 0.0))
        at += window - overlap
    assert sum(part.duration_s for part in parts) == pytest.approx(whole.duration_s, abs=0.001)
    assert sum(part.speech_s for part in parts) == pytest.approx(whole.speech_s, abs=0.05 * len(parts))
    assert sum(part.pauses or 0 for part in parts) == whole.pauses


def test_what_lies_in_the_overlap_does_not_count() -> None:
    sound = np.concatenate((voice(250, 1.0, formants=DAMPED), silence(0.5), voice(200, 1.5, formants=DAMPED)))
    found = measured(sound, overlap=1.0)
    assert found.duration_s == 2
    assert found.speech_s == pytest.approx(1.5, rel=0.03)
    assert found.pitch_low_hz == pytest.approx(200, rel=0.03)
    assert len(found.pitch_contour_hz or []) == 20
    assert found.pauses == 1
    assert found.longest_pause_s == pytest.approx(0.5, rel=0.03)
    assert found.pause_share == pytest.approx(0.5 / 2, rel=0.03)


def test_the_same_sound_has_the_same_figures() -> None:
    sound = voiced(pulses(130, 2.0, 1.0), 2.0) + noise(2.0, 0.003)
    assert measured(sound) == measured(sound.copy())


# -- settings -----------------------------------------------------------------------------------------


def test_the_settings_reach_the_figures() -> None:
    chosen = choices(VoiceSettings(voice_pitch_low_hz=75, voice_pitch_high_hz=300, voice_pause_s=0.3))
    assert chosen == Choices(speech_threshold=0.5, pitch_low_hz=75, pitch_high_hz=300, pause_s=0.3)
    assert choices(VoiceSettings()) == Choices()


def test_bounds_of_pitch_less_than_an_octave_apart_are_refused() -> None:
    with pytest.raises(FramemeshError, match="voice_pitch_high_hz: want 400 or more"):
        choices(VoiceSettings(voice_pitch_low_hz=200, voice_pitch_high_hz=399))
