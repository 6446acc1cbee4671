"""Settings of the media service."""

from __future__ import annotations

from pydantic import Field

from framemesh.steps.worker import StepSettings


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

    @property
    def max_bytes(self) -> int:
        """Bytes of the largest video."""
        return self.media_max_mb << 20
