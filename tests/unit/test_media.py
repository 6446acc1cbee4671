"""Which addresses are fetched from, and what a file is taken for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from framemesh import mediafile
from framemesh.audio import RATE
from framemesh.errors import FramemeshError
from framemesh.media import upload_plan
from framemesh.steps import advance
from framemesh.steps.job import Job
from services.media.addresses import Guard, refusal
from services.media.download import shown
from services.media.extract import extract
from services.media.probe import probe

Need = Callable[[str], Path]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("169.254.169.254", "link-local"),  # the metadata of every cloud
        ("100.64.0.1", "not public"),
        ("224.0.0.1", "multicast"),
        ("240.0.0.1", "private"),
        ("255.255.255.255", "private"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("::ffff:a9fe:a9fe", "link-local"),
        ("::127.0.0.1", "reserved"),
        ("64:ff9b::10.0.0.1", "private"),
        ("2002:7f00:1::", "loopback"),
        ("2001:0:a00:1::", "private"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fec0::1", "site-local"),
        ("fd00::1", "private"),
        ("ff02::1", "multicast"),
        ("0x7f.1", "it cannot be read"),
        ("2130706433", "it cannot be read"),
    ],
)
def test_what_is_not_public_is_refused(address: str, why: str) -> None:
    assert refusal(address) == why
    info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80))
    guard = Guard(allow_private=False)
    with pytest.raises(OSError, match="is no public address"):
        guard(info)
    assert guard.refused == f"{address} is no public address ({why})"
    Guard(allow_private=True)(info).close()


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "::ffff:8.8.8.8", "2606:4700:4700::1111", "64:ff9b::8.8.8.8"]
)
def test_what_is_public_is_not(address: str) -> None:
    assert not refusal(address)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://ann:secret@host.example/a/b.mp4?token=x#y", "https://host.example/a/b.mp4"),
        ("http://host.example:8080/?X-Amz-Signature=abc", "http://host.example:8080/"),
        ("http://[::1]:80/x", "http://[::1]/x"),
        ("http://host:port/", "the address"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, said: str) -> None:
    assert shown(url) == said


# -- what a file is taken for -------------------------------------------------------------------------


def test_a_video_is_known_by_its_bytes(assets: Need, tmp_path: Path) -> None:
    misnamed = tmp_path / "readme.txt"
    misnamed.write_bytes(assets("face").read_bytes())
    found = probe(misnamed)
    assert (found.width, found.height, found.fps) == (640, 360, 30)
    assert (found.has_video, found.has_audio, found.content_type) == (True, True, "video/mp4")
    assert found.duration_s == pytest.approx(2.42, abs=0.1)


def test_a_sound_is_known_as_one(assets: Need) -> None:
    found = probe(assets("jfk"))
    assert (found.has_video, found.has_audio, found.width, found.fps) == (False, True, 0, None)
    assert (found.container, found.content_type) == ("flac", "audio/flac")
    assert found.duration_s == pytest.approx(11.0, abs=0.01)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!doctype html><html><body>Not found</body></html>" * 50, "that can be read|neither moving"),
        (b"plain words\n" * 500, "neither moving pictures nor sound|that can be read"),
        (np.random.default_rng(1).bytes(100_000), "not a video or a sound that can be read"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n#EXT-X-ENDLIST\n", "."),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "."),
        (b"\0" * 4096, "not a video or a sound that can be read"),
    ],
    ids=["html", "text", "noise", "playlist", "list", "zeros"],
)
def test_rubbish_is_refused_in_one_line(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "video"
    path.write_bytes(data)
    with pytest.raises(FramemeshError, match=said) as raised:
        probe(path)
    assert "\n" not in str(raised.value)


def test_a_picture_is_no_video(assets: Need) -> None:
    with pytest.raises(FramemeshError, match="neither moving pictures nor sound"):
        probe(assets("astronaut"))


def test_a_playlist_opens_no_other_file(assets: Need, tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(assets("face").read_bytes())
    for name, text in (
        ("list.ffconcat", f"ffconcat version 1.0\nfile {video}\n"),
        ("list.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.4,\nfile://{video}\n#EXT-X-ENDLIST\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(FramemeshError):
            probe(tmp_path / name)


def test_a_cut_video_is_refused(assets: Need, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(assets("people").read_bytes()[:1000])
    with pytest.raises(FramemeshError, match=r"can be read|can be decoded|neither"):
        probe(path)


# -- its sound ----------------------------------------------------------------------------------------


def test_the_sound_comes_out_as_it_is(assets: Need, tmp_path: Path) -> None:
    wav = tmp_path / "audio.wav"
    steps = list(extract(assets("jfk"), wav, 10))
    assert len(steps) > 5
    assert steps[-1].seconds == pytest.approx(11.0, abs=0.01)
    heard = np.concatenate(list(mediafile.sound(wav)))
    whole = np.concatenate(list(mediafile.sound(assets("jfk"))))
    assert np.abs(heard - whole).max() <= 1 / 32768
    with pytest.raises(FramemeshError, match=r"longer than 0\.05 minutes: cut it, or raise media_max_minutes"):
        list(extract(assets("jfk"), wav, 0.05))


def late_sound(path: Any, late: float, gap: float) -> None:
    """A video whose tone begins late, and stops in the middle."""
    with av.open(path, "w", format="matroska") as out:
        video = out.add_stream("mpeg4", 10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = out.add_stream("pcm_s16le", RATE, layout="mono")
        for number in range(50):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            out.mux(video.encode(frame))
        tone = (8000 * np.sin(np.arange(RATE // 10) * 2 * np.pi * 200 / RATE)).astype(np.int16)
        for number in range(20):
            sound = av.AudioFrame.from_ndarray(tone[None, :], "s16", "mono")
            sound.sample_rate = RATE
            sound.pts = round((late + number / 10 + (gap if number >= 10 else 0)) * RATE)
            out.mux(audio.encode(sound))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))


def test_the_sound_keeps_its_place_beside_the_pictures(tmp_path: Path) -> None:
    late_sound(str(tmp_path / "late.mkv"), 1.5, 0.8)
    samples = np.concatenate(list(mediafile.sound(tmp_path / "late.mkv")))
    loud = np.flatnonzero(np.abs(samples) > 0.05) / RATE
    assert loud[0] == pytest.approx(1.5, abs=0.02)
    assert loud[-1] == pytest.approx(1.5 + 2 + 0.8, abs=0.02)
    middle = loud[(loud > 2.4) & (loud < 3.4)]
    assert np.diff(middle).max() == pytest.approx(0.8, abs=0.02)


class Pipe:
    """A file that only goes forward, as what a browser records does."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.write = self.file.write


def test_a_recording_that_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    recorded = Pipe(tmp_path / "recorded.webm")
    late_sound(recorded, 0.0, 0.8)
    recorded.file.close()
    assert probe(tmp_path / "recorded.webm").duration_s == pytest.approx(5, abs=0.1)
    samples = np.concatenate(list(mediafile.sound(tmp_path / "recorded.webm")))
    loud = np.flatnonzero(np.abs(samples) > 0.05) / RATE
    assert np.diff(loud).max() == pytest.approx(0.8, abs=0.02)
    assert loud[-1] == pytest.approx(2.8, abs=0.02)


def test_pictures_come_at_the_rate_that_is_asked_for(assets: Need) -> None:
    with mediafile.opened(assets("face")) as container:
        stream = mediafile.pictures_of(container)
        assert stream
        times = [at for at, _ in mediafile.pictures(container, stream, 5)]
    assert len(times) == 12
    assert np.diff(times) == pytest.approx(0.2, abs=0.02)


# -- the plan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("superseded", [False, True])
def test_only_what_is_published_is_to_be_found(superseded: bool) -> None:
    job = Job(id="j", plan=upload_plan(), input={"media": "_m", "url": "http://a/b"}, created=1)
    advance.begin(job, 1)
    for name in ("registering", "fetching-media", "transcoding", "extracting-audio", "transcribing"):
        advance.done(job, name, None, 1, {"version": 1, "transcript": "t"}, 1, 2)
    assert advance.scope(job, "transcoding") == "_m"
    if superseded:
        advance.skipped(job, "publishing", None, 1, "a newer version was asked for", 3)
    else:
        advance.done(job, "publishing", None, 1, {"version": 1, "transcript": "t"}, 1, 3)
    assert advance.step_input(job, "embed", None)["transcript"] == (None if superseded else "t")
    advance.skipped(job, "embed", None, 1, "nothing was said", 3)
    given = advance.step_input(job, "index", None)
    assert (given["passages"], given["version"]) == (None, None if superseded else 1)
