"""The evidence of an event: an MP4 at true speed and its best frame with boxes."""

from __future__ import annotations

import colorsys
import contextlib
import math
import os
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import av
import cv2
import numpy as np
import simplejpeg
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from framemesh.bus import Reject
from framemesh.encoders import pick_encoder
from framemesh.messages import Box, Detection, Face, Found
from framemesh.pictures import decode, upright

# A frame that is late by less than this part of a frame's time is on time: epoch seconds carry rounding.
ON_TIME = 1e-3
GOP_S = 2
CRF = "26"
BITS_PER_PIXEL = 0.12  # for encoders without a constant quality mode
SMPTE170M = 6  # BT.601 as streams number it; PyAV's Colorspace has swscale's numbers
MID_GREY = 120
BLACK = (16, 128, 128)  # Y, U, V of limited range

Picture = np.ndarray[Any, np.dtype[np.uint8]]  # height x width x BGR
Colour = tuple[int, int, int]  # BGR


class EvidenceError(Exception):
    """There is nothing to make the evidence of."""


class JpegDecoder:
    """JPEG to limited-range BT.601 YUV 4:2:0.

    FFmpeg's decoder hands out the JPEG's own planes, so that only the range is converted; by way of BGR
    it takes three times as long.
    """

    def __init__(self) -> None:
        self._codec = av.CodecContext.create("mjpeg", "r")
        self._codec.thread_count = 1  # frame threads would delay the picture
        self._codec.options = {"err_detect": "explode"}  # half a picture is no picture
        self._reformatter = VideoReformatter()

    def decode(self, jpeg: bytes) -> av.VideoFrame | None:
        """The picture upright, at its own size in its own pixel format, or None when the JPEG is broken."""
        if not jpeg:  # would end the decoder's stream
            return None
        try:
            frames = self._codec.decode(av.Packet(upright(jpeg)))
        except (av.error.FFmpegError, ValueError, Reject):
            return None
        return frames[0] if frames and isinstance(frames[0], av.VideoFrame) else None

    def fit(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        """The picture as yuv420p of an even size: an odd edge is cut, another size is scaled to fit."""
        if (even(frame.width), even(frame.height)) == (width, height):
            return placed(self._limited(frame, frame.width, frame.height), width, height)
        scale = min(width / frame.width, height / frame.height)
        scaled = self._limited(frame, even(round(frame.width * scale)), even(round(frame.height * scale)))
        return placed(scaled, width, height)

    def _limited(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        return self._reformatter.reformat(
            frame,
            width,
            height,
            "yuv420p",
            src_colorspace=Colorspace.ITU601,
            dst_colorspace=Colorspace.ITU601,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )


def even(length: int) -> int:
    """The even number at or below `length`, but at least 2."""
    return max(2, length // 2 * 2)


def placed(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """A yuv420p frame in the middle of black, or cut at its right and lower edge; itself when it fits."""
    if (frame.width, frame.height) == (width, height):
        return frame
    canvas = np.empty(width * height * 3 // 2, np.uint8)
    left, top = max(0, width - frame.width) // 4 * 2, max(0, height - frame.height) // 4 * 2
    offset = 0
    for plane, black, half in zip(frame.planes, BLACK, (1, 2, 2), strict=True):
        target = canvas[offset : offset + width * height // half**2].reshape(height // half, width // half)
        offset += target.size
        target[:] = black
        pixels = np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)[:, : plane.width]
        into = target[top // half :, left // half :][: plane.height, : plane.width]
        into[:] = pixels[: into.shape[0], : into.shape[1]]  # an odd frame has one more
    return av.VideoFrame.from_ndarray(canvas.reshape(height * 3 // 2, width), format="yuv420p")


class VideoWriter:
    """Writes frames as an H.264 MP4 that plays at true speed.

    Output frame k shows the latest frame that was due at ``start + k / fps``: a gap holds the picture, and
    of frames that come faster only the shown ones are decoded. The video lasts from the first frame to the
    last, plus at most one frame. The file gets its name when it is complete; on an error nothing is left.

    Use as a context manager. Leaving it raises EvidenceError when no frame could be decoded.
    """

    def __init__(
        self,
        path: Path,
        fps: int = 10,
        *,
        encoder: str | None = None,
        preset: str = "veryfast",
        threads: int = 1,
    ) -> None:
        self.path = path
        self.fps = fps
        self.encoder = pick_encoder(encoder)
        self.preset = preset
        self.threads = threads
        self.frames = 0  # written
        self.skipped = 0  # JPEGs that should have been shown and could not be decoded
        self._part = path.with_name(f"{path.name}.{os.getpid()}.part")
        self._decoder = JpegDecoder()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._shown: av.VideoFrame | None = None
        self._waiting: list[bytes] = []  # due at output frame `frames`, oldest first
        self._start = self._last = 0.0
        self._finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._discard()

    def add(self, timestamp: float, jpeg: bytes) -> None:
        """Take the next frame (`timestamp` in seconds; one that steps back counts as the latest so far)."""
        if self._stream is None:
            self._begin(timestamp, jpeg)
            return
        self._last = max(self._last, timestamp)
        self._write_until(math.ceil(self._elapsed() - ON_TIME))
        self._waiting.append(jpeg)

    def _elapsed(self) -> float:
        return (self._last - self._start) * self.fps

    def _begin(self, timestamp: float, jpeg: bytes) -> None:
        picture = self._decoder.decode(jpeg)
        if picture is None:
            self.skipped += 1
            return
        self._start = self._last = timestamp
        self._stream = self._open(even(picture.width), even(picture.height))
        self._shown = self._decoder.fit(picture, self._stream.width, self._stream.height)

    def _open(self, width: int, height: int) -> VideoStream:
        self._container = av.open(str(self._part), "w", format="mp4", container_options={"movflags": "+faststart"})
        # PyAV knows add_stream's result only for literal names.
        stream: VideoStream = self._container.add_stream(self.encoder, rate=self.fps)  # type: ignore[assignment]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        codec = stream.codec_context
        codec.thread_count = self.threads
        codec.gop_size = GOP_S * self.fps
        codec.max_b_frames = 0  # the first frame is at 0 in every player, also without edit lists
        codec.color_range, codec.colorspace = ColorRange.MPEG, SMPTE170M
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        if self.encoder == "libx264":
            codec.options = {"preset": self.preset, "crf": CRF}
        else:
            codec.bit_rate = int(width * height * self.fps * BITS_PER_PIXEL)
        return stream

    def _write_until(self, count: int) -> None:
        if count > self.frames:
            self._show_latest()
        while self.frames < count:
            self._encode(self._shown)

    def _show_latest(self) -> None:
        while self._waiting and self._stream is not None:
            picture = self._decoder.decode(self._waiting.pop())
            if picture is not None:
                self._shown = self._decoder.fit(picture, self._stream.width, self._stream.height)
                self._waiting.clear()
                return
            self.skipped += 1

    def _encode(self, frame: av.VideoFrame | None) -> None:
        if self._stream is None or self._container is None:
            raise EvidenceError(f"no frame of {self.path.name} could be decoded ({self.skipped} tried)")
        if frame is not None:
            frame.pts, frame.time_base = self.frames, Fraction(1, self.fps)
            frame.pict_type = PictureType.NONE  # a JPEG says I, which would make every frame a key frame
            self.frames += 1
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what is left and give the file its name; leaving the context does it too."""
        if self._finished:
            return
        self._write_until(math.floor(self._elapsed() + ON_TIME) + 1 if self._stream else 0)
        self._encode(None)
        if self._container is not None:
            self._container.close()
        self._part.replace(self.path)
        self._finished = True

    def _discard(self) -> None:
        """Let go of the encoder and of a file that did not get its name."""
        if self._container is not None:
            with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
                self._container.close()
        self._part.unlink(missing_ok=True)


class Rect(NamedTuple):
    """A rectangle of whole pixels; right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int

    def meets(self, other: Rect) -> bool:
        """True when the two share a pixel."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


@dataclass(frozen=True, slots=True)
class Pen:
    """Sizes that go with a picture of `width` x `height` pixels."""

    width: int
    height: int

    @property
    def line(self) -> int:
        """Width of a box's line."""
        return max(2, round(math.hypot(self.width, self.height) / 800))

    @property
    def font(self) -> float:
        """OpenCV's font scale; 1.0 is 22 pixels high."""
        return max(0.4, math.hypot(self.width, self.height) / 2400)

    @property
    def stroke(self) -> int:
        """Width of a letter's line."""
        return max(1, round(self.font * 1.6))

    @property
    def pad(self) -> int:
        """Space around a text."""
        return max(2, round(self.font * 7))

    @property
    def bar(self) -> int:
        """Height of a text's bar."""
        return round(self.font * 24) + 2 * self.pad

    def length(self, text: str) -> int:
        """Width of a text's bar."""
        return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, self.font, self.stroke)[0][0]) + 2 * self.pad

    def shorten(self, text: str) -> str:
        """The text, cut where its bar would be wider than the picture."""
        while len(text) > 1 and self.length(text) > self.width:
            text = text[:-1]
        return text


def draw(jpeg: bytes, detections: Sequence[Found], title: str) -> bytes:
    """The JPEG again, upright, with boxes and labels; classes of the whole picture and `title` stand in a corner.

    Raises EvidenceError when the JPEG cannot be decoded.
    """
    try:
        picture: Picture = decode(jpeg)
    except Reject as error:
        raise EvidenceError(f"the frame cannot be decoded: {error}") from error
    pen = Pen(picture.shape[1], picture.shape[0])
    ranked = sorted(detections, key=lambda found: -found.confidence)
    boxed = [(found, corners(found.box, pen)) for found in ranked if isinstance(found, Detection | Face)]
    for found, box in reversed(boxed):
        frame_box(picture, box, colour_of(found.label), pen)
    taken = write_corner(
        picture, [found for found in ranked if not isinstance(found, Detection | Face)], title, pen
    )
    for found, box in boxed:
        text = pen.shorten(caption(found))
        taken.append(free_place(box, pen.length(text), taken, pen))
        write(picture, text, taken[-1], colour_of(found.label), pen)
    return bytes(simplejpeg.encode_jpeg(picture, 90, "BGR", "420"))


def colour_of(label: str) -> Colour:
    """One bright colour a label, the same in every process."""
    code = zlib.crc32(label.encode())
    rgb = colorsys.hsv_to_rgb(code % 360 / 360, 0.65 + code // 360 % 4 / 12, 1.0)
    red, green, blue = (round(part * 255) for part in rgb)
    return blue, green, red


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is read better on `colour`."""
    blue, green, red = colour
    luma = 0.114 * blue + 0.587 * green + 0.299 * red
    return (0, 0, 0) if luma > MID_GREY else (255, 255, 255)


def plain(text: str) -> str:
    """ASCII, which is all that OpenCV's fonts have: accents are dropped, other letters become ``?``."""
    parts = unicodedata.normalize("NFKD", text)
    kept = "".join(part for part in parts if not unicodedata.combining(part))
    return "".join(part if " " <= part <= "~" else "?" for part in kept)


def caption(found: Found) -> str:
    """Label and confidence, as drawn."""
    return f"{plain(found.label)} {found.confidence:.0%}"


def corners(box: Box, pen: Pen) -> Rect:
    """The part of a box that lies in the picture, in whole pixels."""
    x1, y1, x2, y2 = np.nan_to_num(np.array(box, dtype=float))
    left, right = np.clip(sorted((x1, x2)), 0, pen.width - 1).round().astype(int)
    top, bottom = np.clip(sorted((y1, y2)), 0, pen.height - 1).round().astype(int)
    return Rect(int(left), int(top), int(right) + 1, int(bottom) + 1)


def frame_box(picture: Picture, box: Rect, colour: Colour, pen: Pen) -> None:
    """Draw a box's outline inside the picture."""
    inset = pen.line // 2
    first = (box.left + inset, box.top + inset)
    last = (max(first[0], box.right - 1 - inset), max(first[1], box.bottom - 1 - inset))
    cv2.rectangle(picture, first, last, colour, pen.line)


def free_place(box: Rect, length: int, taken: Iterable[Rect], pen: Pen) -> Rect:
    """Where a bar `length` wide goes: above its box, else at the next of its edges where no other bar is."""
    taken = list(taken)
    lefts = (box.left, box.right - length)
    tops = (box.top - pen.bar, box.top, box.bottom, box.bottom - pen.bar, box.top - 2 * pen.bar)
    places = [bar_at(left, top, length, pen) for left in lefts for top in tops]
    return next((place for place in places if not any(map(place.meets, taken))), places[0])


def bar_at(left: int, top: int, length: int, pen: Pen) -> Rect:
    """A text's bar, moved into the picture."""
    left = max(0, min(left, pen.width - length))
    top = max(0, min(top, pen.height - pen.bar))
    return Rect(left, top, left + length, top + pen.bar)


def write(picture: Picture, text: str, bar: Rect, colour: Colour, pen: Pen) -> None:
    """Draw a text on its filled bar."""
    cv2.rectangle(picture, bar[:2], (bar.right - 1, bar.bottom - 1), colour, cv2.FILLED)
    at = (bar.left + pen.pad, bar.bottom - pen.pad - round(pen.font * 3))
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, pen.font, ink_on(colour), pen.stroke, cv2.LINE_AA)


def write_corner(picture: Picture, classes: Sequence[Found], title: str, pen: Pen) -> list[Rect]:
    """Write the title at the lower left with the best classes above it; returns the bars."""
    room = max(0, pen.height // 2 // pen.bar)
    lines = [(plain(title), (32, 32, 32))] if title else []
    lines += [(caption(found), colour_of(found.label)) for found in reversed(classes[:room])]
    bars = []
    for number, (line, colour) in enumerate(lines, 1):
        text = pen.shorten(line)
        bars.append(bar_at(0, pen.height - number * pen.bar, pen.length(text), pen))
        write(picture, text, bars[-1], colour, pen)
    return bars
