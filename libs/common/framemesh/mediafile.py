"""Media files of strangers, read by FFmpeg so that it opens nothing but the file itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.stream import Disposition

from framemesh.audio import LEAST_RATE, RATE, Channels, Samples, mix
from framemesh.errors import FramemeshError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

GAP_S = 0.25
"""Sound that is missing for longer is made up for with silence, so that times stay true."""
BLOCK = RATE
USUAL_RATE = 25
"""Frames a second of a file whose pictures have no times."""
MOST_PIXELS = 64 << 20
# FFmpeg's own lines may carry what a file says of itself; what matters comes as an error as well.
av.logging.set_level(av.logging.PANIC)


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Open a media file. Raises FramemeshError for what FFmpeg cannot read.

    A playlist in it may name other files or addresses: none is opened.
    """
    with path.open("rb") as file:
        try:
            container = av.open(file, mode="r", options={"protocol_whitelist": "none"}, metadata_errors="replace")
        except (av.FFmpegError, IndexError, ValueError, OSError) as error:
            raise FramemeshError(f"not a video or a sound that can be read ({reason(error)})") from error
        with container:
            yield container


def reason(error: Exception) -> str:
    """Why, in a few words."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def pictures_of(container: InputContainer) -> VideoStream | None:
    """The pictures; the cover of a song is none, nor is text that passes for ANSI art, nor a single picture."""
    name = container.format.name
    if name in {"tty", "image2"} or name.endswith("_pipe"):
        return None
    found = next((s for s in container.streams.video if _moves(s)), None)
    if found:  # a later picture may be another size than the file says
        found.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    return found


def _moves(stream: VideoStream) -> bool:
    if stream.disposition & Disposition.attached_pic or not _known(stream):
        return False
    if stream.width * stream.height > MOST_PIXELS:  # a few kilobytes can claim gigabytes
        raise FramemeshError(f"its pictures are {stream.width}x{stream.height}: too large to be decoded")
    return True


def sound_of(container: InputContainer) -> AudioStream | None:
    """The first sound that FFmpeg can decode."""
    return next((stream for stream in container.streams.audio if _known(stream)), None)


def _known(stream: VideoStream | AudioStream) -> bool:
    # PyAV's types do not tell: it is None for a codec that FFmpeg does not have.
    return bool(stream.codec_context)


def duration(container: InputContainer) -> float | None:
    """Seconds, as the file says or FFmpeg guesses by its bytes: enough to say how far one is."""
    return None if container.duration is None else max(0.0, container.duration / av.time_base)


def seconds(path: Path) -> float | None:
    """How long a file is, roughly, where that is known. Raises FramemeshError."""
    with opened(path) as container:
        return duration(container)


def begin(container: InputContainer) -> float:
    """Seconds at which the times of a file begin; its sound and pictures share that line."""
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in (pictures_of(container), sound_of(container))
        if stream and stream.start_time is not None and stream.time_base is not None
    ]
    return min(starts, default=0.0)


def frames(container: InputContainer, *streams: VideoStream | AudioStream) -> Iterator[Any]:
    """Every frame that can be decoded: a broken packet costs itself, a cut file its rest."""
    packets = container.demux(*streams)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue


def pictures(container: InputContainer, stream: VideoStream, rate: float) -> Iterator[tuple[float, VideoFrame]]:
    """Frames with their times in seconds, at most ``rate`` a second, evenly spread."""
    first, due = begin(container), 0.0
    usual = float(stream.average_rate or USUAL_RATE)
    stream.codec_context.thread_count = 1
    for number, frame in enumerate(frames(container, stream)):
        at = number / usual if frame.time is None else max(0.0, frame.time - first)
        if at < due - 1e-3:
            continue
        due = max(due + 1 / rate, at - 1 / rate)
        yield at, frame


def sound(path: Path) -> Iterator[Samples]:
    """The sound of a file, mono of 16 kHz, a second or so at a time; from the first moment of its pictures on.

    Raises FramemeshError for a file without sound. What is no number is silence.
    """
    with opened(path) as container:
        stream = sound_of(container)
        if stream is None:
            raise FramemeshError("the file has no sound")
        yield from _blocks(_in_time(container, stream))


def _in_time(container: InputContainer, stream: AudioStream) -> Iterator[Samples]:
    """Samples, with silence for what is missing before and between them."""
    first = begin(container)
    end = (last_moment(container) or duration(container) or 0.0) + 1
    rewind(container)
    channels, done, apart = Channels(), 0, 0.0
    for frame in frames(container, stream):
        if frame.sample_rate < LEAST_RATE:
            raise FramemeshError(f"the sound has {frame.sample_rate} samples a second: want {LEAST_RATE} or more")
        # By what the frames say they last: the resampler holds some samples back.
        gap = 0.0 if frame.time is None else frame.time - first - apart
        if gap > GAP_S and frame.time - first <= end:
            for part in channels.finish():
                done += len(part)
                yield mix(part)
            lacking = round((frame.time - first) * RATE) - done
            yield from _silence(lacking)
            done += max(0, lacking)
            apart = done / RATE
        apart += frame.samples / frame.sample_rate
        for part in channels.add(frame):
            done += len(part)
            yield mix(part)
    yield from map(mix, channels.finish())


def _silence(count: int) -> Iterator[Samples]:
    while count > 0:
        yield np.zeros(min(count, BLOCK), np.float32)
        count -= BLOCK


def _blocks(parts: Iterator[Samples]) -> Iterator[Samples]:
    held: list[Samples] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= BLOCK:
            yield np.clip(np.concatenate(held), -1, 1)
            held = []
    if held:
        yield np.clip(np.concatenate(held), -1, 1)


def first_picture(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    """The first one that can be decoded, from the beginning of the file."""
    rewind(container)
    return next(frames(container, stream), None)


def first_sound(container: InputContainer, stream: AudioStream) -> AudioFrame | None:
    """The first one that can be decoded, from the beginning of the file."""
    rewind(container)
    return next(frames(container, stream), None)


def last_moment(container: InputContainer) -> float | None:
    """Seconds by its packets: what a browser records does not say how long it is, and FFmpeg guesses wrongly."""
    first, last = begin(container), 0.0
    rewind(container)
    with suppress(av.FFmpegError):
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - first
                last = max(last, end)
    return last or None


def rewind(container: InputContainer) -> None:
    """Back to the beginning, in formats that know the way."""
    with suppress(av.FFmpegError):
        container.seek(0)
