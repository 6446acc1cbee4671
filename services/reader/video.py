"""Pictures and sound from a camera or a file, one piece at a time.

Readers block, so they run in a thread of their own, which also closes them.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Literal, NoReturn, Self

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from framemesh.audio import LEAST_RATE, Channels
from framemesh.errors import FramemeshError
from framemesh.telemetry import redact
from services.reader import jpeg
from services.reader.pieces import Sound

ReaderKind = Literal["auto", "av", "opencv"]


class SoundChoice(StrEnum):
    """Whether a source's sound is taken."""

    AUTO = "auto"  # where there is one
    OFF = "off"
    ONLY = "only"  # and no pictures


MAX_FAILURES = 300
"""Packets in a row that cannot be decoded before a reader gives up: ten seconds of a camera at 30 a second."""

_log = logging.getLogger(__name__)

_LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp"})
_RTSP_OPTIONS = {
    "rtsp_transport": "tcp",  # a lost datagram smears every picture up to the next key frame
    "fpsprobesize": "0",  # guessing the rate from twenty frames holds the first picture back for a second
}

_RTSP_MEDIA = {SoundChoice.AUTO: "video+audio", SoundChoice.OFF: "video", SoundChoice.ONLY: "audio"}

# FFmpeg's own lines carry addresses with their passwords; what matters comes as an error as well.
av.logging.set_level(av.logging.PANIC)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class SourceUnavailable(FramemeshError):
    """A source that cannot be read now but may be later: worth another try."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a source says of itself: pixels (0 without pictures), frames a second and seconds, where known."""

    width: int
    height: int
    fps: float | None
    duration_s: float | None
    live: bool
    sound: bool = False
    sound_start: float | None = None
    """Seconds at which the sound of a file begins, below 0 where that is before its first picture."""

    def __str__(self) -> str:
        parts = [f"{self.width}x{self.height}"] if self.width else []
        return " and ".join(parts + (["sound"] if self.sound else []))


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture, upright, in pixels. ``pts`` is seconds in the source, None where it has no time.

    ``jpeg(quality)`` encodes it; call it before the next picture is asked for.
    """

    pts: float | None
    width: int
    height: int
    jpeg: Callable[[int], bytes]


class VideoReader(ABC):
    """Iterates once over the pictures, and pieces of sound, of a source; a context manager.

    A damaged packet is counted in ``corrupt`` and left out. The end of a file ends the iteration; the end of
    a live source, or its silence, raises SourceUnavailable.
    """

    info: VideoInfo
    corrupt: int = 0

    def __init__(self, address: str) -> None:
        self.name = redact(address)
        self._failures = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def __iter__(self) -> Iterator[Picture | Sound]:
        """Yield pictures, and sound, each in the order of their times."""

    def close(self) -> None:
        """Let the source go."""
        if self.corrupt:
            _log.warning("%s: left out %d damaged packets", self.name, self.corrupt)

    def _damaged(self, reason: str) -> None:
        self.corrupt += 1
        self._failures += 1
        if self.corrupt == 1:
            _log.warning("%s: left out a damaged packet (%s), going on", self.name, reason)
        if self._failures >= MAX_FAILURES:
            raise FramemeshError(
                f"{self.name}: {self._failures} packets in a row cannot be decoded: check the camera or the file"
            )


class AVReader(VideoReader):
    """Reads cameras, network streams and files with PyAV."""

    def __init__(
        self,
        address: str,
        stream: int = 0,
        timeout_s: float = 10,
        *,
        sound: SoundChoice = SoundChoice.OFF,
        audio_stream: int = 0,
    ) -> None:
        """Open the ``stream``-th video and the ``audio_stream``-th audio stream, counted from 0.

        A source silent for ``timeout_s`` is SourceUnavailable.
        """
        super().__init__(address)
        self._container = _open_container(address, timeout_s, sound)
        try:
            self._audio = _pick_audio(self._container, self.name, audio_stream, sound)
            self._video = _pick_video(self._container, self.name, stream, sound, heard=self._audio is not None)
            if sound is SoundChoice.ONLY and not self._audio:
                raise FramemeshError(f"{self.name}: no sound in it: set source_audio to auto or off")
        except FramemeshError:
            self._container.close()
            raise
        self._channels = Channels()
        self._deaf = 0
        self._heard = False
        self.info = _info(self._container, self._video, self._audio, live=is_live(address))
        beginning = self._video or self._audio
        self._start = 0.0 if self.info.live or not beginning else _begin(beginning)

    def __iter__(self) -> Iterator[Picture | Sound]:
        for packet in self._packets():
            if isinstance(packet.stream, AudioStream):
                yield from self._hear(packet.stream, packet)
            elif isinstance(packet.stream, VideoStream):
                for frame in self._decode(packet.stream, packet):
                    yield self._picture(frame)
        for samples in self._resampled(None) if self._heard else ():
            yield Sound(None, samples)
        if not self._video and not self._heard and (self.corrupt or (self._audio and not self._audio.rate)):
            raise FramemeshError(f"{self.name}: no sound in it can be decoded: check the file or the camera")
        if self.info.live:
            raise SourceUnavailable(f"{self.name}: the stream ended: check that the camera is still on")

    def close(self) -> None:
        """Let the source go."""
        self._container.close()
        super().close()

    def _packets(self) -> Iterator[av.Packet[Any]]:
        streams = [stream for stream in (self._video, self._audio) if stream]
        while True:
            try:
                yield from self._container.demux(streams)
            except av.error.FFmpegError as error:
                self._read_failed(error)
            except Exception as error:  # PyAV's own, of an index where a stream came on the way
                self._damaged(_reason(error))
            else:
                return

    def _read_failed(self, error: av.error.FFmpegError) -> None:
        if self.info.live:
            raise SourceUnavailable(
                f"{self.name}: connection lost ({_reason(error)}): check the camera and the network"
            ) from None
        if not isinstance(error, av.error.InvalidDataError):
            raise FramemeshError(f"{self.name}: reading failed ({_reason(error)}): check the file") from None
        self._damaged(_reason(error))

    def _decode(self, stream: VideoStream, packet: av.Packet[Any]) -> list[av.VideoFrame]:
        try:
            frames = stream.decode(packet)
        except av.error.EOFError:  # the end came twice
            return []
        except Exception as error:
            self._damaged(_reason(error))
            return []
        whole = [frame for frame in frames if not frame.is_corrupt]
        for _ in range(len(frames) - len(whole)):
            self._damaged("picture with holes")
        if whole:
            self._failures = 0
        return whole

    def _hear(self, stream: AudioStream, packet: av.Packet[Any]) -> Iterator[Sound]:
        """Decode sound. However broken it is, it never costs the pictures."""
        if self._deaf >= MAX_FAILURES:
            return
        try:
            frames = stream.decode(packet)
        except av.error.EOFError:  # the end came twice
            return
        except Exception as error:
            self._not_heard(_reason(error))
            return
        for frame in frames:
            if frame.sample_rate < LEAST_RATE:
                self._not_heard(f"{frame.sample_rate} samples a second are too few")
                continue
            pts = self._seconds(frame)
            for samples in self._resampled(frame):
                yield Sound(pts, samples)

    def _resampled(self, frame: av.AudioFrame | None) -> list[NDArray[np.float32]]:
        """The samples of a frame, or with None those that the resampler still holds."""
        try:
            found = list(self._channels.add(frame) if frame is not None else self._channels.finish())
        except Exception as error:
            self._not_heard(_reason(error))
            return []
        self._deaf, self._heard = 0, True
        if not self._video:
            self._failures = 0
        return found

    def _not_heard(self, reason: str) -> None:
        self.corrupt += 1
        self._deaf += 1
        if self._deaf == MAX_FAILURES and not self._video:
            raise FramemeshError(f"{self.name}: sound cannot be decoded ({reason}): check the file or the camera")
        if self._deaf in {1, MAX_FAILURES}:
            _log.warning("%s: sound cannot be decoded (%s)", self.name, reason)

    def _picture(self, frame: av.VideoFrame) -> Picture:
        return Picture(self._seconds(frame), *jpeg.size(frame), partial(jpeg.encode, frame))

    def _seconds(self, frame: av.VideoFrame | av.AudioFrame) -> float | None:
        if frame.pts is None or frame.time_base is None:
            return None
        return float(frame.pts * frame.time_base) - self._start


class OpenCVReader(VideoReader):
    """Reads the first video stream of a file with OpenCV.

    OpenCV does not tell damage from the end: the end is MAX_FAILURES failures in a row.
    """

    def __init__(self, address: str) -> None:
        super().__init__(address)
        if "://" in address:
            raise FramemeshError(f"{self.name}: the opencv reader reads files only: set reader_type to av")
        with AVReader(address) as probe:  # OpenCV says only that it failed, never why
            self.info = probe.info
        self._capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            raise FramemeshError(f"{self.name}: OpenCV cannot decode it: set reader_type to av")
        self._grabbed = 0
        self._last_pts = -1.0

    def __iter__(self) -> Iterator[Picture]:
        width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        while self._grab():
            yield Picture(self._seconds(), width, height, partial(self._jpeg, self._grabbed))

    def close(self) -> None:
        """Let the file go."""
        self._capture.release()
        super().close()

    def _grab(self) -> bool:
        for failures in range(MAX_FAILURES):
            if self._capture.grab():
                self._count(failures)
                self._grabbed += 1
                return True
        return False

    def _count(self, failures: int) -> None:
        for _ in range(failures):
            self._damaged("OpenCV cannot decode it")
        self._failures = 0

    def _seconds(self) -> float | None:
        pts = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if pts <= self._last_pts:  # OpenCV repeats the last time where the source has none
            return None
        self._last_pts = pts
        return pts

    def _jpeg(self, number: int, quality: int) -> bytes:
        if number != self._grabbed:
            raise RuntimeError("OpenCV holds one picture: encode it before asking for the next")
        retrieved, image = self._capture.retrieve()
        if not retrieved:
            raise FramemeshError(f"{self.name}: OpenCV lost picture {number}: set reader_type to av")
        return jpeg.encode_bgr(image.astype(np.uint8, copy=False), quality)


def open_reader(
    address: str,
    kind: ReaderKind = "auto",
    stream: int = 0,
    timeout_s: float = 10,
    *,
    sound: SoundChoice = SoundChoice.OFF,
    audio_stream: int = 0,
) -> VideoReader:
    """Open a source. ``stream`` and ``audio_stream`` count its streams from 0; ``auto`` is PyAV.

    Raises SourceUnavailable when another try may help, FramemeshError when only the user can.
    """
    if kind != "opencv":
        return AVReader(address, stream, timeout_s, sound=sound, audio_stream=audio_stream)
    if stream or sound is SoundChoice.ONLY:
        raise FramemeshError(
            f"{redact(address)}: the opencv reader reads video stream 0 only, and no sound: set reader_type to av"
        )
    return OpenCVReader(address)


def is_live(address: str) -> bool:
    """Whether a source goes on without end: a camera, a device or an HLS playlist, not a file."""
    scheme, rest = _split(address)
    playlist = scheme in {"http", "https"} and rest.partition("?")[0].endswith(".m3u8")
    return scheme in _LIVE_SCHEMES or playlist or address.startswith("/dev/")


def _split(address: str) -> tuple[str, str]:
    # Not urlsplit: it rejects the brackets that a password may hold.
    scheme, separator, rest = address.partition("://")
    return (scheme.lower(), rest) if separator else ("", address)


def _open_container(address: str, timeout_s: float, sound: SoundChoice) -> InputContainer:
    scheme, _ = _split(address)
    # A name such as 12:30.mp4 would pass for a protocol.
    url = address if scheme else f"file:{address}"
    options = {**_RTSP_OPTIONS, "allowed_media_types": _RTSP_MEDIA[sound]} if scheme in {"rtsp", "rtsps"} else {}
    # FFmpeg hands out what its parser still holds after the first time-out, then waits for another.
    timeout = (timeout_s, timeout_s / 2)
    try:
        return av.open(url, options=options, timeout=timeout, metadata_errors="replace")
    except Exception as error:
        _refuse(error, address)


def _refuse(error: Exception, address: str) -> NoReturn:
    """Say why an address cannot be opened, and whether another try may help."""
    name = redact(address)
    local = _split(address)[0] in {"", "file"}
    for kind, advice in _LOCAL_REFUSALS if local else _REMOTE_REFUSALS:
        if isinstance(error, kind):
            raise FramemeshError(f"{name}: {advice}") from None
    if local:
        raise FramemeshError(
            f"{name}: not a video or a sound that can be read ({_reason(error)}): check the file"
        ) from None
    if isinstance(error, av.error.HTTPNotFoundError):  # some servers say so until the camera publishes
        raise SourceUnavailable(f"{name}: the server has no such stream: check the path after the host") from None
    raise SourceUnavailable(
        f"{name}: no video came ({_reason(error)}): check that it is on, and its host and port"
    ) from None


_LOCAL_REFUSALS = (
    (FileNotFoundError, "no such file: check the path"),
    (IsADirectoryError, "this is a folder: give the video file in it"),
    (PermissionError, "may not be read: check the permissions of the file"),
)
_REMOTE_REFUSALS = (
    (
        (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError),
        "user or password refused: give both in the address, as in rtsp://user:password@host/path",
    ),
    (av.error.ProtocolNotFoundError, "unknown kind of address: give a file, rtsp://, rtmp://, srt:// or http://"),
)


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.ExitError):
        return "timed out"
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _pick_video(
    container: InputContainer, name: str, index: int, sound: SoundChoice, *, heard: bool
) -> VideoStream | None:
    """The video stream; None where only sound is wanted, or nothing else is there."""
    if sound is SoundChoice.ONLY:
        return None
    # The cover of a song is a video stream of one picture; plain text passes for ANSI art.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams or container.format.name == "tty":
        if heard and not index:
            return None
        raise FramemeshError(f"{name}: no video in it: give a file or a stream with pictures")
    if not 0 <= index < len(streams):
        raise FramemeshError(f"{name}: no video stream {index}: it has {len(streams)}, counted from 0")
    stream = streams[index]
    if stream.codec_context is None:  # PyAV's types do not tell
        raise FramemeshError(f"{name}: its pictures are in a format that FFmpeg cannot decode: choose another")
    # Threads of the decoder cost a fifth more CPU a frame, and hold live frames back.
    stream.codec_context.thread_count = 1
    return stream


def _pick_audio(container: InputContainer, name: str, index: int, sound: SoundChoice) -> AudioStream | None:
    streams = container.streams.audio
    if sound is SoundChoice.OFF or (not streams and not index):
        return None
    if not 0 <= index < len(streams):
        raise FramemeshError(f"{name}: no audio stream {index}: it has {len(streams)}, counted from 0")
    if streams[index].codec_context is None:  # PyAV's types do not tell
        if sound is SoundChoice.ONLY:
            raise FramemeshError(f"{name}: its sound is in a format that FFmpeg cannot decode: choose another")
        _log.warning("%s: its sound is in a format that FFmpeg cannot decode; going on without", name)
        return None
    return streams[index]


def _begin(stream: VideoStream | AudioStream) -> float:
    """Seconds at which a stream's own times begin; its sound and pictures share that line."""
    if stream.start_time is None or stream.time_base is None:
        return 0.0
    return float(stream.start_time * stream.time_base)


def _info(
    container: InputContainer, stream: VideoStream | None, sound: AudioStream | None, *, live: bool
) -> VideoInfo:
    rate, length = stream.average_rate if stream else None, container.duration
    return VideoInfo(
        width=stream.codec_context.width if stream else 0,
        height=stream.codec_context.height if stream else 0,
        fps=float(rate) if rate else None,
        duration_s=None if live or length is None else length / av.time_base,
        live=live,
        sound=sound is not None,
        sound_start=None if live or sound is None else _begin(sound) - _begin(stream or sound),
    )
