"""Sound: 16 kHz mono samples, their WAV, and how a live sound is cut into windows."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from framemesh.bus import Reject

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler
    from av.container import InputContainer

RATE = 16_000
"""Samples a second of everything that Framemesh listens to."""
Samples = NDArray[np.float32]
"""Mono sound of RATE, float32 in -1..1, shape [samples]."""

MOST_SECONDS = 120
FULL_SCALE = 32768
LEAST_RATE = 1000
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_PCM = (b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data")

QUIET_S = 0.3  # longer than the closure of a "p" or "t", shorter than the pause between two phrases
HOP_S = 0.01
SEARCH_FROM = 0.6
QUIET_DB = -20.0
SILENT_DB = -60.0


# -- WAV ----------------------------------------------------------------------------------------------


def wav(samples: Samples) -> bytes:
    """A WAV file: 16 kHz, mono, 16 bit. What is beyond -1..1 is clipped."""
    scaled = np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2")
    size = scaled.nbytes
    return _HEADER.pack(b"RIFF", 36 + size, *_PCM, size) + scaled.tobytes()


def decode(data: bytes) -> Samples:
    """Decode a sound file of any format; several channels are mixed to their mean.

    A truncated file gives what there is. Raises Reject for what is no sound, has no samples, or lasts longer than
    120 seconds; no more than that is ever decoded, as a small file can claim hours.
    """
    samples = _decode_wav(data)
    if samples is None:
        samples = _decode_any(data)
    if not samples.size:
        raise Reject("the sound has no samples")
    return samples


def _decode_wav(data: bytes) -> Samples | None:
    """The samples of a WAV as ``wav`` writes it, without FFmpeg; None for everything else."""
    if len(data) < _HEADER.size:
        return None
    riff, _, *layout, size = _HEADER.unpack_from(data)
    if riff != b"RIFF" or tuple(layout) != _PCM:
        return None
    count = min(size, len(data) - _HEADER.size) // 2
    if count > MOST_SECONDS * RATE:
        raise _too_long()
    return np.frombuffer(data, "<i2", count, _HEADER.size).astype(np.float32) / np.float32(FULL_SCALE)


def _decode_any(data: bytes) -> Samples:
    import av  # noqa: PLC0415 - who only meets plain WAV needs no FFmpeg

    try:
        # Nothing but the bytes at hand: a playlist must not make us open files or addresses.
        with av.open(
            io.BytesIO(data), mode="r", options={"protocol_whitelist": "none"}, metadata_errors="replace"
        ) as container:
            parts = list(_mono(container))
    except av.FFmpegError as error:
        raise Reject(f"the sound cannot be read: {error.strerror}") from error
    except (IndexError, ValueError) as error:  # PyAV's own, of damaged streams
        raise Reject(f"the sound cannot be read: {error}") from error
    samples = np.concatenate(parts) if parts else np.empty(0, np.float32)
    if samples.size > MOST_SECONDS * RATE:
        raise _too_long()
    return np.clip(samples, -1, 1)


def _mono(container: InputContainer) -> Iterator[Samples]:
    if not container.streams.audio:
        raise Reject("the file has no sound")
    channels, seconds = Channels(), 0.0
    for frame in _frames(container):
        if frame.sample_rate < LEAST_RATE:
            raise Reject(f"the sound has {frame.sample_rate} samples a second; at least {LEAST_RATE} are needed")
        seconds += frame.samples / frame.sample_rate
        if seconds > MOST_SECONDS + 1:  # a codec may pad; the samples are counted at the end
            raise _too_long()
        yield from map(mix, channels.add(frame))
    yield from map(mix, channels.finish())


class Channels:
    """Resamples decoded frames to RATE; gives float32 [samples, channels], with silence for what is no number."""

    def __init__(self) -> None:
        self._format: tuple[str, str, int] | None = None
        self._resampler: AudioResampler | None = None

    def add(self, frame: AudioFrame) -> Iterator[NDArray[np.float32]]:
        """Take a frame; gives what is ready, of one channel layout each."""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._format:  # some files change on their way
            yield from self.finish()
            self._format, self._resampler = form, _resampler()
        if self._resampler:
            yield from _arrays(self._resampler.resample(frame))

    def finish(self) -> Iterator[NDArray[np.float32]]:
        """What the resampler still holds."""
        if self._resampler:
            yield from _arrays(self._resampler.resample(None))
        self._resampler = None
        self._format = None


def mix(channels: NDArray[np.float32]) -> Samples:
    """The mean of the channels, which FFmpeg's own mix is not; [samples, channels] to [samples]."""
    return np.asarray(channels.mean(axis=1, dtype=np.float32))


def _resampler() -> AudioResampler:
    import av  # noqa: PLC0415

    # Packed: PyAV 18 reads beyond the planes of a frame that has eight or more.
    return av.AudioResampler(format="flt", rate=RATE)


def _frames(container: InputContainer) -> Iterator[AudioFrame]:
    """Every frame that can be decoded: a broken packet costs itself, a cut file its rest."""
    import av  # noqa: PLC0415

    packets = container.demux(container.streams.audio[0])
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            continue


def _arrays(frames: list[AudioFrame]) -> Iterator[NDArray[np.float32]]:
    for frame in frames:
        samples = np.asarray(frame.to_ndarray(), np.float32).reshape(-1, frame.layout.nb_channels)
        yield np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)


def _too_long() -> Reject:
    return Reject(f"the sound is longer than {MOST_SECONDS} seconds")


# -- windows ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cut:
    """One window of a sound: ``samples`` from index ``begin`` on, counted from the beginning of the sound."""

    begin: int
    samples: Samples
    overlap_s: float
    """Seconds at the beginning that the window before has too; 0 after silence, a gap, or at the beginning."""
    tail_s: float
    """Seconds at the end that the next window has again; 0 where it was cut at silence, or nothing follows."""


class Windower:
    """Cuts a sound that comes in pieces of any size into windows of at most ``length_s`` seconds.

    A window ends in the last pause of its latter part, and the next one begins where it ended. A window without
    a pause is cut at its full length, and the next one begins ``overlap_s`` seconds earlier, so that a word that
    was cut is whole in one of the two.
    """

    def __init__(self, length_s: float = 5.0, overlap_s: float = 0.5) -> None:
        self._length = round(length_s * RATE)
        self._overlap = round(overlap_s * RATE)
        if not 0 <= 2 * self._overlap <= self._length or self._length < RATE:
            raise ValueError(f"windows of {length_s} s cannot overlap by {overlap_s} s")
        self._begin = 0
        self._shared = 0
        self._held = 0
        self._parts: list[Samples] = []

    @property
    def position(self) -> int:
        """Index of the sample that comes next."""
        return self._begin + self._held

    def add(self, samples: Samples) -> list[Cut]:
        """Take the next samples; gives the windows that are complete now, mostly none."""
        self._parts.append(samples)
        self._held += samples.size
        if self._held <= self._length:  # one more than a window: so a cut never ends the sound
            return []
        return self._cuts()

    def finish(self) -> list[Cut]:
        """What is left, as a last window; no window when nothing is. More samples may follow and begin anew."""
        if not self._held:
            return []
        cut = Cut(self._begin, np.concatenate(self._parts), self._shared / RATE, 0.0)
        self._restart(self.position)
        return [cut]

    def gap(self, begin: int) -> list[Cut]:
        """Samples were lost: gives what there is, and begins anew at ``begin``, which never lies further back."""
        cuts = self.finish()
        self._restart(max(begin, self.position))
        return cuts

    def _restart(self, begin: int) -> None:
        self._begin, self._shared, self._held, self._parts = begin, 0, 0, []

    def _cuts(self) -> list[Cut]:
        held = np.concatenate(self._parts)
        cuts: list[Cut] = []
        start = 0
        while held.size - start > self._length:
            window = held[start : start + self._length]
            end, tail = self._end(window)
            cuts.append(Cut(self._begin, window[:end].copy(), self._shared / RATE, tail / RATE))
            start += end - tail
            self._begin += end - tail
            self._shared = tail
        self._parts = [held[start:].copy()]
        self._held = held.size - start
        return cuts

    def _end(self, window: Samples) -> tuple[int, int]:
        """Where to end a window, and how many of its samples the next one has again."""
        quiet = quiet_end(window)
        return (window.size, self._overlap) if quiet is None else (quiet, 0)


def quiet_end(window: Samples) -> int | None:
    """Where the last pause in the latter part of a window is quietest; None when there is no pause in it.

    The mean of the samples does not count: it is an offset of the recorder.
    """
    hop = round(HOP_S * RATE)
    count = window.size // hop
    heard = np.clip(window[: count * hop], -1, 1).astype(np.float64)
    energy = np.square(heard - heard.mean()).reshape(count, hop).mean(axis=1)
    width = round(QUIET_S / HOP_S)
    means = np.convolve(energy, np.full(width, 1 / width), "valid")
    first = round(SEARCH_FROM * count)
    if first >= means.size:
        return None
    loud = np.percentile(energy, 90) * 10 ** (QUIET_DB / 10)
    quiet = np.flatnonzero(means[first:] <= max(loud, 10 ** (SILENT_DB / 10))) + first
    if not quiet.size:
        return None
    # The last one: what a model of speech hears by itself, it hears the better the more there is.
    last = np.split(quiet, np.flatnonzero(np.diff(quiet) > 1) + 1)[-1]
    best = int(last[-1] - np.argmin(means[last][::-1]))  # the latest of equals
    return (best * hop) + (width * hop) // 2
