"""Settings of the images service."""

from __future__ import annotations

import os

from pydantic import Field

from framemesh.images import BUCKET, BUCKET_PATTERN
from framemesh.steps.worker import StepSettings


class ImagesSettings(StepSettings):
    """How large pictures may be, and what works on them."""

    jobs_database: str = Field(
        "sqlite:///jobs.db",
        description="Results database: sqlite:///jobs.db or postgresql://user:password@host/name",
    )
    images_bucket: str = Field(BUCKET, pattern=BUCKET_PATTERN, description="S3 bucket of the pictures")
    images_max_mb: int = Field(32, ge=1, le=60, description="Largest picture in MiB")
    images_max_megapixels: float = Field(
        64.0, gt=0, le=500, description="Most pixels of a picture, in millions: a small file can claim billions"
    )
    images_processes: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, le=256,
        description="Processes that decode and encode; each does one picture at a time",
    )  # fmt: skip
    images_memory_mb: int = Field(
        2048, ge=256, le=1 << 16, description="Most address space of such a process in MiB"
    )
    images_timeout: float = Field(
        60.0, gt=0, le=600, description="Seconds after which a picture's process is ended"
    )
    images_grace: float = Field(
        86_400.0, ge=3600,
        description="Seconds that a file without a picture is left alone; longer than any task takes",
    )  # fmt: skip
    images_likeness: float = Field(
        0.98, gt=0, le=1,
        description="Least SSIM, in luma and in both chromas, from which an optimised picture counts as equal",
    )  # fmt: skip
