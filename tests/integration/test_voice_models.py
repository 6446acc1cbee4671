"""The voice worker's model and figures on real speech.

Needs the assets: set FRAMEMESH_ASSETS, or run `framemesh assets pull`. A test whose file is missing skips.
"""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest

from framemesh import assets, audio
from framemesh.errors import FramemeshError
from framemesh.messages import AudioTask, Voice, Word
from services.voice.measure import measure
from services.voice.speech import SpeechDetector, weights
from services.voice.worker import VoiceInference, VoiceSettings
from tests.unit.test_voice_sound import Samples, noise, silence, sine, voice

START = 1_790_000_000.25
RATE = 16_000


def need(name: str) -> Path:
    path = assets.find(name)
    if path is None:
        pytest.skip(f"asset {name} is not here: set FRAMEMESH_ASSETS or run `framemesh assets pull {name}`")
    return path


@cache
def sound(name: str) -> Samples:
    return audio.decode(need(name).read_bytes())


@cache
def speaker(channel: int) -> Samples:
    with av.open(str(need("stereo-speakers"))) as container:
        parts = [frame.to_ndarray().reshape(-1, 2)[:, channel] for frame in container.decode(audio=0)]
    return np.asarray(np.concatenate(parts).astype(np.float32) / 32768, np.float32)


@cache
def detector() -> SpeechDetector:
    return SpeechDetector(weights())


def heard(samples: Samples, **more: Any) -> Voice:
    return measure(samples, start=START, probabilities=detector().probabilities(samples), **more)


# -- where somebody speaks ----------------------------------------------------------------------------


def test_the_detector_is_that_of_faster_whisper() -> None:
    from faster_whisper.vad import get_vad_model

    samples = sound("jfk")[: 100 * 512]
    theirs = get_vad_model()(np.copy(samples))
    # Theirs leaves the last 64 samples out.
    assert detector().probabilities(samples)[:-1] == pytest.approx(np.ravel(theirs)[:-1], abs=1e-5)


def test_the_detector_takes_any_length_and_changes_nothing() -> None:
    samples = np.copy(sound("jfk")[:1000])
    assert [len(detector().probabilities(samples[:n])) for n in (0, 1, 511, 512, 513, 1000)] == [0, 1, 1, 1, 2, 2]
    assert np.array_equal(samples, sound("jfk")[:1000])


@pytest.mark.parametrize(
    ("samples", "label"),
    [
        (silence(5), "silence"),
        (noise(5, 0.0005), "silence"),
        (noise(5, 0.05), "no speech"),
        (sine(440, 5, 0.3), "no speech"),
        (sine(220, 5, 0.1) + sine(277.2, 5, 0.1) + sine(329.6, 5, 0.1), "no speech"),
    ],
    ids=["zero", "a quiet room", "noise", "a tone", "a chord"],
)
def test_what_nobody_says_is_no_speech(samples: Samples, label: str) -> None:
    found = heard(samples)
    assert found.label == label
    assert found.confidence > 0.8
    assert found.pitch_median_hz is None


def test_a_pulse_train_may_pass_for_speech_but_never_fails() -> None:
    assert heard(voice(120, 3.0)).label in {"speech", "no speech"}


def test_stretches_of_the_speech() -> None:
    found = heard(sound("jfk"))
    assert found.label == "speech"
    # As the level shows every 40 ms: "And so my fellow Americans", "ask", "not", "what your …", "ask what …".
    marked = [(0.34, 2.10), (3.30, 3.70), (4.00, 4.30), (5.42, 7.66), (8.19, 10.54)]
    assert [edge - START for stretch in found.speech for edge in stretch] == pytest.approx(
        np.ravel(marked).tolist(), abs=0.1
    )
    assert (found.pauses, round(found.longest_pause_s or 0, 1)) == (4, 1.2)


# -- figures ------------------------------------------------------------------------------------------


def test_figures_of_the_president() -> None:
    found = heard(sound("jfk"))
    assert found.pitch_median_hz == pytest.approx(240, rel=0.05)  # an orator's voice: harmonics 240 Hz apart
    assert 160 < (found.pitch_low_hz or 0) < 200
    assert 270 < (found.pitch_high_hz or 0) < 310
    assert found.loudness_lufs == pytest.approx(-15.5, abs=0.3)
    assert found.syllables_per_s is not None
    assert found.syllables_per_s * found.speech_s == pytest.approx(28, rel=0.2)  # counted in the text
    assert found.missing == {"words_per_minute": "no transcript"}


@pytest.mark.parametrize(("channel", "low", "high", "syllables"), [(0, 85, 105, 23), (1, 115, 145, 9)])
def test_figures_of_two_men(channel: int, low: float, high: float, syllables: int) -> None:
    found = heard(speaker(channel))
    assert low < (found.pitch_median_hz or 0) < high
    assert (found.syllables_per_s or 0) * found.speech_s == pytest.approx(syllables, rel=0.4)


def test_words_by_time() -> None:
    said = [
        Word(text=str(n), start=START + at, end=START + at + 0.2, confidence=1)
        for n, at in enumerate(np.linspace(0.4, 10.3, 22))
    ]
    assert heard(sound("jfk"), words=said).words_per_minute == pytest.approx(22 * 60 / 10.2, rel=0.02)


def test_the_same_sound_has_the_same_figures() -> None:
    assert heard(sound("jfk")) == heard(np.copy(sound("jfk")))


def test_windows_sum_up_to_the_whole() -> None:
    samples, window, overlap = sound("jfk"), 5 * RATE, RATE
    whole = heard(samples)
    starts = range(0, len(samples) - overlap, window - overlap)
    parts = [
        measure(
            part := samples[at : at + window],
            start=START + at / RATE,
            probabilities=detector().probabilities(part),
            overlap=1.0 if at else 0.0,
        )
        for at in starts
    ]
    assert sum(part.duration_s for part in parts) == pytest.approx(11.0)
    assert sum(part.speech_s for part in parts) == pytest.approx(whole.speech_s, rel=0.05)
    stretches = [stretch for part in parts for stretch in part.speech]
    assert all(first[1] <= second[0] + 1e-3 for first, second in pairwise(stretches))
    assert sum(len(part.pitch_contour_hz or []) for part in parts) == 110


@pytest.mark.parametrize("gain", [0.03, 0.3])
def test_only_the_loudness_depends_on_the_gain(gain: float) -> None:
    loud, quiet = heard(sound("hotwords")), heard(sound("hotwords") * np.float32(gain))
    assert quiet.pitch_median_hz == pytest.approx(loud.pitch_median_hz, rel=0.03)
    assert quiet.jitter_percent == pytest.approx(loud.jitter_percent, rel=0.1)
    assert quiet.loudness_lufs == pytest.approx((loud.loudness_lufs or 0) + 20 * np.log10(gain), abs=0.2)


# -- the worker ---------------------------------------------------------------------------------------


def worker(**settings: Any) -> VoiceInference:
    nobody = cast(Any, None)  # what is called here needs no servers
    return VoiceInference(VoiceSettings(**settings), nobody, nobody)


def test_the_worker_from_samples_to_findings() -> None:
    voices = worker()
    voices.load()
    assert voices.model_name == "silero-pyin"
    assert voices.model_sha256 == hashlib.sha256(weights().read_bytes()).hexdigest()
    task = AudioTask(
        source="jfk",
        run="r1",
        seq=0,
        timestamp=START,
        bytes=1,
        captured_at=START,
        duration=11,
        overlap=1,
        model=voices.kind,
    )
    broken = np.full(RATE, np.nan, np.float32)
    batch = [voices.preprocess(samples, task) for samples in (sound("jfk"), broken, silence(1), silence(0))]
    (found,), (nothing,), *_ = [voices.postprocess(output, task) for output in voices.infer(batch)]
    assert found == heard(sound("jfk"), overlap=1.0)
    assert isinstance(nothing, Voice)
    assert set(nothing.missing.values()) == {"samples that are not numbers"}


def test_a_model_that_is_not_silero_is_refused() -> None:
    with pytest.raises(FramemeshError, match="is not Silero VAD v6"):
        SpeechDetector(need("squeezenet"))


def test_missing_weights_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.voice.speech.find_spec", lambda _: None)
    with pytest.raises(FramemeshError, match=r"faster-whisper 1\.2\.1"):
        weights()
