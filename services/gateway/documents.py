"""What the API takes and gives, beside the documents of ``framemesh.analysis``."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from framemesh.analysis import JobSummary
from framemesh.steps.depth import too_deep
from framemesh.steps.job import JobStatus, Priority
from framemesh.steps.plan import NAME_PATTERN

MOST_METADATA = 64 * 1024
DEEPEST_METADATA = 64
"""Levels of lists and objects; a job of MOST_DEPTH has room for more around it."""
LONGEST_URL = 2048
LONGEST_KEY = 200
MOST_JOBS = 500
MOST_LINES = 10_000

_PORT = "(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^\u0000-\u0020\u007f/?#@:\\\[\]]+)"
URL_PATTERN = rf"^[hH][tT][tT][pP][sS]?://{_HOST}(?::{_PORT})?(?:[/?#][^\u0000-\u0020\u007f]*)?$"
KEY_PATTERN = r"^[!-~]{1,200}$"


def matches(pattern: str, text: str) -> bool:
    """Whether the whole of a text fits; a ``$`` alone would let a line's end pass."""
    return re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text) is not None


def checked_url(text: str) -> str:
    """An address that may be fetched from. Raises ValueError."""
    if not matches(URL_PATTERN, text):
        raise ValueError(
            "want http:// or https:// with a host, without user and password or spaces, "
            "e.g. https://example.org/talk.mp4"
        )
    return text


def _metadata(given: dict[str, Any] | None) -> dict[str, Any] | None:
    if too_deep(given, DEEPEST_METADATA):
        raise ValueError(f"nested deeper than {DEEPEST_METADATA} levels: make it flatter")
    size = len(json.dumps(given, allow_nan=False, ensure_ascii=False).encode())  # 1e999 is no number either
    if size > MOST_METADATA:
        raise ValueError(f"{size} bytes as JSON, {MOST_METADATA} are allowed: keep the rest elsewhere")
    return given


def _key(text: str | None) -> str | None:
    if text is not None and not matches(KEY_PATTERN, text):
        raise ValueError(f"want 1 to {LONGEST_KEY} printable ASCII characters without spaces, e.g. a UUID")
    return text


class Given(BaseModel):
    """What clients send: a field that is not known is a slip of the pen, so it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class Submission(Given):
    """What every submission may say."""

    metadata: Annotated[dict[str, Any] | None, AfterValidator(_metadata)] = Field(
        None, description="Anything about the video, given back with the job and shown to the language model"
    )
    priority: Priority = Field(Priority.NORMAL, description="Which of two that wait begins first")
    key: Annotated[str | None, AfterValidator(_key)] = Field(
        None,
        description="With the same key it is the same job, however often it comes; or the header Idempotency-Key",
        json_schema_extra={"pattern": KEY_PATTERN},
    )


class NewAnalysis(Submission):
    """A video to be fetched from an address."""

    video_url: Annotated[str, AfterValidator(checked_url)] = Field(
        alias="videoURL",
        max_length=LONGEST_URL,
        description="http or https",
        json_schema_extra={"pattern": URL_PATTERN},
        examples=["https://example.org/talk.mp4"],
    )


class NoQuery(Given):
    """A path that takes no query."""


class JobsQuery(Given):
    """Which jobs are wanted."""

    status: JobStatus | None = Field(None, description="Only those that stand so")
    owner: str | None = Field(
        None, pattern=NAME_PATTERN, description="Only this token's; admin may ask for others'"
    )
    limit: int = Field(50, ge=1, le=MOST_JOBS, description="Most in one answer")
    cursor: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_-]{1,300}$", description="What the last answer gave, for those after it"
    )


class LogsQuery(Given):
    """Which lines are wanted."""

    limit: int = Field(
        1000, ge=1, le=MOST_LINES, description="Lines in one answer; some more where they were written at once"
    )
    cursor: int = Field(0, ge=0, le=2**53, description="What the last answer gave, for the lines after it")


class JobPage(BaseModel):
    """Some jobs, the newest first."""

    jobs: list[JobSummary]
    cursor: str = Field(description="For the next page; empty when there is none")


class LogEntry(BaseModel):
    """One line that a step logged."""

    time: float
    level: str
    step: str
    item: int | None
    attempt: int
    text: str


class LogPage(BaseModel):
    """What a job's steps logged, the oldest first. Lines are kept for 30 days."""

    job_id: str = Field(serialization_alias="jobId")
    lines: list[LogEntry]
    cursor: int = Field(description="For the lines after these, those that are still to come, too")


class QueueDocument(BaseModel):
    """A function, and the steps that wait for it."""

    name: str
    description: str
    waiting: int = Field(description="Steps that no worker has yet")
    running: int = Field(description="Steps that a worker has, but those of sub-jobs")
    paused: bool
    concurrency: int = Field(description="Most at a time in the whole mesh; 0: no bound")
    rate: float = Field(description="Most begun a second in the whole mesh; 0: no bound")


class Queues(BaseModel):
    """How much there is to do."""

    functions: list[QueueDocument]
    jobs: dict[JobStatus, int] = Field(description="How many jobs stand so, everybody's")


class Alive(BaseModel):
    """The gateway is alive."""

    status: str = "alive"
