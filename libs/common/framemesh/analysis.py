"""The analysis of a video: its plan, the statuses that it goes through, and the document of how it stands."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from framemesh.steps.job import Job, JobStatus, Priority, StepStatus
from framemesh.steps.plan import Plan

if TYPE_CHECKING:
    from framemesh.database.jobs import Place  # whoever only wants the plan needs no database

PLAN_NAME = "analysis"


class AnalysisStatus(StrEnum):
    """How an analysis stands. Those between ``processing`` and ``done`` are steps, the furthest last.

    ``queued`` → any of the others, and never back. A step → any but those that had to end before it could begin,
    as the plan says; what runs side by side (``face-analysis`` beside the sound) may follow each other either way.
    ``processing``: under way, though no worker has a step of it just now. ``done`` is the end. ``failed`` and
    ``cancelled`` are, too, until somebody asks for a retry: then any but ``queued`` may follow.
    """

    QUEUED = "queued"
    PROCESSING = "processing"
    DOWNLOADING_VIDEO = "downloading-video"
    EXTRACTING_AUDIO = "extracting-audio"
    TRANSCRIBING = "transcribing"
    FACE_ANALYSIS = "face-analysis"
    VOICE_ANALYSIS = "voice-analysis"
    GPT_ANALYSIS = "gpt-analysis"
    CALCULATING_SCORE = "calculating-score"
    SAVING_RESULTS = "saving-results"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


S = AnalysisStatus
_HOUR = 3600.0
_WHOLE = {"attempts": 5, "delay": 2.0, "most": 60.0}
"""Tries of what the job cannot do without: servers and networks come back."""
_PART = {"attempts": 3, "delay": 2.0, "most": 60.0}
_STEPS: dict[AnalysisStatus, dict[str, Any]] = {
    S.DOWNLOADING_VIDEO: {
        "input": {"url": "$input.url?", "upload": "$input.upload?"},
        "timeout": 2 * _HOUR,
        "retry": _WHOLE,
    },
    S.EXTRACTING_AUDIO: {
        "after": [S.DOWNLOADING_VIDEO],
        "input": {"video": "$steps.downloading-video.video"},
        "timeout": 2 * _HOUR,
        "optional": True,
    },
    S.TRANSCRIBING: {
        "after": [S.EXTRACTING_AUDIO],
        "input": {"audio": "$steps.extracting-audio.audio?"},
        "timeout": 6 * _HOUR,
        "optional": True,
    },
    S.FACE_ANALYSIS: {
        "after": [S.DOWNLOADING_VIDEO],
        "input": {"video": "$steps.downloading-video.video"},
        "timeout": 6 * _HOUR,
        "optional": True,
    },
    S.VOICE_ANALYSIS: {
        "after": [S.EXTRACTING_AUDIO],
        "input": {"audio": "$steps.extracting-audio.audio?"},
        "timeout": 2 * _HOUR,
        "optional": True,
    },
    S.GPT_ANALYSIS: {
        "after": [S.TRANSCRIBING],
        "input": {"transcript": "$steps.transcribing.transcript?", "metadata": "$input.metadata?"},
        "timeout": _HOUR,
        "optional": True,
        "retry": _PART | {"delay": 5.0, "most": 300.0},
    },
    S.CALCULATING_SCORE: {
        "after": [S.FACE_ANALYSIS, S.VOICE_ANALYSIS, S.TRANSCRIBING, S.GPT_ANALYSIS],
        "input": {
            "face": "$steps.face-analysis?",
            "voice": "$steps.voice-analysis?",
            "transcript": "$steps.transcribing?",
            "gpt": "$steps.gpt-analysis?",
        },
        "timeout": 300.0,
        "retry": _WHOLE,
    },
    S.SAVING_RESULTS: {
        "after": [S.CALCULATING_SCORE],
        "input": {
            "video": "$steps.downloading-video?",
            "face": "$steps.face-analysis?",
            "voice": "$steps.voice-analysis?",
            "transcript": "$steps.transcribing?",
            "gpt": "$steps.gpt-analysis?",
            "score": "$steps.calculating-score?",
            "metadata": "$input.metadata?",
        },
        "timeout": 600.0,
        "retry": _WHOLE,
    },
}
_RESULTS = {
    "face": S.FACE_ANALYSIS,
    "voice": S.VOICE_ANALYSIS,
    "transcript": S.TRANSCRIBING,
    "gpt": S.GPT_ANALYSIS,
    "score": S.CALCULATING_SCORE,
    "report": S.SAVING_RESULTS,
}


@cache
def analysis_plan() -> Plan:
    """The steps of an analysis. Its input: ``url`` or ``upload``, and ``metadata`` where there is any.

    Without the video nothing can be said; each analysis of it may fail by itself: the score says what it lacked.
    """
    steps = {name: {"function": name, "status": name, "retry": _PART} | parts for name, parts in _STEPS.items()}
    return Plan.model_validate({"name": PLAN_NAME, "steps": steps})


def legal(before: AnalysisStatus, after: AnalysisStatus) -> bool:
    """Whether who saw ``before`` may see ``after`` next; see AnalysisStatus for the order.

    Nobody sees every status: a step that is quick, or over between two looks, may be missing.
    """
    if before is after:
        return True
    if after is S.QUEUED or before is S.DONE:
        return False
    return after not in _before(before)


@cache
def _before(status: AnalysisStatus) -> frozenset[AnalysisStatus]:
    """The steps that have ended when this one begins; of what is no step none."""
    after = [AnalysisStatus(name) for name in _STEPS.get(status, {}).get("after", ())]
    return frozenset(after).union(*map(_before, after))


class _Document(BaseModel):
    """What is given to clients: camelCase names, times in seconds since the epoch."""

    model_config = ConfigDict(frozen=True)


class StepDocument(_Document):
    """How one step stands."""

    name: str
    status: StepStatus
    attempt: int = Field(description="Counts the tries from 1; 0 before the first")
    progress: float = Field(description="Percent")
    text: str = Field(description="What it is at")
    error: str = Field(description="Why it failed or was skipped, or why the last try failed; else empty")
    started: float | None
    ended: float | None


class AnalysisResult(_Document):
    """What the steps gave; null for one that has not ended, failed or was skipped."""

    face: Any = None
    voice: Any = None
    transcript: Any = None
    gpt: Any = None
    score: Any = None
    report: Any = None


class JobSummary(_Document):
    """A job in few words."""

    job_id: str = Field(serialization_alias="jobId")
    plan: str
    owner: str
    priority: Priority
    status: AnalysisStatus = Field(description="The furthest running step's, else how the job stands")
    step: str = Field(
        description="The furthest step that runs, else that waits for a worker; of a failed job its failed one"
    )
    progress: float = Field(description="Percent: the mean of its steps")
    error: str = Field(description="Why it failed; else empty")
    metadata: Any = Field(description="What was given with it")
    timestamps: dict[str, float] = Field(
        description="created, started, <step>Started and <step>Ended of each step, and done, failed or cancelled"
    )

    @classmethod
    def of(cls, job: Job) -> Self:
        """The document of a job."""
        return cls(**_summary(job))


class AnalysisState(JobSummary):
    """How a job stands, without its results."""

    steps: list[StepDocument]
    position: int | None = Field(
        description="1 for the next to begin, 0 for one that has begun; null where it is not known yet"
    )
    waiting: int = Field(description="How many jobs wait to begin, everybody's; 0 for one that has begun")

    @classmethod
    def of(cls, job: Job, place: Place | None = None) -> Self:
        """The document of a job that stands at a place in the queue."""
        return cls(**_state(job, place))


class AnalysisDocument(AnalysisState):
    """How a job stands, with its results."""

    result: AnalysisResult

    @classmethod
    def of(cls, job: Job, place: Place | None = None) -> Self:
        """The document of a job that stands at a place in the queue."""
        return cls(**_state(job, place), result=_result(job))


def _summary(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "plan": job.plan.name,
        "owner": job.owner,
        "priority": job.priority,
        "status": _status(job),
        "step": _step(job),
        "progress": round(100.0 if job.status is JobStatus.DONE else job.progress, 2),
        "error": job.error,
        "metadata": job.input.get("metadata"),
        "timestamps": _timestamps(job),
    }


def step_documents(job: Job) -> list[StepDocument]:
    """How each step of a job stands."""
    return [
        StepDocument(
            name=name, status=state.status, attempt=state.attempt, progress=round(state.progress, 2),
            text=state.text, error=state.error, started=state.started, ended=state.ended,
        )
        for name, state in job.steps.items()
    ]  # fmt: skip


def _state(job: Job, place: Place | None) -> dict[str, Any]:
    position, waiting = (place.position, place.waiting) if place else (0, 0)
    return _summary(job) | {"steps": step_documents(job), "position": position, "waiting": waiting}


def _status(job: Job) -> AnalysisStatus:
    running = "" if job.status.over else _furthest(job, StepStatus.RUNNING, StepStatus.RETRYING)
    said = job.plan.steps[running].status if running else None
    if said in _STEPS:
        return S(said)
    return S.PROCESSING if running else S(job.status.value)


def _step(job: Job) -> str:
    if job.status.over:
        return job.failed_step
    return _furthest(job, StepStatus.RUNNING, StepStatus.RETRYING) or _furthest(job, StepStatus.READY)


def _furthest(job: Job, *wanted: StepStatus) -> str:
    """The last step of the plan that stands so; empty when none does."""
    found = [name for name in job.plan.steps if name in job.steps and job.steps[name].status in wanted]
    return found[-1] if found else ""


def _timestamps(job: Job) -> dict[str, float]:
    found = {"created": job.created, "started": job.started}
    for name, state in job.steps.items():
        found |= {f"{name}Started": state.started, f"{name}Ended": state.ended}
    if job.status.over:
        found[job.status.value] = job.ended
    return {name: moment for name, moment in found.items() if moment is not None}


def _result(job: Job) -> AnalysisResult:
    if job.plan.name != PLAN_NAME:
        return AnalysisResult(report=job.output)
    outputs = {name: job.steps[step].output for name, step in _RESULTS.items() if step in job.steps}
    return AnalysisResult(**outputs)
