"""Settings of the jobs service."""

from __future__ import annotations

from pydantic import Field

from framemesh.settings import Settings
from framemesh.steps.admission import WINDOW


class JobsSettings(Settings):
    """Settings of the jobs service."""

    jobs_database: str = Field(
        "sqlite:///jobs.db",
        description="Results database: sqlite:///jobs.db or postgresql://user:password@host/name",
    )
    jobs_kept: float = Field(
        86400.0,
        ge=60,
        description="Seconds that a finished job stays in the stream; in the database it stays for ever",
    )
    jobs_per_owner: int = Field(
        WINDOW, ge=1, le=100_000, description="Jobs of one owner and one priority that are under way at a time"
    )
