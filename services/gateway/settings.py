"""Settings of the gateway."""

from __future__ import annotations

from pydantic import Field

from framemesh.images import BUCKET, BUCKET_PATTERN
from framemesh.media import BUCKET as MEDIA_BUCKET
from framemesh.settings import Settings


class GatewaySettings(Settings):
    """Where the API listens, and how much it takes. It sends no CORS headers: other sites' pages cannot use it."""

    gateway_host: str = Field(
        "127.0.0.1", description="Address that the API listens on; another than loopback only behind TLS"
    )
    gateway_port: int = Field(8000, ge=1, le=65535, description="Its port")
    gateway_upload_mb: int = Field(2048, ge=1, le=1 << 20, description="Largest upload in MiB")
    gateway_uploads: int = Field(
        16, ge=1, le=1000, description="Most uploads at a time; each takes about 16 MiB of memory"
    )
    gateway_streams: int = Field(1000, ge=1, le=100_000, description="Most event streams at a time")
    jobs_database: str = Field(
        "sqlite:///jobs.db",
        description="Results database: sqlite:///jobs.db or postgresql://user:password@host/name",
    )
    images_bucket: str = Field(
        BUCKET, pattern=BUCKET_PATTERN, description="S3 bucket of the pictures; as the images service has it"
    )
    images_max_mb: int = Field(32, ge=1, le=60, description="Largest picture in MiB; as the images service has it")
    images_max_age: int = Field(
        3600, ge=0, le=31_536_000, description="Seconds that a browser keeps a picture without asking again"
    )
    images_wait: float = Field(
        30.0, ge=0, le=600, description="Most seconds that an upload with async=false waits for its picture"
    )
    media_bucket: str = Field(
        MEDIA_BUCKET,
        pattern=BUCKET_PATTERN,
        description="S3 bucket of what can be played; as the media service has it",
    )
    tickets_last: int = Field(
        21_600, ge=60, le=604_800, description="Seconds that an address with a ticket can be played"
    )
    jobs_ttl: str = Field("30d", description="How long uploads are kept: 12h, 30d, 8w; empty: for ever")

    @property
    def upload_bytes(self) -> int:
        """Bytes of the largest upload."""
        return self.gateway_upload_mb << 20
