"""Loudness by EBU R 128: how loud a sound is, and by how much it is made louder or softer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.filter import Graph

from framemesh import mediafile
from framemesh.errors import FramemeshError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

SILENCE_LUFS = -69.9
"""What the meter says of what is below its gate."""
MOST_GAIN_DB = 20.0
"""More would make a film of noise."""
CEILING_DB = -1.5
"""Highest sample that is written; between two of them, and in the encoder, it gets a little higher."""
CHANNELS = "stereo"
RATE = 48_000


@dataclass(frozen=True)
class Loudness:
    """Of a whole sound: integrated (LUFS, None for silence), and its true peak (dBTP)."""

    lufs: float | None
    peak_db: float | None

    def gain(self, target: float) -> float:
        """Decibels to the target."""
        return 0.0 if self.lufs is None else round(min(MOST_GAIN_DB, target - self.lufs), 2)


def measure(path: Path) -> Iterator[tuple[float, Loudness]]:
    """How loud a file is up to so many seconds, after each second or so; the last says it of the whole.

    FFmpeg's ebur128 measures while it is decoded, so hours of sound take no memory.
    """
    told = 0.0
    with mediafile.opened(path) as container:
        stream = mediafile.sound_of(container)
        if stream is None:
            return
        # The meter is apart: it would begin anew where the sound's format changes.
        chain = Chain(f"aresample={RATE},aformat=sample_fmts=flt:channel_layouts={CHANNELS}")
        meter = Chain("ebur128=metadata=1:peak=true")
        done, found = 0, Loudness(None, None)
        for frame in meter.through(chain.through(mediafile.frames(container, stream))):
            done += frame.samples
            found = _read(frame) or found
            if done / RATE - told >= 1:
                told = done / RATE
                yield told, found
        yield done / RATE, found


def _read(frame: AudioFrame) -> Loudness | None:
    """What the meter says so far; the last, shorter frame it lets pass."""
    said = frame.metadata
    if _LUFS not in said:
        return None
    lufs, peak = float(said[_LUFS]), float(said.get(_PEAK, 0))
    return Loudness(lufs if lufs > SILENCE_LUFS else None, _decibels(peak) if peak > 0 else None)


_LUFS, _PEAK = "lavfi.r128.I", "lavfi.r128.true_peak"


def _decibels(share: float) -> float:
    return round(20 * math.log10(share), 2)


def normalising(gain_db: float) -> str:
    """Filters that make a sound louder or softer, and keep its peaks below the ceiling."""
    limit = 10 ** (CEILING_DB / 20)
    return f"volume={gain_db}dB,alimiter=limit={limit:.4f}:level=disabled:latency=1"


class Chain:
    """Audio filters that outlive a change of the sound's format: they are made anew for it."""

    def __init__(self, filters: str) -> None:
        self._filters = filters
        self._graph: Graph | None = None
        self._format: tuple[str, str, int] | None = None

    def through(self, frames: Iterator[AudioFrame]) -> Iterator[AudioFrame]:
        """What comes out for what goes in, all of it."""
        for frame in frames:
            yield from self.add(frame)
        yield from self.finish()

    def add(self, frame: AudioFrame) -> Iterator[AudioFrame]:
        """What comes out for one more."""
        wanted = (frame.format.name, frame.layout.name, frame.sample_rate)
        if wanted != self._format:
            yield from self.finish()
            self._graph, self._format = _graph(frame, self._filters), wanted
        if self._graph:
            frame.pts = None
            self._graph.push(frame)
            yield from _pulled(self._graph)

    def finish(self) -> Iterator[AudioFrame]:
        """What is still in it."""
        if self._graph:
            self._graph.push(None)
            yield from _pulled(self._graph)
        self._graph = self._format = None


def _graph(frame: AudioFrame, filters: str) -> Graph:
    graph = Graph()
    nodes = [
        graph.add_abuffer(
            sample_rate=frame.sample_rate, format=frame.format.name, layout=frame.layout.name,
            time_base=Fraction(1, frame.sample_rate),
        )
    ]  # fmt: skip
    for text in filters.split(","):
        name, _, arguments = text.partition("=")
        nodes.append(graph.add(name, arguments or None))
    nodes.append(graph.add("abuffersink"))
    try:
        graph.link_nodes(*nodes).configure()
    except av.FFmpegError as error:
        what = f"{frame.layout.nb_channels} channels, {frame.sample_rate} Hz, {frame.format.name}"
        raise FramemeshError(
            f"its sound cannot be mixed down to {CHANNELS} ({what}): give it as {CHANNELS}"
        ) from error
    return graph


def _pulled(graph: Graph) -> Iterator[AudioFrame]:
    while True:
        try:
            yield graph.pull()  # type: ignore[misc]
        except (av.BlockingIOError, av.EOFError):
            return
