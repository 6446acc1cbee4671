"""A job as it lies on ``jobs.state.<id>``: its plan, what has been done of it, and what came out."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import ConfigDict, Field

from framemesh.messages import Message
from framemesh.steps.plan import NAME_PATTERN, Plan, Step

MOST_STATE_BYTES = 768 * 1024
"""NATS takes a MiB, and a dead letter or a header wants room too."""
MOST_OUTPUT_BYTES = 64 * 1024
LONGEST_TEXT = 500

JobId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,120}$")]
Owner = Annotated[str, Field(pattern=NAME_PATTERN)]


class JobStatus(StrEnum):
    """How a job stands."""

    QUEUED = "queued"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    over: bool
    """Whether nothing more will happen, unless somebody asks for it."""


for _job in JobStatus:  # not a property: asked some fifty times a step
    _job.over = _job in {JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED}


class StepStatus(StrEnum):
    """How a step, or an item of one, stands."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    over: bool
    """Whether it has come to an end."""
    active: bool
    """Whether a worker has it, or may get it any moment."""


for _step in StepStatus:
    _step.over = _step in {StepStatus.DONE, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED}
    _step.active = _step in {StepStatus.READY, StepStatus.RUNNING, StepStatus.RETRYING}


class Priority(StrEnum):
    """Which of two steps that wait begins first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class _Record(Message):
    """A part of the document, which is changed in place between two states that are written."""

    model_config = ConfigDict(frozen=False)

    if not TYPE_CHECKING:
        __setattr__ = object.__setattr__  # pydantic's own costs ten times as much, and checks nothing here


class Work(_Record):
    """What is to be done once: a step, or one item of a step that runs for each item of a list."""

    status: StepStatus = StepStatus.WAITING
    attempt: int = Field(0, ge=0, description="Counts the tries from 1")
    spent: int = Field(0, ge=0, description="Tries before somebody asked for the job again: they count no more")
    started: float | None = None
    ended: float | None = None
    due: float | None = Field(None, description="When the next try begins")
    progress: float = Field(0, ge=0, le=100, description="Percent")
    text: str = Field("", max_length=LONGEST_TEXT, description="What it is at")
    worker: str = ""
    output: Any = None
    error: str = Field("", max_length=8192)


class StepState(Work):
    """A step of the plan, with its items where it has them."""

    items: list[Work] | None = None


class Parent(_Record):
    """The step whose sub-job this is."""

    job: JobId
    step: str
    item: int | None = None
    attempt: int


class Job(_Record):
    """A job with its plan (``jobs.state.<id>``): any worker can advance it, and no code is ever replayed."""

    id: JobId
    plan: Plan
    owner: Owner = "nobody"
    priority: Priority = Priority.NORMAL
    input: dict[str, Any] = Field(default_factory=dict)
    status: JobStatus = JobStatus.QUEUED
    steps: dict[str, StepState] = Field(default_factory=dict)
    output: Any = None
    error: str = Field("", max_length=8192)
    created: float
    started: float | None = None
    ended: float | None = None
    failed_step: str = Field("", description="The step that the job failed at")
    last_words: int = Field(0, ge=0, description="Tries of on_failure before somebody asked for the job again")
    parent: Parent | None = None
    trigger: str = Field("", max_length=256, description="Name of the trigger whose event asked for it")
    parked: bool = Field(False, description="Whether it waits for the owner's other jobs before it begins")

    def json_bytes(self) -> bytes:
        """As it lies on its subject."""
        rest = self.model_dump_json(exclude_defaults=True, exclude={"plan"}).encode()
        return self.plan.state_bytes + rest[1:]

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """As ``json_bytes`` wrote it; a plan that many jobs have is read once. Raises ValidationError."""
        for beginning, plan in _plans:
            if data.startswith(beginning):
                job = cls.model_validate_json(_SOME_PLAN + data[len(beginning) :])
                job.plan = plan
                return job
        job = cls.model_validate_json(data)
        if data.startswith(job.plan.state_bytes):
            _plans.appendleft((job.plan.state_bytes, job.plan))
        return job

    def step_of(self, name: str) -> Step:
        """The plan of a step; that of a failed job's last step too. Raises KeyError."""
        step = self.plan.steps.get(name) or self.plan.on_failure
        if step is None:
            raise KeyError(name)
        return step

    def work(self, name: str, item: int | None) -> Work:
        """The state of a step or of one of its items. Raises KeyError."""
        state = self.steps[name]
        if item is None:
            return state
        if state.items is None or not 0 <= item < len(state.items):
            raise KeyError(f"{name}:{item}")
        return state.items[item]

    @property
    def progress(self) -> float:
        """Percent: the mean of its steps; where the job failed or was cancelled, of what they had done."""
        states = [self.steps[name] for name in self.plan.steps if name in self.steps]
        return sum(100 if self._counts(state) else state.progress for state in states) / max(1, len(states))

    def _counts(self, state: Work) -> bool:
        """Whether a step is through."""
        lost = self.status is not JobStatus.DONE and self.status.over
        return state.status in {StepStatus.DONE, StepStatus.SKIPPED} if lost else state.status.over


_plans: deque[tuple[bytes, Plan]] = deque(maxlen=16)
"""How the states of jobs begin that were read lately, and the plan that it stands for."""
_SOME_PLAN = b'{"plan":{"name":"x","steps":{"x":{"function":"x"}}},'


class StepTask(Message):
    """A step that is to be done now (``jobs.step.<function>.<priority>.<id>.<step>``)."""

    job: JobId
    step: str = Field(pattern=NAME_PATTERN)
    item: int | None = Field(None, ge=0)
    attempt: int = Field(ge=1)
    function: str = Field(pattern=NAME_PATTERN)

    @property
    def key(self) -> str:
        """The same for every try of the same work: what is done under it is done once."""
        return f"{self.job}/{place(self.step, self.item)}"


def place(step: str, item: int | None) -> str:
    """A step or one of its items as a subject token."""
    return step if item is None else f"{step}:{item}"


def is_id(text: str) -> bool:
    """Whether a job may be called so: it is one token of a subject."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,120}", text) is not None


def new_id(owner: str, key: str | None) -> str:
    """A job's id: of a client's key always the same, else one that rises with time."""
    if key is not None:
        return hashlib.sha256(f"{owner}\0{key}".encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(6)}"
