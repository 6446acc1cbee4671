"""Sound of files: nothing lost or doubled, and on the clock of the pictures."""

from __future__ import annotations

import logging
import math
import random
import struct
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import simplejpeg
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from framemesh import assets, audio
from framemesh.audio import RATE
from framemesh.errors import FramemeshError
from framemesh.messages import AudioWindow, Delivery
from services.reader.capture import AUDIO_WINDOWS
from services.reader.pieces import FIRST_PIECES, GAP_SECONDS, JITTER_SECONDS, Line, Piece, Sound
from services.reader.settings import Pace
from services.reader.sound import Listening, Window, Windows
from services.reader.video import MAX_FAILURES, Picture, SoundChoice, open_reader
from tests.unit.test_capture import Run, until
from tests.unit.test_video import add_video, replaced, write_clip, zeros

Floats = NDArray[np.float32]

FPS = 25
PIECE = 1024


# -- media ------------------------------------------------------------------------------------------------


def chirp(seconds: float, rate: int = RATE, low: float = 100.0, high: float = 2500.0) -> Floats:
    """A rising tone: no two stretches of it are alike, and every rate from 8 kHz on holds it."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (low * t + (high - low) * t * t / (2 * seconds)))).astype(np.float32)


def phrases(seconds: float, rate: int = RATE, every: float = 3.3, pause: float = 0.5) -> Floats:
    """A chirp with pauses in it, as between sentences."""
    samples = chirp(seconds, rate)
    samples[(np.arange(samples.size) / rate) % every >= every - pause] = 0
    return samples


def click(seconds: float, at: float, rate: int) -> Floats:
    """Silence, and 20 ms of a tone that begins at ``at`` seconds."""
    t = np.arange(round(seconds * rate)) / rate
    inside = (t >= at) & (t < at + 0.02)
    return np.where(inside, 0.9 * np.sin(2 * np.pi * 1000 * (t - at)), 0).astype(np.float32)


def write_wav(path: Path, samples: NDArray[Any], rate: int = RATE, width: int = 2) -> Path:
    """A WAV of [samples] or [samples, channels] in -1..1, ``width`` bytes a sample, without FFmpeg."""
    channels = samples if samples.ndim > 1 else samples[:, None]
    scale = 2 ** (8 * width - 1)
    whole = np.clip(np.rint(channels.astype(np.float64) * scale), -scale, scale - 1).astype("<i4")
    data = (whole + 128).astype("u1") if width == 1 else whole.view("u1").reshape(*whole.shape, 4)[..., :width]
    with wave.open(str(path), "wb") as out:
        out.setnchannels(channels.shape[1])
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(np.ascontiguousarray(data).tobytes())
    return path


@dataclass
class Film:
    """What ``write_film`` writes."""

    seconds: float = 6.0
    flash: float | None = None
    samples: Floats | None = None
    codec: str = "aac"
    rate: int = 44100
    video_begin: float = 0.0
    sound_begin: float = 0.0
    container: str = "mp4"

    def write(self, folder: Path, name: str = "film") -> Path:
        """Black pictures, 64x48, 25 a second, and sound; one of the pictures is white."""
        path = folder / f"{name}.{self.container}"
        with av.open(str(path), "w") as out:
            video = out.add_stream("libx264", rate=FPS, options=self._encoding())
            assert isinstance(video, VideoStream)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            sound = add_sound(out, self.codec, self.rate)
            heard = self._sound()
            following = next(heard, None)
            for frame in self._pictures():
                while following and following.pts / self.rate <= frame.pts / FPS:
                    out.mux(sound.encode(following))
                    following = next(heard, None)
                out.mux(video.encode(frame))
            while following:
                out.mux(sound.encode(following))
                following = next(heard, None)
            out.mux(video.encode(None))
            out.mux(sound.encode(None))
        return path

    def _encoding(self) -> dict[str, str]:
        later = "2" if self.container in {"mp4", "ts"} else "0"  # others do not keep the order of decoding
        return {"preset": "ultrafast", "bf": later, "g": "25"}

    def _pictures(self) -> Iterator[Any]:
        for number in range(round(self.seconds * FPS)):
            white = self.flash is not None and number == round((self.flash - self.video_begin) * FPS)
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255 * white, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number + round(self.video_begin * FPS), Fraction(1, FPS)
            yield frame

    def _sound(self) -> Iterator[Any]:
        samples = self.samples
        if samples is None:
            at = 0.0 if self.flash is None else self.flash - self.sound_begin
            length = self.video_begin + self.seconds - self.sound_begin
            samples = click(length, at, self.rate)
        yield from pieces(samples, self.rate, round(self.sound_begin * self.rate))


def pieces(samples: Floats, rate: int, pts: int = 0) -> Iterator[Any]:
    for begin in range(0, len(samples), PIECE):
        part = samples[begin : begin + PIECE]
        frame = av.AudioFrame.from_ndarray(part[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, pts + begin, Fraction(1, rate)
        yield frame


def write_sound(path: Path, samples: Floats, codec: str, rate: int, **options: str) -> Path:
    with av.open(str(path), "w", options=options) as out:
        stream = add_sound(out, codec, rate)
        for frame in pieces(samples, rate):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def add_sound(out: OutputContainer, codec: str, rate: int) -> AudioStream:
    stream = out.add_stream(codec, rate=rate)
    assert isinstance(stream, AudioStream)
    stream.layout = "mono"
    return stream


def write_song_with_cover(path: Path, samples: Floats) -> Path:
    """An MP3 with an ID3 tag that holds a picture."""
    plain = write_sound(path.with_suffix(".plain.mp3"), samples, "libmp3lame", 44100, id3v2_version="0")
    _, cover = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))
    body = b"\x00image/png\x00\x03\x00" + cover.tobytes()
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\x00\x00" + body
    size = bytes([(len(frame) >> shift) & 127 for shift in (21, 14, 7, 0)])
    path.write_bytes(b"ID3\x03\x00\x00" + size + frame + plain.read_bytes())
    return path


def remux(source: Path, target: Path, change: Callable[[av.Packet[Any]], av.Packet[Any] | None]) -> Path:
    """Copy the packets of all streams; ``change`` may spoil those of the sound, or leave them out."""
    with av.open(str(source)) as film, av.open(str(target), "w") as out:
        copies = {stream.index: out.add_stream_from_template(stream) for stream in film.streams}
        for packet in film.demux():
            if not packet.size:
                continue
            kept = change(packet) if packet.stream.type == "audio" else packet
            if kept is not None:
                kept.stream = copies[packet.stream.index]
                out.mux(kept)
    return target


# -- what came of it --------------------------------------------------------------------------------------


def heard(run: Run, channel: int | None = None) -> list[tuple[AudioWindow, Floats]]:
    """The windows of a channel as they lie in the spool."""
    found = []
    for entry, claim in run.told:
        if isinstance(claim, AudioWindow) and claim.channel == channel:
            stored, data = run.spool.read(entry)
            assert stored == claim
            assert len(data) == claim.bytes
            found.append((claim, audio.decode(data)))
    return found


def joined(windows: list[tuple[AudioWindow, Floats]]) -> Floats:
    """Put windows together, after a look at whether they fit: each begins where its predecessor's tail does."""
    parts: list[Floats] = []
    for number, (claim, samples) in enumerate(windows):
        assert claim.duration == len(samples) / RATE
        shared = round(claim.overlap * RATE)
        if not number:
            assert shared == 0
        else:
            before, previous = windows[number - 1]
            assert before.tail == claim.overlap
            assert claim.timestamp == pytest.approx(before.timestamp + before.duration - before.tail, abs=1e-4)
            assert np.array_equal(previous[len(previous) - shared :], samples[:shared])
        parts.append(samples[shared:])
    assert windows[-1][0].tail == 0
    return np.concatenate(parts)


def capture(path: Path, **settings: Any) -> Run:
    return Run(path.parent / f"spool-{path.stem}", video_source=str(path), **settings).run()


def flash_time(run: Run) -> float:
    """Timestamp of the white picture."""
    bright = {}
    for entry, claim in run.told:
        if not isinstance(claim, AudioWindow):
            image = simplejpeg.decode_jpeg(run.spool.read(entry)[1], colorspace="GRAY")
            bright[claim.timestamp] = float(image.mean())
    return max(bright, key=lambda at: bright[at])


def click_time(run: Run) -> float:
    """Time of the click, by the timestamp of the window that it is in."""
    claim, samples = max(heard(run), key=lambda window: float(np.abs(window[1]).max()))
    loud = np.abs(samples)
    return claim.timestamp + int(np.argmax(loud > loud.max() / 2)) / RATE


def rising(run: Run) -> bool:
    frames, windows = [f.timestamp for f in run.frames], [w.timestamp for w in run.windows]
    return all(a < b for times in (frames, windows) for a, b in pairwise(times))


# -- the pictures' clock ----------------------------------------------------------------------------------

FILMS = {
    "aac in mp4": Film(),
    "pcm in mkv": Film(codec="pcm_s16le", rate=48000, container="mkv"),
    "opus in mkv": Film(codec="libopus", rate=48000, container="mkv"),
    "mp3 in avi": Film(codec="libmp3lame", container="avi"),
    "aac in flv": Film(container="flv"),
    "a-law in mov": Film(codec="pcm_alaw", rate=8000, container="mov"),
    "sound later, mp4": Film(sound_begin=1.5),
    "sound later, mkv": Film(codec="pcm_s16le", rate=48000, container="mkv", sound_begin=1.5),
    "sound earlier, mp4": Film(video_begin=2.0),
    "sound long before, mkv": Film(codec="flac", container="mkv", video_begin=12.0),
    "sound earlier, ts": Film(container="ts", video_begin=1.0, sound_begin=0.3),
    "both late, mp4": Film(video_begin=10.0, sound_begin=10.0),
    "both late, ts": Film(container="ts", video_begin=10.0, sound_begin=10.0),
}
AT = 3.2
"""Seconds from the first picture to the flash."""


@pytest.mark.parametrize("name", FILMS)
def test_a_click_is_heard_when_its_flash_is_seen(tmp_path: Path, name: str) -> None:
    film = replace(FILMS[name], flash=FILMS[name].video_begin + AT)
    begun = time.time()
    run = capture(film.write(tmp_path))
    flash, clicked = flash_time(run), click_time(run)
    print(f"{name}: {1000 * (clicked - flash):+.1f} ms")
    assert flash - run.frames[0].timestamp == pytest.approx(AT, abs=0.041 if film.container == "avi" else 0.001)
    assert begun <= run.frames[0].timestamp <= time.time() + film.video_begin + (run.frames[0].pts or 0)
    # AVI keeps neither the times of pictures nor how late an encoder is.
    assert clicked == pytest.approx(flash, abs=0.06 if film.container == "avi" else 0.03)
    assert rising(run)


def test_a_click_stays_with_its_flash_whichever_frames_are_kept(tmp_path: Path) -> None:
    path = Film(flash=AT).write(tmp_path)
    every, few = capture(path), Run(tmp_path / "few", video_source=str(path), video_skip_frames=9).run()
    assert (len(every.frames), len(few.frames)) == (150, 15)
    assert click_time(few) - few.frames[0].timestamp == pytest.approx(AT, abs=0.03)
    assert [w.duration for w in few.windows] == [w.duration for w in every.windows]


def test_a_beginning_that_cannot_be_seen_moves_no_sound(tmp_path: Path) -> None:
    """A recording that begins between two key frames: its first pictures cannot be decoded."""
    path = Film(flash=AT, container="mkv", codec="pcm_s16le", rate=48000).write(tmp_path)
    with av.open(str(path)) as film, av.open(str(tmp_path / "cut.mkv"), "w") as out:
        copies = {stream.index: out.add_stream_from_template(stream) for stream in film.streams}
        for packet in film.demux():
            if packet.pts is None:
                continue
            index = packet.stream.index
            if packet.stream.type == "video" and packet.pts * packet.time_base < 1:
                packet = replaced(packet, zeros(bytes(packet)))  # noqa: PLW2901
            packet.stream = copies[index]
            out.mux(packet)
    run = capture(tmp_path / "cut.mkv")
    assert run.frames[0].pts == pytest.approx(1)
    assert run.capture.counts.corrupt == 25
    assert click_time(run) == pytest.approx(flash_time(run), abs=0.03)
    assert rising(run)


@pytest.mark.parametrize(
    "film", [Film(flash=AT), Film(flash=AT + 2, video_begin=2.0)], ids=["alike", "sound first"]
)
def test_times_only_rise_from_run_to_run(tmp_path: Path, film: Film) -> None:
    path = film.write(tmp_path)
    first = capture(path)
    second = Run(tmp_path / "two", after=first.spool.latest("film"), video_source=str(path), source="film").run()
    ends = [claim.timestamp + claim.duration for claim in first.windows]
    assert max(ends) < second.windows[0].timestamp
    assert first.frames[-1].timestamp < second.frames[0].timestamp
    assert click_time(second) == pytest.approx(flash_time(second), abs=0.03)
    assert rising(second)


# -- every sample, once -----------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [chirp(13.7), phrases(13.7), np.zeros(220_000, np.float32)], ids=[0, 1, 2])
@pytest.mark.parametrize(("window", "overlap"), [(5, 0.5), (1, 0.5), (30, 2), (2, 0)])
def test_windows_put_together_are_the_whole(
    tmp_path: Path, samples: Floats, window: float, overlap: float
) -> None:
    path = write_wav(tmp_path / "sound.wav", samples)
    run = capture(path, audio_window=window, audio_overlap=overlap)
    windows = heard(run)
    assert np.array_equal(joined(windows), audio.decode(audio.wav(samples)))
    assert (
        [claim.seq for claim, _ in windows] == list(range(len(windows))) == list(range(run.capture.counts.windows))
    )
    assert max(claim.duration for claim, _ in windows) <= window
    assert windows[0][0].delivery is Delivery.LOSSLESS
    assert run.frames == []


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_every_rate_and_width_of_wav(tmp_path: Path, rate: int, width: int) -> None:
    whole = joined(heard(capture(write_wav(tmp_path / "sound.wav", chirp(7.3, rate), rate, width))))
    assert len(whole) == pytest.approx(7.3 * RATE, abs=1)
    check(whole, chirp(7.3), 0.02)


def check(found: Floats, expected: Floats, within: float) -> None:
    """Every sample at its place: a shift of one would be off by 0.4 at the chirp's end."""
    count = min(len(found), len(expected)) - RATE // 100
    worst = np.abs(found[RATE // 100 : count] - expected[RATE // 100 : count]).max()
    assert worst <= within


@pytest.mark.parametrize(
    ("name", "codec", "rate", "more", "within"),
    [
        ("sound.flac", "flac", 44100, 0.0, 0.01),
        ("sound.mp3", "libmp3lame", 44100, 0.0, 0.08),
        ("sound.mp3", "libmp3lame", 22050, 0.0, 0.08),
        ("sound.m4a", "aac", 44100, 0.03, 0.4),  # its encoder is a part of a sample early
        ("sound.ogg", "libopus", 48000, 0.03, 0.15),
        ("sound.mka", "pcm_f32le", 22050, 0.0, 0.01),
        ("sound.au", "pcm_mulaw", 8000, 0.0, 0.03),
        ("sound.aiff", "pcm_s16be", 48000, 0.0, 0.01),
        ("sound.wav", "pcm_f32le", 44100, 0.0, 0.01),
        ("sound.wav", "pcm_alaw", 8000, 0.0, 0.03),
    ],
)
def test_every_format(tmp_path: Path, name: str, codec: str, rate: int, more: float, within: float) -> None:
    path = write_sound(tmp_path / name, chirp(7.3, rate), codec, rate)
    run = capture(path)
    whole = joined(heard(run))
    assert -1 / RATE <= len(whole) / RATE - 7.3 <= more + 1 / RATE
    check(whole, chirp(7.3), within)
    assert run.capture.counts.corrupt == 0


def test_the_channels_by_themselves_and_mixed(tmp_path: Path) -> None:
    source = assets.ensure("stereo-speakers")
    with wave.open(str(source)) as file:
        both = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / np.float32(32768)
    settings: dict[str, Any] = {"video_source": str(source), "audio_window": 2, "audio_overlap": 0.3}
    each = Run(tmp_path / "each", audio_channels="each", **settings).run()
    for channel in (0, 1):
        assert np.array_equal(joined(heard(each, channel)), both[:, channel])
    mixed = joined(heard(Run(tmp_path / "mix", **settings).run()))
    assert np.abs(mixed - both.mean(axis=1)).max() < 1 / 32768
    assert [claim.seq for claim in each.windows] == list(range(len(each.windows)))


@pytest.mark.parametrize("count", [3, 5, 8, 11])
def test_many_channels(tmp_path: Path, count: int) -> None:
    tones = [phrases(9, every=1.5 + 0.37 * number, pause=0.3) * (number + 1) / count for number in range(count)]
    path = write_wav(tmp_path / "array.wav", np.stack(tones, axis=1))
    run = capture(path, audio_channels="each", audio_window=2)
    for number, tone in enumerate(tones):
        assert np.array_equal(joined(heard(run, number)), audio.decode(audio.wav(tone.astype(np.float32))))
        numbers = [claim.number for claim in run.windows if claim.channel == number]
        assert numbers == list(range(len(numbers)))
    times = [claim.timestamp for claim in run.windows]
    assert times == sorted(times)  # of all channels together
    mixed = joined(heard(Run(tmp_path / "mixed", video_source=str(path)).run()))
    assert np.abs(mixed - np.mean(tones, axis=0)).max() < 2 / 32768


def test_a_format_that_changes_on_the_way(tmp_path: Path) -> None:
    """Two streams of MPEG audio, of different rates and channels, one after the other: as radio does it."""
    one = write_sound(
        tmp_path / "one.mp3", chirp(4, 44100), "libmp3lame", 44100, write_xing="0", id3v2_version="0"
    )
    two = write_sound(
        tmp_path / "two.mp3", chirp(4, 48000), "libmp3lame", 48000, write_xing="0", id3v2_version="0"
    )
    (tmp_path / "both.mp3").write_bytes(one.read_bytes() + two.read_bytes())
    whole = joined(heard(capture(tmp_path / "both.mp3")))
    assert len(whole) / RATE == pytest.approx(8, abs=0.2)
    tones = [float(np.abs(np.fft.rfft(whole[at * RATE : (at + 1) * RATE])).argmax()) for at in (1, 5)]
    assert tones[0] == pytest.approx(tones[1], abs=150)


def test_channels_that_become_more(tmp_path: Path) -> None:
    windows = Windows(5, 0.5, each_channel=True)
    one, two = chirp(3)[:, None], np.stack([chirp(3), -chirp(3)], axis=1)
    pieces = [Piece(begin, samples, False) for begin, samples in [(0.0, one), (3.0, two), (6.0, two)]]
    cuts = [cut for piece in pieces for cut in windows.add(piece)]
    cuts += windows.finish()
    assert [(cut.channel, cut.begin, cut.duration, cut.overlap, cut.tail) for cut in cuts] == [
        (0, 0.0, 3.0, 0, 0),
        (0, 3.0, 5.0, 0, 0.5),
        (1, 3.0, 5.0, 0, 0.5),
        (0, 7.5, 1.5, 0.5, 0),
        (1, 7.5, 1.5, 0.5, 0),
    ]


# -- sound without pictures -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jfk", "hotwords", "stereo-speakers"])
@pytest.mark.parametrize("choice", [SoundChoice.AUTO, SoundChoice.ONLY])
def test_a_file_of_sound(tmp_path: Path, name: str, choice: SoundChoice) -> None:
    source = assets.ensure(name)
    run = Run(tmp_path, video_source=str(source), source_audio=choice).run()
    with av.open(str(source)) as file:
        seconds = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
    assert len(joined(heard(run))) / RATE == pytest.approx(seconds, abs=0.002)
    assert run.frames == []
    assert (run.capture.counts.corrupt, run.capture.counts.dropped) == (0, 0)


@pytest.mark.parametrize("choice", [SoundChoice.AUTO, SoundChoice.ONLY])
def test_the_cover_of_a_song_is_no_picture(tmp_path: Path, choice: SoundChoice) -> None:
    song = write_song_with_cover(tmp_path / "song.mp3", chirp(3, 44100))
    with av.open(str(song)) as file:
        assert len(file.streams.video) == 1
    run = capture(song, source_audio=choice)
    assert run.frames == []
    assert sum(claim.duration for claim in run.windows) == pytest.approx(3, abs=0.03)


def test_only_the_sound_of_a_video(tmp_path: Path) -> None:
    path = Film(flash=AT).write(tmp_path)
    run = capture(path, source_audio=SoundChoice.ONLY)
    assert run.frames == []
    assert sum(claim.duration - claim.overlap for claim in run.windows) == pytest.approx(6, abs=0.05)
    assert click_time(run) - run.windows[0].timestamp == pytest.approx(AT, abs=0.03)


def test_no_sound_when_it_is_off(tmp_path: Path) -> None:
    run = capture(Film().write(tmp_path), source_audio=SoundChoice.OFF)
    assert (len(run.frames), run.windows) == (150, [])
    assert run.frames[0].pts == 0


def test_a_video_without_sound(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "silent.mp4")
    assert len(capture(path).frames) == 20
    with pytest.raises(FramemeshError, match=r"silent\.mp4: no sound in it: set source_audio to auto or off"):
        capture(path, source_audio=SoundChoice.ONLY)


@pytest.mark.parametrize("choice", [SoundChoice.AUTO, SoundChoice.ONLY])
def test_no_such_audio_stream(tmp_path: Path, choice: SoundChoice) -> None:
    path = Film(seconds=1).write(tmp_path)
    with pytest.raises(FramemeshError, match="no audio stream 1: it has 1, counted from 0"):
        capture(path, source_audio=choice, audio_stream=1)
    silent = write_clip(tmp_path / "silent.mp4")
    with pytest.raises(FramemeshError, match="no audio stream 2: it has 0"):
        capture(silent, source_audio=choice, audio_stream=2)


def test_the_second_audio_stream(tmp_path: Path) -> None:
    path = tmp_path / "two.mka"
    with av.open(str(path), "w") as out:
        streams = [add_sound(out, "pcm_s16le", 16000) for _ in range(2)]
        for stream, sign in zip(streams, (1, -1), strict=True):
            for frame in pieces(sign * chirp(2), 16000):
                out.mux(stream.encode(frame))
    check(joined(heard(capture(path, audio_stream=1))), -chirp(2), 0.001)


def test_a_format_that_nobody_decodes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = Film(seconds=2, codec="pcm_s16le", rate=48000, container="mkv").write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"A_PCM/INT/LIT", b"A_ZZZ/INT/LIT"))
    with caplog.at_level(logging.WARNING):
        run = capture(path)
    assert (len(run.frames), run.windows, run.capture.counts.corrupt) == (50, [], 0)
    [message] = caplog.messages
    assert message.endswith("its sound is in a format that FFmpeg cannot decode; going on without")
    with pytest.raises(FramemeshError, match="its sound is in a format"):
        capture(path, source_audio=SoundChoice.ONLY)


@pytest.mark.parametrize("name", ["text.mp3", "empty.wav", "note.flac"])
def test_no_sound_at_all(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("" if name == "empty.wav" else "Dear diary,\n" * 400)
    with pytest.raises(FramemeshError) as caught:
        capture(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wav_without_samples(tmp_path: Path) -> None:
    run = capture(write_wav(tmp_path / "none.wav", np.zeros(0)))
    assert run.told == []
    assert run.capture.counts.windows == 0


@pytest.mark.parametrize("samples", [1, 2, 100])
def test_a_wav_of_a_few_samples(tmp_path: Path, samples: int) -> None:
    [(claim, found)] = heard(capture(write_wav(tmp_path / "tick.wav", np.full(samples, 0.5))))
    assert (claim.duration, len(found)) == (samples / RATE, samples)


def test_a_rate_that_is_none(tmp_path: Path) -> None:
    """One sample a second would become 16 000 of them: a small file of hours."""
    path = write_wav(tmp_path / "slow.wav", chirp(20), rate=1)
    begun = time.monotonic()
    with pytest.raises(FramemeshError, match="1 samples a second are too few"):
        capture(path)
    assert time.monotonic() - begun < 2


def test_a_file_that_was_cut(tmp_path: Path) -> None:
    data = assets.ensure("hotwords").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[:20_001])
    (tmp_path / "whole.mp3").write_bytes(data)
    cut, whole = (joined(heard(capture(tmp_path / f"{name}.mp3"))) for name in ("cut", "whole"))
    assert 1.1 < len(cut) / RATE < 1.3
    assert np.abs(cut[:16000] - whole[:16000]).max() < 0.001


def test_a_wav_that_was_cut(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "cut.wav", chirp(6))
    path.write_bytes(path.read_bytes()[: 44 + 3 * 2 * RATE + 1])
    assert len(joined(heard(capture(path)))) == pytest.approx(3 * RATE, abs=1)


# -- damage -----------------------------------------------------------------------------------------------


def flips(data: bytes) -> bytes:
    spoilt, chance = bytearray(data), random.Random(len(data))
    for _ in range(40):
        spoilt[chance.randrange(len(data))] ^= chance.randrange(1, 256)
    return bytes(spoilt)


@pytest.mark.parametrize("spoil", [zeros, flips, lambda data: b"\xff" * len(data), lambda data: data[:7]])
@pytest.mark.parametrize("codec", ["aac", "libmp3lame", "libopus", "flac"])
def test_damaged_sound_costs_no_picture_and_no_time(
    tmp_path: Path, codec: str, spoil: Callable[[bytes], bytes]
) -> None:
    film = Film(flash=5.2, seconds=8, codec=codec, rate=48000, container="mkv").write(tmp_path)

    def change(packet: av.Packet[Any]) -> av.Packet[Any]:
        assert packet.pts is not None
        return replaced(packet, spoil(bytes(packet))) if 2 < packet.pts * packet.time_base < 3.2 else packet

    run = capture(remux(film, tmp_path / "damaged.mkv", change))
    assert len(run.frames) == 200
    assert rising(run)
    claims = [claim for claim, samples in heard(run) if np.abs(samples[-RATE:]).max() < 10]
    assert claims
    last = claims[-1]
    assert last.timestamp + last.duration - run.frames[0].timestamp == pytest.approx(8, abs=0.1)
    after = [
        (claim.timestamp + index / RATE)
        for claim, samples in heard(run)
        for index in np.flatnonzero(np.abs(samples) > 0.4)
        if claim.timestamp + index / RATE > run.frames[0].timestamp + 4
    ]
    assert min(after) == pytest.approx(flash_time(run), abs=0.04)


@pytest.mark.parametrize("lost", [1, 2, 5, 9, 12, 30])
def test_lost_packets_shift_nothing(tmp_path: Path, lost: int) -> None:
    """Every fourth packet of a stretch; 9 of them are 0.19 s of sound, less than a gap."""
    film = Film(flash=5.2, seconds=7, rate=48000, container="mkv").write(tmp_path)
    numbers = iter(range(10_000))

    def change(packet: av.Packet[Any]) -> av.Packet[Any] | None:
        number = next(numbers)
        return None if 20 <= number < 20 + 4 * lost and number % 4 == 0 else packet

    run = capture(remux(film, tmp_path / "lossy.mkv", change))
    error = click_time(run) - flash_time(run)
    print(f"{lost} lost: {1000 * error:+.1f} ms")
    assert abs(error) < 0.04
    assert rising(run)


def test_sound_of_which_nothing_can_be_decoded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    film = Film(seconds=8, container="mkv").write(tmp_path)
    broken = remux(film, tmp_path / "broken.mkv", lambda packet: replaced(packet, b"\x5a" * 40))
    with caplog.at_level(logging.WARNING):
        run = capture(broken)
    assert (len(run.frames), run.windows) == (200, [])
    assert run.capture.counts.corrupt == MAX_FAILURES
    assert sum("sound cannot be decoded" in message for message in caplog.messages) == 2
    with pytest.raises(FramemeshError, match=r"sound cannot be decoded .*: check the file"):
        capture(broken, source_audio=SoundChoice.ONLY)


# -- gaps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "container"), [("pcm_s16le", "mkv"), ("aac", "mp4"), ("aac", "ts")])
def test_sound_that_is_missing_for_a_while(tmp_path: Path, codec: str, container: str) -> None:
    samples = chirp(12, 48000) * 0.2
    samples[round(8.2 * 48000) : round(8.22 * 48000)] = 0.99
    film = Film(flash=8.2, seconds=12, samples=samples, codec=codec, rate=48000, container=container)

    def change(packet: av.Packet[Any]) -> av.Packet[Any] | None:
        assert packet.pts is not None
        return None if 5 <= packet.pts * packet.time_base < 6 else packet

    path = remux(film.write(tmp_path), tmp_path / f"gap.{container}", change)
    with av.open(str(path)) as whole:
        zero = float((whole.streams.video[0].start_time or 0) * (whole.streams.video[0].time_base or 0))
    run = capture(path)
    assert len(run.frames) == 300
    assert click_time(run) == pytest.approx(flash_time(run), abs=0.03)
    begin = run.frames[0].timestamp
    [gap] = [(a, b) for a, b in pairwise(run.windows) if b.timestamp - a.timestamp - a.duration > GAP_SECONDS]
    assert (gap[0].tail, gap[1].overlap) == (0, 0)
    assert gap[0].timestamp + gap[0].duration - begin == pytest.approx(5 - zero, abs=0.06)
    assert gap[1].timestamp - begin == pytest.approx(6 - zero, abs=0.06)
    assert rising(run)


def damaged_ts(source: Path, target: Path, number: int, by: float) -> Path:
    """Copy a file of MPEG-TS; one of the times of its sound is ``by`` seconds off."""
    data, found = bytearray(source.read_bytes()), 0
    for packet in range(0, len(data), 188):
        begin = packet + 4 + (1 + data[packet + 4] if data[packet + 3] & 0x20 else 0)
        timed = data[packet + 1] & 0x40 and data[begin : begin + 3] == b"\0\0\1" and data[begin + 7] & 0x80
        if timed and 0xC0 <= data[begin + 3] < 0xE0:
            if found == number:
                field = slice(begin + 9, begin + 14)
                data[field] = ts_time(ts_seconds(bytes(data[field])) + by, data[begin + 9] >> 4)
            found += 1
    assert found > number
    target.write_bytes(data)
    return target


def ts_seconds(field: bytes) -> float:
    """ISO 13818-1, 2.4.3.7: 33 bits of a clock of 90 kHz, in 5 bytes."""
    a, b, c, d, e = field
    return ((a >> 1 & 7) << 30 | b << 22 | c >> 1 << 15 | d << 7 | e >> 1) / 90000


def ts_time(seconds: float, mark: int) -> bytes:
    pts = round(seconds * 90000)
    parts = (mark << 4 | (pts >> 30 & 7) << 1 | 1, pts >> 22 & 255, (pts >> 15 & 127) << 1 | 1)
    return bytes([*parts, pts >> 7 & 255, (pts & 127) << 1 | 1])


def since_the_first_picture(run: Run) -> list[float]:
    return [window.timestamp - run.frames[0].timestamp for window in run.windows]


@pytest.mark.parametrize("number", [0, 1, 40, 93])
def test_a_damaged_time_moves_no_sound(tmp_path: Path, number: int) -> None:
    whole = Film(flash=1.4, seconds=2, rate=48000, container="ts").write(tmp_path)
    path = damaged_ts(whole, tmp_path / "damaged.ts", number, 10_000)
    begun = time.monotonic()
    run, sound = capture(path, pace=Pace.REALTIME), capture(whole)
    assert time.monotonic() - begun < 5
    assert len(run.frames) == 50
    assert since_the_first_picture(run) == pytest.approx(since_the_first_picture(sound), abs=0.03)
    assert sum(window.duration for window in run.windows) == sum(window.duration for window in sound.windows)
    assert click_time(run) == pytest.approx(flash_time(run), abs=0.03)
    assert run.spool.latest(run.windows[0].source) < time.time() + 1


def test_a_damaged_time_ends_no_run(tmp_path: Path) -> None:
    whole = Film(seconds=3, rate=48000, container="ts").write(tmp_path)
    path = damaged_ts(whole, tmp_path / "damaged.ts", 20, 10_000)
    run = capture(path, video_duration=2, source_audio=SoundChoice.ONLY)
    assert sum(window.duration for window in run.windows) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_sound_that_jumps_ahead_for_good_freezes_nothing(tmp_path: Path, seconds: float) -> None:
    """A second of sound, and another one hours later; with pictures, or without."""
    path = tmp_path / "jump.mkv"
    with av.open(str(path), "w") as out:
        sound = add_sound(out, "pcm_s16le", RATE)
        if seconds:
            video = add_video(out, "libx264", "yuv420p", (64, 48), {})
            for number in range(round(seconds * 10)):
                frame = av.VideoFrame(64, 48, "yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
        for pts in (0, 10_000 * RATE):
            for piece in pieces(chirp(1), RATE, pts):
                out.mux(sound.encode(piece))
        out.mux(sound.encode(None))
    begun = time.monotonic()
    run = capture(path, pace=Pace.REALTIME)
    assert max(2, seconds) - 0.3 < time.monotonic() - begun < max(2, seconds) + 1.5
    assert len(run.frames) == seconds * 10
    first, second = run.windows
    assert second.timestamp - first.timestamp == pytest.approx(10_000, abs=0.01)


class Spy:
    """A clock whose sound begins where it is told."""

    def __init__(self) -> None:
        self.begin = 100.0

    def hear(self, end: float, /, *, anew: bool = False) -> None:
        self.begin = 100.0 if end < 10 else 50.0

    def at(self, offset: float, /) -> float:
        return self.begin + offset


def laid(*times: float | None, seconds: float = 1.0) -> list[tuple[float, bool]]:
    """Where a line lays pieces of these times: where each begins, and whether it is apart from the one before."""
    line = Line()
    samples = np.ones((round(seconds * RATE), 1), np.float32)
    pieces = [piece for pts in times for piece in line.add(Sound(pts, samples))] + line.finish()
    assert len(pieces) == len(times)
    assert line.end == pieces[-1].begin + seconds
    return [(round(piece.begin, 6), piece.apart) for piece in pieces]


def test_gaps_and_jitter_of_pieces() -> None:
    found: list[tuple[Window, float]] = []
    listening = Listening(
        Windows(5, 0.5, each_channel=False), Spy(), lambda window, at: found.append((window, at))
    )

    def piece(pts: float | None, seconds: float) -> float:
        listening.take(Sound(pts, np.full((round(seconds * RATE), 2), 0.5, np.float32)))
        return listening.end

    assert piece(10.0, 1) == 0  # one alone may be wrong
    assert piece(11.0 + JITTER_SECONDS / 2, 1) == 12.0  # jitter is none of ours
    assert piece(12.1, 1) == pytest.approx(13.1)  # 0.1 s of silence for what was lost
    assert piece(13.0, 1) == pytest.approx(14.1)  # never back
    assert piece(14.0 + GAP_SECONDS + 0.101, 1) == pytest.approx(14.1)
    assert found == []
    assert piece(15.0 + GAP_SECONDS + 0.101, 1) == pytest.approx(16.351)
    [(before, _)] = found
    assert before.duration == pytest.approx(4.1)
    assert (before.begin, before.tail) == (10.0, 0)
    assert not np.any(before.samples[round(2 * RATE) : round(2.1 * RATE)])
    assert piece(None, 1) == pytest.approx(17.351)
    listening.finish()
    [_, (last, _)] = found
    assert last.begin == pytest.approx(14.351)
    assert (last.duration, last.overlap) == (3.0, 0)
    listening.finish()
    assert len(found) == 2


@pytest.mark.parametrize("by", [10_000.0, GAP_SECONDS, -GAP_SECONDS, -10_000.0])
@pytest.mark.parametrize("damaged", [(0,), (1,), (2,), (5,), (9,), (0, 5), (3, 5, 9)])
def test_a_lone_time_that_is_damaged_moves_nothing(damaged: tuple[int, ...], by: float) -> None:
    times = [100.0 + number + by * (number in damaged) for number in range(10)]
    assert laid(*times) == [(100.0 + number, False) for number in range(10)]


@pytest.mark.parametrize("count", [2, 8])
def test_pieces_of_one_packet_are_damaged_together(count: int) -> None:
    """Of eight frames of AAC in one packet of MPEG-TS the first has a time, and the others go on from it."""
    times = [number / 50 + 10_000 * (20 <= number < 20 + count) for number in range(60)]
    assert laid(*times, seconds=0.02) == [(number / 50, False) for number in range(60)]


def test_damaged_times_of_which_no_two_agree_move_nothing() -> None:
    assert laid(0.0, 1.0, 900.0, -900.0, 77.0, 5.0, 6.0) == [(float(number), False) for number in range(7)]
    assert laid(7.0, 70.0, 700.0, 7000.0) == [(7.0, False), (8.0, False), (9.0, False), (10.0, False)]


def test_a_jump_ahead_is_a_gap() -> None:
    assert laid(0.0, 1.0, 52.0, 53.0, 54.0) == [(0, False), (1, False), (52, True), (53, False), (54, False)]


def test_after_a_jump_back_time_goes_on_from_where_it_was() -> None:
    found = laid(100.0, 101.0, 5.0, 6.0, 7.1, 9.1, 10.1)
    assert found == [
        (100, False),
        (101, False),
        (102, True),
        (103, False),
        (104.1, False),
        (106.1, True),
        (107.1, False),
    ]


def test_a_jump_that_nothing_confirms_is_none() -> None:
    assert laid(0.0, 1.0, 52.0) == [(0, False), (1, False), (2, False)]
    assert laid(52.0) == [(52, False)]
    assert Line().finish() == []


def test_pieces_without_a_time_confirm_nothing_and_deny_nothing() -> None:
    assert laid(None, None) == [(0, False), (1, False)]
    assert laid(0.0, 1.0, 52.0, None, 53.0, seconds=1.0)[2:] == [(2, False), (3, False), (4, False)]
    times = [0.0, None, 0.4, None, 50.8, None, 51.2, None]
    assert [begin for begin, _ in laid(*times, seconds=0.2)] == [0, 0.2, 0.4, 0.6, 50.8, 51.0, 51.2, 51.4]


def test_sound_that_runs_slow_by_its_own_times_is_not_cut() -> None:
    """Each piece says that it began 10 ms earlier than it did: after a minute half a second, but never a jump."""
    assert laid(*(0.99 * number for number in range(60))) == [(number, False) for number in range(60)]


@given(st.lists(st.floats(-100, 100) | st.none() | st.integers(0, 20).map(float), max_size=30))
def test_whatever_its_times_say_sound_never_goes_back(times: list[float | None]) -> None:
    begins = [begin for begin, _ in laid(*times)] if times else []
    assert all(before + 1 <= after + 1e-5 for before, after in pairwise(begins))


@given(st.lists(st.floats(-1e6, 1e6) | st.none(), min_size=1, max_size=30))
def test_no_piece_is_held_back_for_long(times: list[float | None]) -> None:
    line, given_pieces = Line(), 0
    for number, pts in enumerate(times, 1):
        given_pieces += len(line.add(Sound(pts, np.ones((RATE, 1), np.float32))))
        assert number - given_pieces <= (1 if number >= FIRST_PIECES else number)


def test_a_window_that_ends_at_a_gap_has_the_time_it_had_before() -> None:
    """A camera's times may jump when it learns the time: what was heard before did not."""
    times: list[float] = []
    listening = Listening(Windows(5, 0.5, each_channel=False), Spy(), lambda _, at: times.append(at))
    second = np.ones((RATE, 1), np.float32)
    for pts in (0.0, 1.0, 52.0, 53.0):
        listening.take(Sound(pts, second))
    listening.finish()
    assert times == [100.0, 102.0]


# -- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.5, 2.5, 4.0, 100.0])
def test_the_duration_holds_for_sound_too(tmp_path: Path, seconds: float) -> None:
    length = min(seconds, 6)
    film = Film().write(tmp_path)
    both = capture(film, video_duration=seconds)
    assert len(both.frames) == math.ceil(length * FPS)
    assert sum(c.duration - c.overlap for c in both.windows) == pytest.approx(length, abs=0.05)
    alone = capture(write_wav(tmp_path / "sound.wav", chirp(6)), video_duration=seconds)
    assert len(joined(heard(alone))) == length * RATE


def test_the_duration_holds_for_sound_that_outlasts_its_pictures(tmp_path: Path) -> None:
    samples = chirp(20, 44100)
    path = Film(seconds=2, samples=samples).write(tmp_path)
    run = capture(path, video_duration=4)
    assert len(run.frames) == 50
    assert sum(c.duration - c.overlap for c in run.windows) == pytest.approx(4, abs=0.05)


def test_a_file_of_sound_is_read_at_its_own_pace(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "sound.wav", chirp(1.5))
    begun = time.monotonic()
    capture(path, pace=Pace.REALTIME)
    assert 1.35 < time.monotonic() - begun < 2.5
    begun = time.monotonic()
    Run(tmp_path / "fast", video_source=str(path), pace=Pace.FAST).run()
    assert time.monotonic() - begun < 1


def test_sound_that_outlasts_its_pictures_does_not_run_away(tmp_path: Path) -> None:
    path = Film(seconds=0.4, samples=chirp(2.5, 44100)).write(tmp_path)
    begun = time.monotonic()
    capture(path, pace=Pace.REALTIME)
    assert 1.3 < time.monotonic() - begun < 3


def test_a_paced_video_stays_in_step(tmp_path: Path) -> None:
    path = Film(seconds=1.2).write(tmp_path)
    arrived: list[float] = []
    run = Run(tmp_path / "spool", video_source=str(path), pace=Pace.REALTIME)
    told = run.capture._on_entry

    def watch(entry: str, claim: Any) -> None:
        arrived.append(time.time() - claim.timestamp)
        told(entry, claim)

    run.capture._on_entry = watch
    run.run()
    assert len(run.frames) == 30
    assert max(arrived[:-1]) - min(arrived[:-1]) < 0.25


# -- lossless and live ------------------------------------------------------------------------------------


def test_a_lossless_run_waits_for_its_windows_to_be_accepted(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", chirp(60))
    run = Run(tmp_path / "spool", video_source=str(path), audio_window=1, audio_overlap=0)
    with run.running():
        until(lambda: len(run.told) == AUDIO_WINDOWS)
        time.sleep(0.1)
        assert len(run.told) == AUDIO_WINDOWS
        run.capture.windows.accept(5)
        until(lambda: len(run.told) == AUDIO_WINDOWS + 5)
        run.capture.windows.accept(1000)
    assert [claim.seq for claim in run.windows] == list(range(60))
    assert len(joined(heard(run))) == 60 * RATE


def test_a_lossless_run_waits_for_room_for_its_windows(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", chirp(30))
    run = Run(tmp_path / "spool", spool_bytes=200_000, video_source=str(path), audio_window=1, audio_overlap=0)
    names: set[str] = set()
    with run.running():
        until(run.spool.full)
        assert len(run.windows) < 10
        while len(names) < 30:  # an uploader
            found = run.spool.names()
            assert len(found) <= 8
            names.update(found)
            for name in found:
                run.spool.remove(name)
            time.sleep(0.01)
    assert (run.capture.counts.windows, run.capture.counts.dropped) == (30, 0)


def test_frames_and_windows_are_waited_for_apart(tmp_path: Path) -> None:
    """A window that is not accepted holds up the run, a frame's window of its own does not count it."""
    run = Run(tmp_path / "spool", video_source=str(Film().write(tmp_path)), lossless_window=1000)
    with run.running():
        until(lambda: len(run.told) >= 150)
    assert len(run.frames) == 150
    assert run.windows


def test_a_live_run_drops_windows_when_the_spool_is_full(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", chirp(20))
    run = Run(tmp_path / "s", spool_bytes=150_000, video_source=str(path), delivery=Delivery.LIVE, audio_window=2)
    run.capture.run()
    counts = run.capture.counts
    assert 0 < counts.windows < 10
    assert counts.dropped > 0
    assert [claim.seq for claim in run.windows] == list(range(counts.windows))
    assert {claim.delivery for claim in run.windows} == {Delivery.LIVE}


def test_a_window_after_a_dropped_one_shares_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "long.wav", chirp(10))
    run = Run(tmp_path / "s", video_source=str(path), delivery=Delivery.LIVE, audio_window=2)
    full = iter([False, False, True, False, False, False, False])
    monkeypatch.setattr(run.spool, "full", lambda: next(full))
    run.capture.run()
    assert run.capture.counts.dropped == 1
    assert [claim.overlap for claim in run.windows] == [0, 0.5, 0, 0.5, 0.5, 0.5]
    assert [claim.number for claim in run.windows] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("delivery", list(Delivery))
def test_a_run_that_is_stopped_gives_its_last_window(tmp_path: Path, delivery: Delivery) -> None:
    path = write_wav(tmp_path / "long.wav", chirp(60))
    run = Run(tmp_path / "spool", video_source=str(path), pace=Pace.REALTIME, delivery=delivery)
    with run.running():
        time.sleep(0.7)
        assert run.told == []
        run.capture.stop()
    [(claim, samples)] = heard(run)
    assert 0.5 < claim.duration < 1.5
    check(samples, chirp(60)[: len(samples)], 0.001)
    assert (run.capture.counts.windows, run.capture.counts.dropped) == (1, 0)


def test_pictures_carry_their_own_times_beside_sound(tmp_path: Path) -> None:
    with open_reader(str(Film(seconds=2).write(tmp_path)), sound=SoundChoice.AUTO) as reader:
        assert str(reader.info) == "64x48 and sound"
        found = list(reader)
    times = [piece.pts for piece in found if isinstance(piece, Picture)]
    assert times == pytest.approx([number / FPS for number in range(50)])
    assert {piece.samples.dtype for piece in found if isinstance(piece, Sound)} == {np.dtype(np.float32)}
