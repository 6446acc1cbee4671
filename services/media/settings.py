"""Settings of the media service."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from framemesh.images import BUCKET_PATTERN
from framemesh.media import BUCKET
from framemesh.steps.worker import StepSettings
from services.media.ladder import Rung


class MediaSettings(StepSettings):
    """How much is fetched, and from where."""

    media_max_mb: int = Field(2048, ge=1, le=1 << 20, description="Largest video in MiB, fetched or uploaded")
    media_max_minutes: float = Field(
        240, gt=0, le=1440, description="Longest video in minutes; a small file can claim days"
    )
    download_timeout: float = Field(
        1800, gt=0, le=86400, description="Seconds after which a download is given up, resumed or not"
    )
    allow_private_addresses: bool = Field(
        False,
        description="Fetch from private, loopback and other addresses that are not public, too; "
        "then whoever submits a job can make this service read from your network",
    )

    media_bucket: str = Field(
        BUCKET, pattern=BUCKET_PATTERN, description="S3 bucket of what can be played; as the gateway has it"
    )
    media_ladder: list[Rung] = Field(
        [Rung(height=h, kbps=k) for h, k in ((1080, 4500), (720, 2500), (480, 1200), (240, 400))],
        min_length=1,
        max_length=12,
        description='Renditions of pictures, as JSON: [{"height": 720, "kbps": 2500}]; height is the shorter '
        "side, kbps the most; none is larger than the file's",
    )
    media_audio: list[Annotated[int, Field(ge=16, le=512)]] = Field(
        [128, 48],
        min_length=1,
        max_length=6,
        description="Renditions of sound, kilobits a second as JSON: [128, 48]; AAC, stereo",
    )
    media_loudness: float = Field(
        -23.0, ge=-40, le=-10, description="Loudness that sound is brought to, LUFS (EBU R 128); -16 suits phones"
    )
    media_preset: str = Field("veryfast", pattern="^[a-z]+$", description="Preset of libx264: faster or smaller")
    media_threads: int = Field(0, ge=0, le=64, description="Threads of each encoder; 0: as many as it likes")
    video_encoder: str = Field(
        "", description="H.264 encoder of FFmpeg; empty: libopenh264 where there is one, else libx264"
    )
    jobs_database: str = Field(
        "sqlite:///jobs.db",
        description="Results database: sqlite:///jobs.db or postgresql://user:password@host/name",
    )

    @property
    def max_bytes(self) -> int:
        """Bytes of the largest video."""
        return self.media_max_mb << 20
