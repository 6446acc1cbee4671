"""Ladders, playlists, and what is written for films that are turned, uneven, silent for a while, or lie."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from framemesh import mediafile
from framemesh.encoders import pick_encoder
from framemesh.errors import FramemeshError
from services.media import hls
from services.media.ladder import Rendition, Rung, renditions
from services.media.loudness import Loudness, measure
from services.media.probe import Probe, probe
from services.media.transcode import Transcoder

LADDER = [Rung(height=height, kbps=kbps) for height, kbps in ((1080, 4500), (720, 2500), (480, 1200), (240, 400))]
SMALL = [Rung(height=120, kbps=200)]
Frames = Callable[[int], tuple[np.ndarray[Any, Any], float]]


def found(width: int, height: int, **values: Any) -> Probe:
    given: dict[str, Any] = {
        "duration_s": 5,
        "fps": 25,
        "has_audio": True,
        "has_video": width > 0,
        "container": "c",
        "content_type": "t",
    }
    return Probe(width=width, height=height, **(given | values))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((1920, 1080), [(1920, 1080), (1280, 720), (854, 480), (426, 240)]),
        ((3840, 2160), [(1920, 1080), (1280, 720), (854, 480), (426, 240)]),
        ((1080, 1920), [(1080, 1920), (720, 1280), (480, 854), (240, 426)]),  # upright
        ((640, 360), [(640, 360), (426, 240)]),  # between two rungs
        ((176, 144), [(176, 144)]),  # below all
        ((4000, 20), [(4000, 20)]),
    ],
)
def test_nothing_is_scaled_up(size: tuple[int, int], wanted: list[tuple[int, int]]) -> None:
    made = [each for each in renditions(found(*size), LADDER, []) if each.kind == "video"]
    assert [(each.width, each.height) for each in made] == wanted


def test_sound_has_rungs_of_its_own() -> None:
    names = [each.name for each in renditions(found(0, 0), LADDER, [48, 128, 48])]
    assert names == ["a128", "a48"]
    assert renditions(found(0, 0, has_audio=False), LADDER, [128]) == []
    fast = renditions(found(640, 480, fps=240.0), LADDER, [])
    assert {each.fps for each in fast} == {60}


# -- written ------------------------------------------------------------------------------------------


def film(path: Path, frames: Iterator[tuple[np.ndarray[Any, Any], float]], *, turned: int = 0) -> Path:
    """A film of pictures with their moments."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, (picture, at) in enumerate(frames):
            if not number:
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(at * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def split(width: int = 160, height: int = 120) -> np.ndarray[Any, Any]:
    """Red above, blue below."""
    made = np.zeros((height, width, 3), np.uint8)
    made[: height // 2, :, 0], made[height // 2 :, :, 2] = 255, 255
    return made


def written(
    path: Path, folder: Path, ladder: list[Rung] = SMALL, audio: tuple[int, ...] = (64,), **more: Any
) -> Any:
    given: dict[str, Any] = {
        "gain_db": 0.0,
        "longest_s": 600.0,
        "encoder": pick_encoder(),
        "preset": "ultrafast",
        "threads": 1,
    }
    wanted = renditions(probe(path), ladder, audio)
    list(Transcoder(folder, wanted, **(given | more)).run(path))
    return [hls.look(folder, each) for each in wanted]


def decoded(folder: Path, name: str, tmp_path: Path) -> list[Any]:
    parts = [folder / name / "init.mp4", *sorted((folder / name).glob("*.m4s"))]
    whole = tmp_path / f"{name}.mp4"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    with av.open(str(whole)) as container:
        return list(container.decode(container.streams[0]))


def test_pictures_come_at_an_even_rate_and_a_gap_holds_the_picture(tmp_path: Path) -> None:
    moments = [*np.arange(0, 1, 1 / 30), *np.arange(6, 7, 1 / 30)]
    path = film(tmp_path / "gap.mp4", ((split(), float(at)) for at in moments))
    (video,) = written(path, tmp_path / "out")
    assert video.seconds == pytest.approx(7.0, abs=0.2)
    frames = decoded(tmp_path / "out", "v120", tmp_path)
    steps = np.diff([frame.time for frame in frames])
    assert steps.max() == pytest.approx(steps.min(), abs=1e-3)
    assert video.codecs.startswith("avc1.")


def test_segments_of_all_renditions_begin_at_the_same_moments(tmp_path: Path) -> None:
    path = film(tmp_path / "long.mp4", ((split(), n / 30) for n in range(300)))
    ladder = [Rung(height=120, kbps=200), Rung(height=60, kbps=100)]
    found = written(path, tmp_path / "out", ladder)
    lists = [(tmp_path / "out" / each.rendition.name / "index.m3u8").read_text() for each in found]
    assert lists[0] == lists[1]
    assert [each.segments for each in found] == [3, 3]


def test_what_is_turned_is_shown_upright(tmp_path: Path) -> None:
    plain = film(tmp_path / "plain.mp4", ((split(), n / 30) for n in range(30)))
    turned = tmp_path / "turned.mp4"
    with av.open(str(plain)) as source, av.open(str(turned), "w") as out:
        stream: Any = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    data = turned.read_bytes()
    matrix = np.array([65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30], ">i4").tobytes()
    at = data.rindex(matrix)  # the track's, after the movie's
    quarter = np.array([0, 65536, 0, -65536, 0, 0, 120 << 16, 0, 1 << 30], ">i4").tobytes()
    turned.write_bytes(data[:at] + quarter + data[at + len(matrix) :])
    looked = probe(turned)
    assert (looked.width, looked.height) == (120, 160)
    (video,) = written(turned, tmp_path / "out")
    assert (video.rendition.width, video.rendition.height) == (120, 160)
    picture = decoded(tmp_path / "out", "v120", tmp_path)[5].to_ndarray(format="rgb24")
    assert picture.shape == (160, 120, 3)
    # A quarter to the right: what was above is on the right.
    right, left = picture[80, 100], picture[80, 20]
    assert int(right[0]) - int(right[2]) > 150
    assert int(left[2]) - int(left[0]) > 150


def test_a_film_that_claims_days_is_refused(tmp_path: Path) -> None:
    path = film(tmp_path / "days.mkv", iter([(split(), 0.0), (split(), 1.0), (split(), 90_000.0)]))
    with pytest.raises(FramemeshError, match="goes on after 10 minutes"):
        written(path, tmp_path / "out")


def test_sound_that_is_missing_is_silence(tmp_path: Path) -> None:
    path = tmp_path / "gap.mkv"
    tone = (0.1 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("flac", rate=16_000, layout="mono")
        for start in (0, 4):
            for part in range(4):
                samples = (tone[part * 4000 : (part + 1) * 4000] * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
                frame.sample_rate, frame.pts = 16_000, start * 16_000 + part * 4000
                frame.time_base = Fraction(1, 16_000)
                out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    (sound,) = written(path, tmp_path / "out")
    assert sound.seconds == pytest.approx(5.0, abs=0.2)
    samples = np.concatenate([f.to_ndarray() for f in decoded(tmp_path / "out", "a64", tmp_path)], 1)[0]
    loud = [float(np.abs(samples[int(at * 48_000) : int(at * 48_000) + 9600]).max()) for at in (0.4, 2.5, 4.4)]
    assert loud[0] > 0.05 < loud[2]
    assert loud[1] < 0.01


def test_loudness_of_silence_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "silent.wav"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 32_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        out.mux(stream.encode(frame))
    (*_, (seconds, found)) = measure(path)
    assert seconds == pytest.approx(2.0, abs=0.1)
    assert found == Loudness(None, None)
    assert found.gain(-23) == 0
    assert Loudness(-60.0, -40.0).gain(-23) == 20  # not all of it: that would be noise


def adts(samples: np.ndarray[Any, Any], rate: int) -> bytes:
    """Sound, mono, whose format is told in each frame."""
    data = io.BytesIO()
    with av.open(data, "w", format="adts") as out:
        stream: Any = out.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return data.getvalue()


def test_loudness_is_of_the_whole_where_the_format_of_a_sound_changes(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.2, 3 * 44_100)
    alone, both = tmp_path / "alone.aac", tmp_path / "both.aac"
    alone.write_bytes(adts(noise, 44_100))
    both.write_bytes(adts(noise, 44_100) + adts(noise[:48_000] / 100, 48_000))
    (*_, (_, wanted)), (*_, (seconds, found)) = measure(alone), measure(both)
    assert seconds == pytest.approx(4, abs=0.2)
    assert found.lufs == pytest.approx(wanted.lufs, abs=0.5)  # what is quiet is below the gate
    (sound,) = written(both, tmp_path / "out")
    assert sound.seconds == pytest.approx(4, abs=0.2)


def test_sound_of_too_many_channels_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "many.wav"
    with wave.open(str(path), "wb") as out:
        out.setnchannels(17)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(bytes(17 * 2 * 1000))
    with pytest.raises(FramemeshError, match=r"cannot be mixed down to stereo \(17 channels, 16000 Hz, s16\)"):
        list(measure(path))


def test_a_picture_that_is_larger_than_its_film_says_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "grows.avi"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for number, side in enumerate((64, 8300, 64)):
            data = io.BytesIO()
            Image.new("L", (side, side)).save(data, "JPEG", quality=1)
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            out.mux(packet)
    with mediafile.opened(path) as container:
        pictures = mediafile.pictures_of(container)
        assert pictures
        assert [frame.width for frame in mediafile.frames(container, pictures)] == [64, 64]


def test_the_master_names_sound_once_and_each_rendition_by_itself() -> None:
    video = Rendition(name="v240", kind="video", kbps=400, width=426, height=240, fps=25)
    sound = Rendition(name="a64", kind="audio", kbps=64)
    both = [
        hls.Written(video, "avc1.64000D", 400_000, 300_000, 2, 8.0, 300_000),
        hls.Written(sound, "mp4a.40.2", 66_000, 64_000, 2, 8.0, 64_000),
    ]
    text = hls.master(both, "hls/e")
    assert text.count("#EXT-X-MEDIA:TYPE=AUDIO") == 1
    assert (
        '#EXT-X-STREAM-INF:BANDWIDTH=466000,AVERAGE-BANDWIDTH=364000,CODECS="avc1.64000D,mp4a.40.2",'
        'RESOLUTION=426x240,FRAME-RATE=25.000,AUDIO="sound"\nhls/e/v240/index.m3u8\n'
    ) in text
    assert 'AUDIO="sound"' not in hls.master(both[:1], "hls/e")
    assert "#EXT-X-MEDIA" not in hls.master(both[1:], "hls/e")
