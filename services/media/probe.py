"""What a file holds, as FFmpeg sees it, whatever its name or a server says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from framemesh import mediafile
from framemesh.errors import FramemeshError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_TYPES = {
    "mp4": "mp4", "webm": "webm", "matroska": "x-matroska", "avi": "x-msvideo", "mpegts": "mp2t", "mpeg": "mpeg",
    "flv": "x-flv", "ogg": "ogg", "asf": "x-ms-asf", "wav": "wav", "mp3": "mpeg", "flac": "flac", "aac": "aac",
    "gif": "gif",
}  # fmt: skip
"""MIME subtypes by FFmpeg's name of the format."""
_RIGHT_ANGLE = 90
MOST_TAGS, MOST_TAG = 32, 200
WIDEST = 4
"""Pixels that are wider by more, or higher, are a slip of the file's."""


@dataclass(frozen=True)
class Probe:
    """What a file holds. Pixels are those of the upright picture, 0 without pictures."""

    duration_s: float | None
    width: int
    height: int
    fps: float | None
    has_audio: bool
    has_video: bool
    container: str
    content_type: str
    codecs: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    """What the file says of itself: title, artist …"""


def probe(path: Path) -> Probe:
    """Look into a file. Raises FramemeshError when it has neither pictures nor sound that can be decoded."""
    with mediafile.opened(path) as container:
        pictures, sound = mediafile.pictures_of(container), mediafile.sound_of(container)
        if not pictures and not sound:
            raise FramemeshError(f"neither moving pictures nor sound in it ({container.format.long_name})")
        width, height = _size(container, pictures) if pictures else (0, 0)
        heard = sound is not None and mediafile.first_sound(container, sound) is not None
        if not width and not heard:
            raise FramemeshError("nothing in it can be decoded: it is damaged, cut short or encrypted")
        seconds = mediafile.last_moment(container) or mediafile.duration(container)
        rate = pictures.average_rate if pictures and width else None
        return Probe(
            duration_s=None if seconds is None else round(seconds, 3),
            width=width,
            height=height,
            fps=round(float(rate), 3) if rate else None,
            has_audio=heard,
            has_video=width > 0,
            container=container.format.name,
            content_type=_content_type(container.format.name, video=width > 0),
            codecs=tuple(each.codec_context.name for each in (pictures if width else None, sound) if each),
            tags={
                name[:MOST_TAG]: value[:MOST_TAG] for name, value in list(container.metadata.items())[:MOST_TAGS]
            },
        )


def _size(container: InputContainer, stream: VideoStream) -> tuple[int, int]:
    """Width and height of the upright picture, in square pixels; zeros when none can be decoded."""
    frame = mediafile.first_picture(container, stream)
    if frame is None:
        return 0, 0
    wide = stream.sample_aspect_ratio
    width = round(frame.width * wide) if wide and WIDEST**-1 < wide < WIDEST else frame.width
    turned = abs(frame.rotation) == _RIGHT_ANGLE
    return (frame.height, width) if turned else (width, frame.height)


def _content_type(container: str, *, video: bool) -> str:
    names = container.split(",")
    kind = next((_TYPES[name] for name in ("webm", *names) if name in names and name in _TYPES), None)
    if kind is None:
        return "application/octet-stream"
    return f"{'image' if kind == 'gif' else 'video' if video else 'audio'}/{kind}"
