"""Every message that travels on the wire, and nothing else.

Times are seconds since the epoch (float, UTC). Boxes are ``[x1, y1, x2, y2]`` in pixels of the frame,
origin at the top left. Pictures and sound never travel in a message: ``url`` is the claim check.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticSerializationError, to_json

SOURCE_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
MEDIA_EVENTS = "media"
"""Last token of the subject of events that are no source's."""


def free_source(name: str) -> str:
    """The name of a source, if it may be one. Raises ValueError."""
    if name == MEDIA_EVENTS:
        raise ValueError(f"a source cannot be called {name!r}: events.{name} is for what becomes of media")
    return name


SourceName = Annotated[
    str,
    Field(pattern=SOURCE_PATTERN, description="Name of a camera or a file, one subject token"),
    AfterValidator(free_source),
]
ModelName = Annotated[
    str, Field(pattern=SOURCE_PATTERN, description="Kind of the model worker, e.g. DetectionInference")
]
Confidence = Annotated[float, Field(ge=0, le=1)]
SpoolEntry = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[0-9]{12}\.(frame|audio)$", max_length=200)
]
Label = Annotated[str, Field(max_length=256)]
MOST_REGIONS = 256
MOST_FOUND = 1024
Box = tuple[float, float, float, float]
Point = tuple[float, float]
Share = Annotated[float, Field(ge=0, le=1)]
Missing = Annotated[
    dict[str, str], Field(description="Why a field is null, by its name", json_schema_extra={"default": {}})
]


class Medium(StrEnum):
    """What a model looks at, or listens to."""

    FRAME = "frame"
    AUDIO = "audio"


class Delivery(StrEnum):
    """How much a source minds losing frames."""

    LIVE = "live"  # newest first: a slow model skips frames
    LOSSLESS = "lossless"  # every frame: a slow model slows the reader


class Message(BaseModel):
    """Base of every message: unknown fields are kept out, so that a newer sender never breaks an older reader."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Claim(Message):
    """Claim check of something of a source that is stored."""

    source: SourceName
    run: str = Field(pattern=SOURCE_PATTERN, description="One reader start")
    seq: int = Field(ge=0, description="Counts the frames, or the audio windows, of a run from 0, without gaps")
    url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        max_length=2048,
        description="Where it lies; empty until it is stored",
    )
    timestamp: float = Field(description="Time of the frame or of the first sample; rises within a source")
    bytes: int = Field(ge=0, description="Stored size; 0 when the sender does not know it")
    captured_at: float = Field(description="Wall clock when the reader had it; latency counts from here")
    delivery: Delivery = Delivery.LIVE

    @property
    def key(self) -> str:
        """Identity among the frames, or among the audio windows, of the whole mesh."""
        return f"{self.source}/{self.run}/{self.seq}"

    @property
    def nth(self) -> int:
        """What a route's stride counts: a run's frames, or the windows of one channel, from 0."""
        return self.seq


class Frame(Claim):
    """Claim check of one stored frame, a JPEG (``frames-stream.<source>``)."""

    frame_id: str = Field(description="frame_000123")
    pts: float | None = Field(None, description="Presentation time in the source, seconds, when it has one")
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class AudioWindow(Claim):
    """Claim check of a few seconds of sound: WAV, 16 kHz, mono, 16 bit (``audio-stream.<source>``)."""

    duration: float = Field(gt=0, le=120, description="Seconds")
    overlap: float = Field(0, ge=0, description="Seconds at the beginning that the window before has too")
    tail: float = Field(0, ge=0, description="Seconds at the end that the next window has again; 0 after silence")
    channel: int | None = Field(None, ge=0, description="Channel of the source; null where all are mixed")
    number: int | None = Field(
        None, ge=0, description="Counts the windows of one channel in a run from 0, without gaps"
    )

    @property
    def nth(self) -> int:
        """By ``number``; a sender from before there was one had a row for all channels."""
        return self.seq if self.number is None else self.number


class Captured(Message):
    """What waits in a node's spool (``frames.captured.<node>``); each entry carries its own metadata."""

    entries: list[SpoolEntry] = Field(
        min_length=1, max_length=1024, description="Names of spool entries, in the order of their capture"
    )


class Word(Message):
    """One spoken word."""

    text: str = Field(max_length=256)
    start: float = Field(description="Seconds since the epoch")
    end: float = Field(description="Seconds since the epoch")
    confidence: Confidence


class Assignment(Claim):
    """What a task adds to the claim check of what it is about."""

    model: ModelName
    stride: int = Field(1, ge=1, description="The model gets every nth frame, or window, of the source")

    @property
    def task_key(self) -> str:
        """Identity of the task and of its result: ``<source>/<run>/<seq>/<Model>``."""
        return f"{self.key}/{self.model}"


class Task(Frame, Assignment):
    """One frame for one model (``<Model>.<source>``)."""

    regions: list[Box] | None = Field(
        None, max_length=MOST_REGIONS, description="Boxes to look at, when the model follows another one"
    )


class AudioTask(AudioWindow, Assignment):
    """One audio window for one model (``<Model>.<source>``)."""

    words: list[Word] | None = Field(
        None, max_length=MOST_FOUND, description="What was said, when the model follows a transcription"
    )


# -- findings ---------------------------------------------------------------------------------------


_FINDINGS = ("detection", "classification", "face", "voice", "segment")


class Finding(Message):
    """Something that a model found. A model of your own gives this one, with what it likes in ``data``."""

    kind: str = Field(max_length=64, json_schema_extra={"not": {"enum": list(_FINDINGS)}})
    label: Label = ""
    confidence: Confidence = 1.0
    region: int | None = Field(None, description="Index into the task's regions")
    data: dict[str, Any] = Field(default_factory=dict)

    @field_validator("data")
    @classmethod
    def _travels(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Said where the finding is made: when it is published nobody knows any more which line it was."""
        if info.mode == "python" and (found := _unfit(value, "data")):
            raise ValueError(f"JSON types only (int, float, str, list, dict), got {found}")
        return value


class Classification(Message):
    """One class of a picture or of a region."""

    kind: Literal["classification"] = "classification"
    label: Label
    class_id: int = Field(ge=0)
    confidence: Confidence
    region: int | None = Field(None, description="Index into the task's regions")


class Detection(Message):
    """One object in a picture."""

    kind: Literal["detection"] = "detection"
    label: Label
    class_id: int = Field(ge=0)
    confidence: Confidence
    box: Box


class HeadPose(Message):
    """Where a head points, degrees."""

    yaw: float = Field(description="Positive: turned to the left side of the picture")
    pitch: float = Field(description="Positive: up")
    roll: float = Field(description="Positive: the top of the head towards the right side of the picture")


class Gaze(Message):
    """Where two eyes look, degrees from the line to the camera."""

    yaw: float = Field(description="Positive: to the left side of the picture")
    pitch: float = Field(description="Positive: up")
    eye_contact: bool = Field(description="Whether it is the camera that they look at, within the tolerance")


class Face(Message):
    """One face, with what could be told of it; what could not is null, and ``missing`` says why.

    Expression, pose, gaze and smile are smoothed over the frames of a track.
    """

    kind: Literal["face"] = "face"
    label: Label = "face"
    confidence: Confidence
    box: Box
    points: list[Point] = Field(
        min_length=5, max_length=5, description="Right eye, left eye, nose, right and left corner of the mouth"
    )
    track: int | None = Field(None, description="The same face keeps its number within a run")
    landmarks: list[Point] | None = Field(None, description="66 points in the iBUG order without 60 and 64")
    pupils: list[Point] | None = Field(None, description="Right and left pupil")
    expression: str | None = Field(None, description="The likeliest of expressions")
    expressions: dict[str, Share] | None = Field(None, description="Share of each expression, sums to 1")
    pose: HeadPose | None = None
    gaze: Gaze | None = None
    eye_openness: float | None = Field(
        None, ge=0, description="Eye aspect ratio: height by width, both eyes' mean"
    )
    blinks_per_minute: float | None = Field(None, ge=0, description="Over the last minute of the track")
    mouth_openness: float | None = Field(None, ge=0, description="Gap between the lips by the mouth's width")
    smile: Share | None = Field(None, description="Share of happiness, with the corners of the mouth")
    missing: Missing = {}


class Voice(Message):
    """How somebody speaks, measured on one audio window; what cannot be told is null, ``missing`` says why.

    Lengths count only what the window before did not have, so they may be summed over the windows of a source.
    """

    kind: Literal["voice"] = "voice"
    label: Literal["speech", "no speech", "silence"]
    confidence: Confidence = Field(description="Mean probability of the label over the window")
    duration_s: float = Field(ge=0, description="Seconds that were listened to")
    speech_s: float = Field(ge=0, description="Seconds of speech")
    speech_share: Share
    speech: list[tuple[float, float]] = Field(description="Begin and end of each stretch, seconds since the epoch")
    pitch_median_hz: float | None = Field(None, gt=0)
    pitch_low_hz: float | None = Field(None, gt=0, description="5th percentile")
    pitch_high_hz: float | None = Field(None, gt=0, description="95th percentile")
    pitch_range_semitones: float | None = Field(None, ge=0, description="From the low to the high one")
    pitch_contour_hz: list[float | None] | None = Field(None, description="Every 0.1 s; null where unvoiced")
    loudness_lufs: float | None = Field(None, description="Integrated, ITU-R BS.1770")
    loudness_deviation_db: float | None = Field(None, ge=0, description="Standard deviation over 0.4 s blocks")
    peak_dbfs: float | None = Field(None, le=0.1, description="Highest sample")
    clipped_share: Share = Field(0, description="Samples at full scale")
    syllables_per_s: float | None = Field(None, ge=0, description="Syllable nuclei by speaking time")
    words_per_minute: float | None = Field(None, ge=0, description="From the transcript, where the task has one")
    pauses: int | None = Field(None, ge=0, description="Silences of 0.2 s or more between speech")
    pause_share: Share | None = Field(None, description="Of the time from the first to the last speech")
    longest_pause_s: float | None = Field(None, ge=0)
    jitter_percent: float | None = Field(None, ge=0, description="Local: mean change of the period, by the period")
    shimmer_percent: float | None = Field(None, ge=0, description="Local: mean change of the peak, by the peak")
    missing: Missing = {}


class Segment(Message):
    """One segment of a transcript."""

    kind: Literal["segment"] = "segment"
    label: Label = "speech"
    confidence: Confidence
    text: str = Field(max_length=8192)
    start: float = Field(description="Seconds since the epoch")
    end: float = Field(description="Seconds since the epoch")
    language: str = Field("", max_length=16, description="ISO 639-1, e.g. en")
    language_confidence: Confidence | None = Field(None, description="Null where the language was given")
    words: list[Word] = Field(default_factory=list, max_length=MOST_FOUND)


def _unfit(value: Any, name: str) -> str:
    """The first value that JSON does not know, as ``type in name``; empty where there is none."""
    try:
        to_json(value)
    except PydanticSerializationError:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        inner = (_unfit(each, f"{name}.{key}") for key, each in items)
        kind = type(value)
        return next(filter(None, inner), f"{kind.__module__}.{kind.__qualname__} in {name}")
    return ""


def _kind(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    if kind is None and isinstance(value, dict):  # a sender from before there were kinds
        return "detection" if "box" in value else "classification"
    return kind if isinstance(kind, str) and kind in _FINDINGS else "finding"


Found = Annotated[
    Annotated[Detection, Tag("detection")]
    | Annotated[Classification, Tag("classification")]
    | Annotated[Face, Tag("face")]
    | Annotated[Voice, Tag("voice")]
    | Annotated[Segment, Tag("segment")]
    | Annotated[Finding, Tag("finding")],
    Discriminator(_kind),
]


class Result(Message):
    """What a model found in one frame or one audio window (``inference.results.<Model>.<source>``)."""

    model: ModelName
    source: SourceName
    run: str
    seq: int = Field(ge=0)
    timestamp: float
    result: list[Found] = Field(max_length=MOST_FOUND)
    skipped: dict[str, int] = Field(
        default_factory=dict, description="What was not looked at: how many, by reason"
    )
    timing_ms: dict[str, float] = Field(description="queue, fetch, infer …, and latency: capture to result")
    delivery: Delivery = Delivery.LIVE
    stride: int = 1
    captured_at: float
    model_name: str = Field("", description="Weights that ran, e.g. yolox-nano")
    model_sha256: str = Field("", description="Checksum of the weights that ran")
    error: str | None = Field(None, description="Why there is no result, when the model could not give one")
    medium: Medium = Medium.FRAME
    frame_id: str = ""
    frame_url: str = ""
    width: int = Field(0, ge=0, description="Of the frame; 0 for audio")
    height: int = Field(0, ge=0, description="Of the frame; 0 for audio")
    regions: list[Box] | None = Field(
        None, description="Boxes that were looked at, when the model follows another"
    )
    audio_url: str = ""
    duration: float = Field(0, ge=0, description="Seconds of the audio window; 0 for a frame")
    overlap: float = Field(0, ge=0)
    tail: float = Field(0, ge=0)
    channel: int | None = Field(None, ge=0)
    number: int | None = Field(None, ge=0)

    @classmethod
    def of(cls, task: Task | AudioTask, **found: Any) -> Self:
        """The result of a task: what identifies it, and what was found."""
        if isinstance(task, Task):
            about = _values(task, _FRAME_FIELDS) | {"medium": Medium.FRAME, "frame_url": task.url}
        else:
            about = _values(task, _AUDIO_FIELDS) | {"medium": Medium.AUDIO, "audio_url": task.url}
        return cls(**_values(task, _SHARED_FIELDS), **about, **found)

    def task(self, model: str, **more: Any) -> Task | AudioTask:
        """A task about the same frame or window for another model."""
        about = _values(self, _SHARED_FIELDS) | {"model": model, "bytes": 0}
        if self.medium is Medium.FRAME:
            return Task(**(about | _values(self, _FRAME_FIELDS) | {"url": self.frame_url} | more))
        return AudioTask(**(about | _values(self, _AUDIO_FIELDS) | {"url": self.audio_url} | more))

    @property
    def task_key(self) -> str:
        """Identity of the task and of its result."""
        return f"{self.source}/{self.run}/{self.seq}/{self.model}"

    @property
    def nth(self) -> int:
        """What a route's stride counts, as of the frame or the window."""
        return self.seq if self.number is None else self.number


_SHARED_FIELDS = ("model", "source", "run", "seq", "timestamp", "captured_at", "delivery", "stride")
_FRAME_FIELDS = ("frame_id", "width", "height", "regions")
_AUDIO_FIELDS = ("duration", "overlap", "tail", "channel", "number")


def _values(message: Message, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names}


class SourceState(Message):
    """Life of a source's run (``sources.<source>``)."""

    source: SourceName
    run: str
    state: Literal["started", "ended", "failed", "settled"]
    address: str = Field("", description="What is read, without passwords")
    delivery: Delivery = Delivery.LIVE
    frames: int = Field(0, ge=0, description="Frames captured in this run so far")
    windows: int = Field(0, ge=0, description="Audio windows captured in this run so far")
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


class MediaState(StrEnum):
    """What became of a medium that was uploaded, or deleted."""

    READY = "ready"  # it can be played, and found where there is a search
    FAILED = "failed"  # `reason` says why; what was published before stays
    DELETED = "deleted"


class MediaEvent(Message):
    """Something happened to a medium (``events.media``)."""

    kind: Literal["media"] = "media"
    media: str = Field(pattern=SOURCE_PATTERN)
    version: int = Field(ge=0, description="Counts what was asked for; 0 where the event did not say what of")
    job: str
    state: MediaState
    title: str = ""
    source: str = ""
    playlist: str = Field("", description="Path of its playlist, at the gateway")
    duration_s: float | None = None
    indexed: int | None = Field(None, description="Passages that can be found; null without a search")
    reason: str = ""
    timestamp: float


class Told(Message):
    """What lies on ``events.*``: of what was seen the event; of media nothing, which are no source's."""

    event: Event | None = None

    @model_validator(mode="before")
    @classmethod
    def _sorted(cls, value: Any) -> Any:
        kind = value.get("kind") if isinstance(value, dict) else None
        return {} if kind == "media" else {"event": value}


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
    cut: bool = Field(False, description="Whether only the beginning of the message is here: it was too large")
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
    takes: Medium = Field(Medium.FRAME, description="What a model worker wants tasks about")
    detail: dict[str, Any] = Field(default_factory=dict)


# -- search -----------------------------------------------------------------------------------------

LONGEST_QUESTION = 1000
QUESTION_PATTERN = r"[0-9A-Za-z]|[^\x00-\x7f]"
"""A letter or a digit of some script, so that there is something to look for."""
MOST_HITS = 100


class SearchKind(StrEnum):
    """What can be found."""

    TRANSCRIPT = "transcript"  # a passage of what was said in a media
    EVENT = "event"
    LABEL = "label"  # what models found in a source within a short time


class SearchRequest(Message):
    """What is looked for (``search.query``), or asked (``search.ask``)."""

    q: str = Field(min_length=1, max_length=LONGEST_QUESTION)
    source: str | None = Field(None, max_length=256)
    since: float | None = Field(None, description="Nothing older; of a transcript, when it was indexed")
    kind: SearchKind | None = None
    limit: int = Field(10, ge=1, le=MOST_HITS)
    reader: str | None = Field(
        None, max_length=256, description="Owner who asks: media of others are not found; null: everybody's are"
    )


class SearchHit(Message):
    """A passage that fits."""

    kind: SearchKind
    text: str = Field(description="All of the passage")
    snippet: str = Field(description="The part of it that fits best")
    score: float = Field(ge=0, le=1, description="1: the first by words and by meaning; only ranks are compared")
    matched: list[Literal["words", "meaning"]] = Field(description="By what it was found")
    media: str | None = Field(description="Id of the media, or of the event; null for labels")
    source: str
    title: str
    start: float = Field(description="Where to jump to: seconds in the media; else seconds since the epoch")
    end: float
    time: float = Field(description="When it was, or when the transcript was indexed; seconds since the epoch")
    link: str | None = Field(description="Where it can be seen")


class Citation(SearchHit):
    """A passage that an answer rests on."""

    number: int = Field(ge=1, description="As in the answer: [1]")


class SearchTrouble(StrEnum):
    """Why there is no answer."""

    UNSET = "unset"  # no language model is set
    AWAY = "away"  # something that is needed is away: later
    FAILED = "failed"  # only whoever runs the service can mend it


class SearchReply(Message):
    """The answer to a ``SearchRequest``; ``trouble`` where there is none."""

    hits: list[SearchHit] = []
    answer: str | None = Field(None, description="Of search.ask; null where the passages do not tell")
    citations: list[Citation] = []
    model: str = ""
    trouble: SearchTrouble | None = None
    reason: str = ""


WIRE: tuple[type[Message], ...] = (
    Frame,
    AudioWindow,
    Captured,
    Task,
    AudioTask,
    Result,
    SourceState,
    Event,
    MediaEvent,
    DeadLetter,
    Heartbeat,
    SearchRequest,
    SearchReply,
)
