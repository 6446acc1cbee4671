"""Real pictures and real sound for models to work on, each piece as it lies in SeaweedFS, with its task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import simplejpeg
from av.audio.stream import AudioStream
from av.container import OutputContainer

from framemesh import assets, audio
from framemesh.inference import Worker
from framemesh.messages import AudioTask, Delivery, Medium, Task
from services.reader import jpeg

QUALITY = 85  # the reader's
PICTURES = 48
LOOPS = 3
FRAMES_A_SECOND = 10
TALK_FRAMES_A_SECOND = 30
SIGHTS = {"FaceInference": ("face", "astronaut", "portrait")}
ANY_SIGHTS = ("people", "street", "cat", "coffee")
SPEECH = "jfk"


@dataclass(frozen=True)
class Piece:
    """A frame or an audio window, and its task as it is in the first lap."""

    data: bytes
    task: Task | AudioTask


@dataclass(frozen=True)
class Material:
    """What a model goes through again and again, a lap at a time, so that every lap costs the same."""

    pieces: list[Piece]
    seconds: float
    """Length of a lap by the clock of the source."""

    def task(self, number: int, urls: list[str], **values: Any) -> Task | AudioTask:
        """The task of that number, counted over the laps; ``urls`` are the pieces' addresses."""
        lap, at = divmod(number, len(self.pieces))
        first = self.pieces[at].task
        here = {"seq": number, "url": urls[at], "timestamp": first.timestamp + lap * self.seconds}
        return first.model_copy(update=here | values)


def material(kind: type[Worker[Any, Any]]) -> Material:
    """What suits a worker: speech, or pictures, with faces for the one that looks at them."""
    if kind.medium is Medium.AUDIO:
        return windows(kind.kind)
    return pictures(kind.kind, *SIGHTS.get(kind.kind, ANY_SIGHTS))


def pictures(model: str, clip: str, *stills: str) -> Material:
    """Frames from all over a clip, and stills, as the reader stores them."""
    images = [jpeg.encode_bgr(_still(name), QUALITY) for name in stills]
    jpegs = [*_frames(clip), *images]
    pieces = [Piece(data, _task(model, seq, data)) for seq, data in enumerate(jpegs)]
    return Material(pieces, len(pieces) / FRAMES_A_SECOND)


def _frames(clip: str) -> list[bytes]:
    with av.open(str(assets.ensure(clip))) as container:
        total = container.streams.video[0].frames
        chosen = {round(at) for at in np.linspace(0, total - 1, min(PICTURES, total))}
        decoded = enumerate(container.decode(video=0))
        return [jpeg.encode(frame, QUALITY) for number, frame in decoded if number in chosen]


def _still(name: str) -> Any:
    return cv2.imread(str(assets.ensure(name)))


def _task(model: str, seq: int, data: bytes) -> Task:
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    return Task(
        model=model, source="bench", run="bench", seq=seq, frame_id=f"frame_{seq:06d}", bytes=len(data),
        width=width, height=height, timestamp=seq / FRAMES_A_SECOND, captured_at=0, delivery=Delivery.LOSSLESS,
    )  # fmt: skip


def windows(model: str) -> Material:
    """A speech, looped and cut into windows as the reader does it."""
    speech = audio.decode(assets.ensure(SPEECH).read_bytes())
    sound = np.tile(speech, LOOPS)
    windower = audio.Windower()
    cuts = [*windower.add(sound), *windower.finish()]
    pieces = [Piece(audio.wav(cut.samples), _listen(model, seq, cut)) for seq, cut in enumerate(cuts)]
    return Material(pieces, sound.size / audio.RATE)


def _listen(model: str, seq: int, cut: audio.Cut) -> AudioTask:
    return AudioTask(
        model=model, source="bench", run="bench", seq=seq, bytes=2 * cut.samples.size,
        timestamp=cut.begin / audio.RATE, duration=cut.samples.size / audio.RATE,
        overlap=cut.overlap_s, tail=cut.tail_s, captured_at=0, delivery=Delivery.LOSSLESS,
    )  # fmt: skip


# -- a video of somebody who talks ---------------------------------------------------------------------


def talk(path: Path, sound: audio.Samples | None = None, *, seconds: float = 0.0) -> None:
    """Write a video of a face, as long as the sound that goes with it, mono of 16 kHz; or so long, and silent."""
    count = round(TALK_FRAMES_A_SECOND * (seconds if sound is None else len(sound) / audio.RATE))
    with av.open(str(path), "w", format="matroska") as out:
        seen = out.add_stream("mpeg4", TALK_FRAMES_A_SECOND)
        heard = None if sound is None else out.add_stream("aac", audio.RATE, layout="mono")
        seen.width, seen.height, seen.pix_fmt, seen.bit_rate = 640, 360, "yuv420p", 6_000_000
        for number, image in zip(range(count), _forth_and_back(assets.ensure("face")), strict=False):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, TALK_FRAMES_A_SECOND)
            out.mux(seen.encode(frame))
        out.mux(seen.encode(None))
        if heard is not None and sound is not None:
            _mux_sound(out, heard, sound)


def _mux_sound(out: OutputContainer, stream: AudioStream, sound: audio.Samples) -> None:
    for at in range(0, len(sound), 1024):
        piece = av.AudioFrame.from_ndarray(sound[None, at : at + 1024], "fltp", "mono")
        piece.sample_rate, piece.pts, piece.time_base = audio.RATE, at, Fraction(1, audio.RATE)
        out.mux(stream.encode(piece))
    out.mux(stream.encode(None))


def _forth_and_back(video: Path) -> Iterator[Any]:
    """The frames of a video, forwards and backwards without end, so that a face never jumps."""
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    while True:
        yield from frames
        yield from reversed(frames)
