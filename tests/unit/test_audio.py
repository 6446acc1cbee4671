"""Sound as models get it: decoded from whatever comes, and cut into windows that lose and double nothing."""

from __future__ import annotations

import io
import wave
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from framemesh import assets, audio
from framemesh.audio import MOST_SECONDS, RATE, Channels, Cut, Samples, Windower
from framemesh.bus import Reject

Floats = NDArray[np.float64]


def tone(seconds: float, hz: float = 300.0, rate: int = RATE, level: float = 0.5) -> Floats:
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def written(channels: Floats, rate: int = RATE, width: int = 2) -> bytes:
    """A WAV of [samples, channels]."""
    out = io.BytesIO()
    whole = np.rint(channels * (2 ** (8 * width - 1) - 1)).astype("<i4")
    with wave.open(out, "wb") as file:
        file.setnchannels(channels.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(whole.view("u1").reshape(*whole.shape, 4)[..., :width]).tobytes())
    return out.getvalue()


# -- decoding -----------------------------------------------------------------------------------------


def test_what_is_written_is_read() -> None:
    samples = tone(1).astype(np.float32)
    assert audio.decode(audio.wav(samples)) == pytest.approx(samples, abs=1 / 32768)


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_any_rate_and_width_comes_at_ours(rate: int, width: int) -> None:
    found = audio.decode(written(tone(1, rate=rate)[:, None], rate, width))
    assert len(found) == pytest.approx(RATE, abs=2)
    assert found[1000:-1000] == pytest.approx(tone(1)[1000 : len(found) - 1000], abs=0.01)


def test_eight_channels_are_mixed_to_their_mean() -> None:
    channels = np.stack([tone(1, 100 * (n + 1), level=0.9) for n in range(8)], axis=1)
    assert audio.decode(written(channels)) == pytest.approx(channels.mean(axis=1), abs=0.001)


@pytest.mark.parametrize("rate", [RATE, 44100])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_silence(rate: int, broken: float) -> None:
    """Of one channel of two; resampling spreads it over a few milliseconds."""
    samples = np.full((2, rate), 0.5, np.float32)
    samples[0, rate // 2] = broken
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
    frame.sample_rate = rate
    channels = Channels()
    found = np.concatenate([*channels.add(frame), *channels.finish()])
    assert np.isfinite(found).all()
    assert found[RATE // 2, 0] == 0
    assert found[RATE // 2, 1] == pytest.approx(0.5, abs=0.01)
    spoilt = np.flatnonzero(np.abs(found[200:-200, 0] - 0.5) > 0.1)
    assert len(spoilt) < RATE // 100


def test_a_truncated_mp3_gives_what_there_is() -> None:
    data = assets.ensure("hotwords").read_bytes()
    whole, cut = audio.decode(data), audio.decode(data[:20_001])
    assert 1.1 < len(cut) / RATE < 1.3
    assert cut[:RATE] == pytest.approx(whole[:RATE], abs=0.001)


def test_a_wav_that_claims_more_gives_what_there_is() -> None:
    data = audio.wav(tone(2).astype(np.float32))
    assert len(audio.decode(data[: 44 + RATE * 2 + 1])) == RATE


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot be read"),
        (b"Dear diary,\n" * 400, "cannot be read"),
        (written(np.zeros((0, 1))), "the sound has no samples"),
        (written(np.zeros((0, 8)), 44100), "the sound has no samples"),
        (written(np.zeros((100, 1)), 10), "10 samples a second; at least 1000"),
        (written(np.zeros(((MOST_SECONDS + 3) * 8000, 1)), 8000), "longer than 120 seconds"),
        (audio.wav(np.zeros((MOST_SECONDS + 1) * RATE, np.float32)), "longer than 120 seconds"),
        (b"#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n", "cannot be read"),
    ],
    ids=["nothing", "text", "no samples", "no samples, 8 channels", "slow", "long", "long, ours", "a playlist"],
)
def test_what_is_no_sound_is_rejected_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Reject, match=reason):
        audio.decode(data)


def test_a_film_without_sound_is_rejected() -> None:
    with pytest.raises(Reject, match="the file has no sound"):
        audio.decode(assets.ensure("carphone").read_bytes())


@given(data=st.binary(max_size=300), head=st.sampled_from([0, 12, 36, 44]))
@settings(deadline=None)
def test_no_bytes_crash_the_decoder(data: bytes, head: int) -> None:
    try:
        found = audio.decode(audio.wav(np.zeros(10, np.float32))[:head] + data)
    except Reject:
        return
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


# -- windows ------------------------------------------------------------------------------------------


def cut(samples: Samples, sizes: list[int], length_s: float, overlap_s: float) -> list[Cut]:
    windower, cuts, at = Windower(length_s, overlap_s), list[Cut](), 0
    for size in sizes:
        cuts += windower.add(samples[at : at + size])
        at += size
    cuts += windower.add(samples[at:])
    return cuts + windower.finish()


@st.composite
def sounds(draw: st.DrawFn) -> Samples:
    """Noise with stretches of silence in it."""
    parts = draw(st.lists(st.tuples(st.booleans(), st.integers(800, 40_000)), min_size=1, max_size=12))
    chance = np.random.default_rng(1)
    made = [0.3 * chance.standard_normal(n) if loud else np.zeros(n) for loud, n in parts]
    return np.concatenate(made).astype(np.float32)


@given(
    samples=sounds(),
    sizes=st.lists(st.integers(1, 30_000), max_size=20),
    overlap=st.sampled_from([0.0, 0.25, 0.5]),
)
@settings(deadline=None, max_examples=50)
def test_windows_are_the_sound_however_it_comes(samples: Samples, sizes: list[int], overlap: float) -> None:
    cuts = cut(samples, sizes, 2.0, overlap)
    assert np.array_equal(np.concatenate([each.samples[round(each.overlap_s * RATE) :] for each in cuts]), samples)
    assert all(0 < len(each.samples) <= 2 * RATE for each in cuts)
    assert cuts[0].overlap_s == cuts[-1].tail_s == 0
    for one, other in pairwise(cuts):
        assert one.tail_s == other.overlap_s
        assert one.begin + len(one.samples) == other.begin + round(other.overlap_s * RATE)
    again = cut(samples, [], 2.0, overlap)
    assert [(each.begin, each.tail_s) for each in again] == [(each.begin, each.tail_s) for each in cuts]


def test_a_window_ends_in_a_pause_where_there_is_one() -> None:
    samples = tone(12).astype(np.float32)
    samples[4 * RATE : round(4.4 * RATE)] = 0
    cuts = cut(samples, [], 5.0, 0.5)
    assert len(cuts[0].samples) / RATE == pytest.approx(4.2, abs=0.06)
    assert (cuts[0].tail_s, cuts[1].overlap_s) == (0, 0)
    assert (cuts[1].tail_s, cuts[2].overlap_s) == (0.5, 0.5)


@pytest.mark.parametrize("offset", [-0.3, 0.02, 0.4])
def test_an_offset_of_the_recorder_hides_no_pause(offset: float) -> None:
    samples = tone(12, level=0.1).astype(np.float32)
    samples[4 * RATE : round(4.4 * RATE)] = 0
    cuts = cut(samples + np.float32(offset), [], 5.0, 0.5)
    assert len(cuts[0].samples) / RATE == pytest.approx(4.2, abs=0.06)
    assert cuts[0].tail_s == 0


@pytest.mark.parametrize("broken", [1e30, -3e38])
def test_one_broken_sample_hides_no_pause(broken: float) -> None:
    samples = tone(12).astype(np.float32)
    samples[4 * RATE : round(4.4 * RATE)] = 0
    samples[RATE] = broken
    cuts = cut(samples, [], 5.0, 0.5)
    assert len(cuts[0].samples) / RATE == pytest.approx(4.2, abs=0.06)


def test_a_gap_begins_anew() -> None:
    windower = Windower(5.0, 0.5)
    windower.add(np.ones(RATE, np.float32))
    [before] = windower.gap(3 * RATE)
    assert (before.begin, len(before.samples), before.tail_s) == (0, RATE, 0)
    windower.add(np.ones(100, np.float32))
    [after] = windower.finish()
    assert (after.begin, len(after.samples), after.overlap_s) == (3 * RATE, 100, 0)


@pytest.mark.parametrize(("length", "overlap"), [(0.5, 0.1), (5.0, 3.0), (5.0, -1.0)])
def test_windows_that_cannot_overlap_so(length: float, overlap: float) -> None:
    with pytest.raises(ValueError, match="cannot overlap"):
        Windower(length, overlap)
