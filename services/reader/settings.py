"""Settings of the reader."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from framemesh.messages import MEDIA_EVENTS, SOURCE_PATTERN, Delivery, free_source
from framemesh.settings import Settings
from framemesh.spool import default_folder
from framemesh.subjects import source_name
from framemesh.telemetry import redact
from services.reader.video import ReaderKind, SoundChoice


class Pace(StrEnum):
    """How fast a file is read."""

    REALTIME = "realtime"
    FAST = "fast"


class ReaderSettings(Settings):
    """What to read, and how. Names that start with ``video_`` are about the source."""

    video_source: str = Field(min_length=1, description="A file, or an address such as rtsp://host/path")
    source: str = Field(
        "",
        pattern=rf"^$|{SOURCE_PATTERN}",
        description="Name of the source; made from the address when empty",
    )
    video_stream: int = Field(0, ge=0, description="Which of its video streams, counted from 0")
    video_skip_frames: int = Field(0, ge=0, description="Frames left out after each one that is kept")
    video_duration: float = Field(0.0, ge=0, description="Seconds to read; 0 for all")
    reader_type: ReaderKind = Field("auto", description="av (anything FFmpeg reads), opencv (files) or auto")
    pace: Pace = Field(Pace.REALTIME, description="realtime, or fast: a file as fast as the mesh takes it")
    source_audio: SoundChoice = Field(
        SoundChoice.AUTO, description="auto: sound too where there is one; off; only: sound without pictures"
    )
    audio_stream: int = Field(0, ge=0, description="Which of its audio streams, counted from 0")
    audio_channels: Literal["mix", "each"] = Field(
        "mix", description="mix: all channels as one; each: every channel by itself"
    )
    audio_window: float = Field(5.0, ge=1, le=30, description="Most seconds of one audio window")
    audio_overlap: float = Field(
        0.5, ge=0, le=2, description="Seconds that two windows share where speech went on between them"
    )
    delivery: Delivery | None = Field(
        None, description="live or lossless; empty: live for cameras, lossless for files"
    )
    jpeg_quality: int = Field(85, ge=1, le=100, description="Quality of the stored frames")
    spool_dir: Path = Field(
        default_factory=default_folder, description="The node's spool, shared with its uploader"
    )
    spool_max_mb: int = Field(256, ge=1, description="Most that may wait in the spool")
    lossless_window: int = Field(
        256, ge=1, description="Most frames of a lossless source on their way to the models"
    )
    read_timeout: float = Field(10.0, gt=0, description="Seconds after which a silent source counts as gone")
    retry_seconds: float = Field(30.0, gt=0, description="Longest wait before a lost camera is tried again")

    @field_validator("reader_type", mode="before")
    @classmethod
    def _by_class(cls, value: Any) -> Any:
        """Also by the class's name, as older ``.env`` files have it."""
        return {"avreader": "av", "opencvreader": "opencv"}.get(str(value).lower(), value)

    @field_validator("source")
    @classmethod
    def _free(cls, value: str) -> str:
        return free_source(value)

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if 2 * self.audio_overlap > self.audio_window:
            raise ValueError("audio_overlap must not be more than half of audio_window")
        return self

    @property
    def source_name(self) -> str:
        """The source's name, one subject token."""
        name = self.source or name_from(self.video_source)
        return f"{name}-1" if name == MEDIA_EVENTS else name  # of media.mp4, say


def name_from(address: str) -> str:
    """A name for an address: the file's stem, or host and path without user and password."""
    scheme, separator, rest = redact(address).partition("://")
    if not separator or scheme == "file":
        return source_name(Path(address).stem)
    place = rest.split("?")[0].rpartition("@")[2]
    return source_name(place)
