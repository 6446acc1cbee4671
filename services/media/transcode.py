"""Pictures and sound of a file as HLS: each rendition a folder with a playlist, an init.mp4 and .m4s segments.

The file is decoded once. Pictures come at an even rate, so that the segments of all renditions begin at the same
moments; where there is none for a while the last one stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
from av.audio.frame import AudioFrame
from av.filter import Graph
from av.video.frame import VideoFrame

from framemesh import mediafile
from framemesh.errors import FramemeshError
from services.media.hls import INIT, PLAYLIST, SEGMENT_S, SEGMENTS
from services.media.ladder import Rendition
from services.media.loudness import CHANNELS, RATE, Chain, normalising

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.video.stream import VideoStream

AAC_SAMPLES = 1024
GAP_S = 0.25
TAIL_S = 30.0
"""Longest that the last picture stays for sound that goes on, and the other way round."""
_TURNS = {90: "cclock", -90: "clock", 270: "clock", -270: "cclock"}


class Transcoder:
    """Writes the renditions of a file into a folder."""

    def __init__(
        self, folder: Path, renditions: Sequence[Rendition], *, gain_db: float, longest_s: float,
        encoder: str, preset: str, threads: int = 0,
    ) -> None:  # fmt: skip
        self._longest = longest_s
        self._pictures = [
            _Pictures(folder, each, encoder, preset, threads) for each in renditions if each.kind == "video"
        ]
        sounds = [_Sound(folder, each) for each in renditions if each.kind == "audio"]
        self._sound = _Line(sounds, gain_db) if sounds else None
        self._pace = _Pace(self._pictures[0].rate) if self._pictures else None

    def run(self, path: Path) -> Iterator[float]:
        """Write all of it, and say after each second or so how many are done. Raises FramemeshError."""
        told = 0.0
        try:
            for at in self._decoded(path):
                if at > self._longest:
                    raise FramemeshError(
                        f"it says that it goes on after {self._longest / 60:g} minutes: cut it, or raise "
                        "media_max_minutes"
                    )
                if at - told >= 1:
                    told = at
                    yield at
            self._finish()
        finally:
            for each in (*self._pictures, *(self._sound.outputs if self._sound else ())):
                each.close()

    def _decoded(self, path: Path) -> Iterator[float]:
        with mediafile.opened(path) as container:
            first = mediafile.begin(container)
            pictures, sound = mediafile.pictures_of(container), mediafile.sound_of(container)
            wanted: list[VideoStream | AudioStream] = []
            if self._pace and pictures:
                pictures.thread_type = "AUTO"
                wanted.append(pictures)
            if self._sound and sound:
                wanted.append(sound)
            for frame in mediafile.frames(container, *wanted):
                at = None if frame.time is None else max(0.0, frame.time - first)
                if at is not None and at > self._longest:
                    yield at
                yield self._take(frame, at)

    def _take(self, frame: Any, at: float | None) -> float:
        if isinstance(frame, AudioFrame):
            return self._sound.add(frame, at) if self._sound else 0.0
        if self._pace is None:
            return 0.0
        self._show(self._pace.add(frame, at))
        return self._pace.seconds

    def _show(self, frames: Iterator[VideoFrame]) -> None:
        for frame in frames:
            for output in self._pictures:
                output.add(frame)

    def _finish(self) -> None:
        if self._pace:
            heard = self._sound.seconds if self._sound else 0.0
            self._show(self._pace.finish(min(heard, self._pace.seconds + TAIL_S)))
        if self._sound:
            self._sound.finish()


class _Pace:
    """Pictures at an even rate: each is shown until the next is due."""

    def __init__(self, rate: Fraction) -> None:
        self._rate = rate
        self._held: VideoFrame | None = None
        self._shown = 0

    @property
    def seconds(self) -> float:
        """How much has been shown."""
        return float(self._shown / self._rate)

    def add(self, frame: VideoFrame, at: float | None) -> Iterator[VideoFrame]:
        """Those that are due before the next one comes; without a time it comes after the one before."""
        due = self._shown + 1 if at is None else round(at * self._rate)
        if self._held is None:
            self._held = frame  # also for what is missing before it
        yield from self._until(due)
        self._held = frame

    def finish(self, seconds: float) -> Iterator[VideoFrame]:
        """The last one, until a moment."""
        return self._until(max(self._shown + 1, round(seconds * self._rate)))

    def _until(self, number: int) -> Iterator[VideoFrame]:
        while self._held is not None and self._shown < number:
            yield self._held
            self._shown += 1


class _Output:
    """A rendition that is being written."""

    def __init__(self, folder: Path, rendition: Rendition, segment_s: float) -> None:
        here = folder / rendition.name
        here.mkdir(parents=True)
        options = {
            "hls_segment_type": "fmp4", "hls_fmp4_init_filename": INIT, "hls_time": f"{segment_s:.4f}",
            "hls_segment_filename": str(here / SEGMENTS), "hls_playlist_type": "vod", "hls_list_size": "0",
            "hls_flags": "independent_segments",
        }  # fmt: skip
        self._container = av.open(str(here / PLAYLIST), "w", format="hls", options=options)
        self._stream: Any = None
        self._open = True

    def write(self, frame: Any) -> None:
        """Encode a frame; None is the end."""
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> None:
        """Write the playlist; a second time does nothing."""
        if self._open:
            self._open = False
            self._container.close()


class _Pictures(_Output):
    def __init__(self, folder: Path, rendition: Rendition, encoder: str, preset: str, threads: int) -> None:
        self.rate = Fraction(rendition.fps).limit_denominator(1001)
        gop = max(1, round(SEGMENT_S * self.rate))
        # Half a picture less: a segment ends with its last one, whatever the times are rounded to.
        super().__init__(folder, rendition, float((gop - Fraction(1, 2)) / self.rate))
        self._size = (rendition.width, rendition.height)
        self._count = 0
        self._turning: tuple[int, Graph] | None = None
        stream: Any = self._container.add_stream(encoder, rate=self.rate)
        stream.width, stream.height, stream.pix_fmt = *self._size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = 1 / self.rate
        stream.gop_size = gop
        stream.codec_context.thread_count = threads
        if encoder == "libx264":
            bits = rendition.kbps * 1000
            stream.options = {
                "preset": preset, "crf": "23", "maxrate": str(bits), "bufsize": str(2 * bits), "profile": "high",
                "sc_threshold": "0", "keyint_min": str(gop),
            }  # fmt: skip
        else:
            stream.bit_rate = rendition.kbps * 1000
        self._stream = stream

    def add(self, frame: VideoFrame) -> None:
        """Write a picture, upright and in this rendition's size."""
        made = self._upright(frame)
        made.pts, made.time_base = self._count, 1 / self.rate
        made.pict_type = 0  # the encoder's own choice, not that of the file
        self._count += 1
        self.write(made)

    def _upright(self, frame: VideoFrame) -> VideoFrame:
        turn = round(frame.rotation) % 360
        turn = turn - 360 if turn > 180 else turn  # noqa: PLR2004
        width, height = self._size if abs(turn) != 90 else self._size[::-1]  # noqa: PLR2004
        made = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")
        if not turn:
            return made
        if self._turning is None or self._turning[0] != turn:
            self._turning = (turn, _turning(turn, made))
        graph = self._turning[1]
        made.pts, made.time_base = self._count, 1 / self.rate
        graph.push(made)
        return graph.pull()  # type: ignore[return-value]

    def close(self) -> None:
        """Write what the encoder still has."""
        if self._open and self._count:
            self.write(None)
        super().close()


def _turning(turn: int, frame: VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    turns = [graph.add("transpose", f"dir={_TURNS[turn]}")] if turn in _TURNS else []
    turns = turns or [graph.add("hflip"), graph.add("vflip")]
    graph.link_nodes(source, *turns, graph.add("buffersink")).configure()
    return graph


class _Sound(_Output):
    def __init__(self, folder: Path, rendition: Rendition) -> None:
        super().__init__(folder, rendition, SEGMENT_S)
        stream: Any = self._container.add_stream("aac", rate=RATE, layout=CHANNELS)
        stream.bit_rate = rendition.kbps * 1000
        stream.time_base = Fraction(1, RATE)
        self._stream = stream
        self.samples = 0

    def close(self) -> None:
        """Write what the encoder still has."""
        if self._open and self.samples:
            self.write(None)
        super().close()


class _Line:
    """Sound in time and at its loudness, for all renditions of it."""

    def __init__(self, outputs: Sequence[_Sound], gain_db: float) -> None:
        self.outputs = outputs
        self._chain = Chain(
            f"aresample={RATE},aformat=sample_fmts=fltp:channel_layouts={CHANNELS},{normalising(gain_db)},"
            f"asetnsamples=n={AAC_SAMPLES}:p=0"
        )
        self.seconds = 0.0

    def add(self, frame: AudioFrame, at: float | None) -> float:
        """Take the next sound; what is missing before it is silence. Seconds that there are now."""
        lacking = 0.0 if at is None else at - self.seconds
        if lacking > GAP_S:
            for silence in _silence(frame, lacking):
                self._write(self._chain.add(silence))
            self.seconds += lacking
        self.seconds += frame.samples / frame.sample_rate
        self._write(self._chain.add(frame))
        return self.seconds

    def finish(self) -> None:
        """Write what the filters still have."""
        self._write(self._chain.finish())

    def _write(self, frames: Iterator[AudioFrame]) -> None:
        for frame in frames:
            for output in self.outputs:
                frame.pts, frame.time_base = output.samples, Fraction(1, RATE)
                output.write(frame)
                output.samples += frame.samples


def _silence(like: AudioFrame, seconds: float) -> Iterator[AudioFrame]:
    """Of the same format, a second at a time."""
    left = round(seconds * like.sample_rate)
    while left > 0:
        count = min(left, like.sample_rate)
        made = AudioFrame(format=like.format.name, layout=like.layout.name, samples=count)
        for plane in made.planes:
            level = 128 if like.format.name.startswith("u8") else 0
            plane.update(bytes([level]) * plane.buffer_size)
        made.sample_rate = like.sample_rate
        left -= count
        yield made
