"""Every message that travels on the wire, and nothing else.

Times are seconds since the epoch (float, UTC). Boxes are ``[x1, y1, x2, y2]`` in pixels of the frame,
origin at the top left. Frame bytes never travel in a message: ``url`` is the claim check.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SOURCE_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"

SourceName = Annotated[
    str, Field(pattern=SOURCE_PATTERN, description="Name of a camera or a file, one subject token")
]
ModelName = Annotated[
    str, Field(pattern=SOURCE_PATTERN, description="Kind of the model worker, e.g. DetectionInference")
]
Confidence = Annotated[float, Field(ge=0, le=1)]
SpoolEntry = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[0-9]{12}\.frame$", max_length=200)]
Label = Annotated[str, Field(max_length=256)]
MOST_REGIONS = 256
MOST_FOUND = 1024
Box = tuple[float, float, float, float]


class Delivery(StrEnum):
    """How much a source minds losing frames."""

    LIVE = "live"  # newest first: a slow model skips frames
    LOSSLESS = "lossless"  # every frame: a slow model slows the reader


class Message(BaseModel):
    """Base of every message: unknown fields are kept out, so that a newer sender never breaks an older reader."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Frame(Message):
    """Claim check of one stored frame (``frames-stream.<source>``)."""

    source: SourceName
    run: str = Field(pattern=SOURCE_PATTERN, description="One reader start")
    seq: int = Field(ge=0, description="Counts the frames of a run from 0, without gaps")
    frame_id: str = Field(description="frame_000123")
    url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        max_length=2048,
        description="Where the JPEG lies; empty until it is stored",
    )
    timestamp: float = Field(description="Time of the frame, strictly rising within a source")
    pts: float | None = Field(None, description="Presentation time in the source, seconds, when it has one")
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    bytes: int = Field(ge=0, description="Size of the JPEG; 0 when the sender does not know it")
    captured_at: float = Field(description="Wall clock when the reader had the frame; latency counts from here")
    delivery: Delivery = Delivery.LIVE

    @property
    def key(self) -> str:
        """Identity of the frame in the whole mesh."""
        return f"{self.source}/{self.run}/{self.seq}"


class Captured(Message):
    """Frames that wait in a node's spool (``frames.captured.<node>``); each entry carries its own metadata."""

    entries: list[SpoolEntry] = Field(
        min_length=1, max_length=1024, description="Names of spool entries, in the order of their frames"
    )


class Task(Frame):
    """One frame for one model (``<Model>.<source>``)."""

    model: ModelName
    stride: int = Field(1, ge=1, description="The model gets every nth frame of the source")
    regions: list[Box] | None = Field(
        None, max_length=MOST_REGIONS, description="Boxes to look at, when the model follows another one"
    )

    @property
    def task_key(self) -> str:
        """Identity of the task and of its result: ``<source>/<run>/<seq>/<Model>``."""
        return f"{self.key}/{self.model}"


class Classification(Message):
    """One class of a picture or of a region."""

    label: Label
    class_id: int = Field(ge=0)
    confidence: Confidence
    region: int | None = Field(None, description="Index into the task's regions")


class Detection(Message):
    """One object in a picture."""

    label: Label
    class_id: int = Field(ge=0)
    confidence: Confidence
    box: Box


class Result(Message):
    """What a model found in one frame (``inference.results.<Model>.<source>``)."""

    model: ModelName
    source: SourceName
    run: str
    seq: int = Field(ge=0)
    frame_id: str
    timestamp: float
    frame_url: str
    result: list[Detection | Classification] = Field(max_length=MOST_FOUND)
    timing_ms: dict[str, float] = Field(description="queue, fetch, infer …, and latency: capture to result")
    delivery: Delivery = Delivery.LIVE
    stride: int = 1
    captured_at: float
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    model_name: str = Field("", description="Weights that ran, e.g. yolox-nano")
    model_sha256: str = Field("", description="Checksum of the weights that ran")
    error: str | None = Field(None, description="Why there is no result, when the model could not give one")
    regions: list[Box] | None = Field(
        None, description="Boxes that were looked at, when the model follows another"
    )

    @property
    def task_key(self) -> str:
        """Identity of the task and of its result."""
        return f"{self.source}/{self.run}/{self.seq}/{self.model}"


class SourceState(Message):
    """Life of a source's run (``sources.<source>``)."""

    source: SourceName
    run: str
    state: Literal["started", "ended", "failed", "settled"]
    address: str = Field("", description="What is read, without passwords")
    delivery: Delivery = Delivery.LIVE
    frames: int = Field(0, ge=0, description="Frames captured in this run so far")
    corrupt: int = Field(0, ge=0, description="Packets that could not be decoded")
    reason: str = ""
    timestamp: float


class EventState(StrEnum):
    """The registrator's task catalogue."""

    CREATED = "CREATED"  # a rule opened the event
    PENDING = "PENDING"  # it is over; its evidence is being gathered
    DONE = "DONE"  # the evidence is written on this node
    FINISHED = "FINISHED"  # the evidence is in the bucket
    ERROR = "ERROR"  # the evidence could not be made; `reason` says why


class Transition(Message):
    """One step of an event through the catalogue."""

    state: EventState
    timestamp: float
    reason: str = ""


class Event(Message):
    """Something that was seen, with its evidence (``events.<source>``)."""

    id: str = Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    task_key: str = Field(description="Task whose result opened the event")
    source: SourceName
    run: str
    rule: str
    label: str = Field(description="The most frequent label")
    counts: dict[str, int] = Field(description="Sightings by label")
    start: float
    end: float
    state: EventState
    transitions: list[Transition]
    message: Result = Field(description="The best result; the picture shows its frame")
    video_proofs: str = Field("", description="Path of the MP4 on the registrator's node")
    image_proof_path: str = Field("", description="Path of the JPEG on the registrator's node")
    video_url: str = ""
    image_url: str = ""
    reason: str = ""


class DeadLetter(Message):
    """What could not be processed (``dead.<stream>.<subject>``)."""

    stream: str
    subject: str
    stream_seq: int
    consumer: str
    reason: str
    stack: str = ""
    origin: str = Field(description="Service instance that gave up")
    deliveries: int
    headers: dict[str, str] = Field(default_factory=dict)
    payload: str = Field(description="The message as it came; base64 when it is not UTF-8")
    encoding: Literal["utf-8", "base64"] = "utf-8"
    timestamp: float


class Heartbeat(Message):
    """What a live service says of itself in Redis (``service:<Kind>:<instance>``)."""

    kind: str
    instance: str
    host: str
    pid: int
    started: float
    version: str
    model: str | None = Field(None, description="Weights that are loaded, for model workers")
    detail: dict[str, Any] = Field(default_factory=dict)


WIRE: tuple[type[Message], ...] = (
    Frame,
    Captured,
    Task,
    Result,
    SourceState,
    Event,
    DeadLetter,
    Heartbeat,
)
