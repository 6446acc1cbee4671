"""What the API takes and gives of media."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AliasGenerator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from framemesh.analysis import StepDocument, step_documents
from framemesh.database.media import Media
from framemesh.media import MEDIA_PATTERN, playlist_path
from framemesh.messages import SOURCE_PATTERN
from framemesh.steps.job import Job, Priority
from framemesh.steps.plan import NAME_PATTERN
from services.gateway.documents import LONGEST_URL, URL_PATTERN, Given, checked_url

MOST_MEDIA = 200


LONGEST_TITLE = 200


def _title(text: str | None) -> str | None:
    """In one line: what cannot be seen is a space."""
    seen = "".join(char if char.isprintable() else " " for char in text or "")
    return " ".join(seen.split()) or None


class About(Given):
    """What may be said of a medium."""

    title: Annotated[str | None, AfterValidator(_title)] = Field(
        None,
        min_length=1,
        max_length=LONGEST_TITLE,
        description="A name for people; the file's where there is none",
    )
    source: str | None = Field(
        None,
        pattern=SOURCE_PATTERN,
        description="What it belongs to, such as a show; found by in lists and searches",
    )
    priority: Priority = Field(Priority.NORMAL, description="Which of two that wait begins first")


class AboutNew(About):
    """What may be said of one that may have a name of the client's."""

    media_id: str | None = Field(
        None, alias="mediaId", pattern=MEDIA_PATTERN, description="Its id; made up where there is none"
    )


class _Address(BaseModel):
    media_url: Annotated[str, AfterValidator(checked_url)] = Field(
        alias="mediaURL",
        max_length=LONGEST_URL,
        description="http or https",
        json_schema_extra={"pattern": URL_PATTERN},
        examples=["https://example.org/talk.mp4"],
    )


class NewMedia(_Address, AboutNew):
    """A medium to be fetched from an address."""


class MediaUpdate(_Address, About):
    """The same, for one whose id the path has."""


class MediaQuery(Given):
    """Which media are wanted."""

    source: str | None = Field(None, pattern=SOURCE_PATTERN, description="Only those of this source")
    owner: str | None = Field(
        None, pattern=NAME_PATTERN, description="Only this token's; admin may ask for others'"
    )
    limit: int = Field(50, ge=1, le=MOST_MEDIA, description="Most in one answer")
    cursor: str | None = Field(
        None, pattern=MEDIA_PATTERN, description="What the last answer gave, for those after it"
    )


class MediaStatus(StrEnum):
    """How the newest version of a medium stands."""

    ACCEPTED = "accepted"  # its event is durable, and is no job yet
    QUEUED = "queued"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"  # an older version that was published stays so
    CANCELLED = "cancelled"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=AliasGenerator(serialization_alias=to_camel))


class RenditionDocument(_Document):
    """One way to play a medium."""

    name: str
    kind: str
    width: int
    height: int
    codecs: str
    bitrate: int = Field(description="Mean, bits a second")


class PublishedDocument(_Document):
    """What can be played."""

    version: int
    playlist: str = Field(description="Path of the master playlist")
    duration_s: float
    width: int = Field(description="Of the file, upright; 0 without pictures")
    height: int
    has_video: bool
    has_audio: bool
    content_type: str = Field(description="Of the file")
    sha256: str = Field(description="Of the file")
    tags: dict[str, str] = Field(description="What the file says of itself")
    renditions: list[RenditionDocument]
    loudness: dict[str, Any] | None = Field(
        description="What the file has (LUFS, dBTP), and what it was brought to"
    )
    transcript: dict[str, Any] | None = Field(description="What is said, in short; null where nothing is known")

    @classmethod
    def of(cls, media: Media) -> Self | None:
        """Of a medium; None where nothing of it is published."""
        said = media.published
        if said is None:
            return None
        renditions = [
            RenditionDocument(bitrate=each["mean_bps"], **{name: each[name] for name in _RENDITION})
            for each in said["renditions"]
        ]
        plain = {name: said[name] for name in _PUBLISHED}
        return cls(playlist=playlist_path(media.id), renditions=renditions, **plain)


_RENDITION = ("name", "kind", "width", "height", "codecs")
_PUBLISHED = (
    "version", "duration_s", "width", "height", "has_video", "has_audio", "content_type", "sha256", "tags",
    "loudness", "transcript",
)  # fmt: skip


class MediaSummary(_Document):
    """A medium in few words."""

    media_id: str
    title: str
    source: str
    owner: str
    version: int = Field(description="Counts what was asked for")
    job_id: str = Field(description="That works on this version")
    created: float
    updated: float
    published: PublishedDocument | None = Field(description="What can be played, of this or an older version")

    @classmethod
    def of(cls, media: Media, **more: Any) -> Self:
        """The document of a medium."""
        return cls(
            media_id=media.id, title=media.title, source=media.source, owner=media.owner, version=media.version,
            job_id=media.job, created=media.created, updated=media.updated,
            published=PublishedDocument.of(media), **more,
        )  # fmt: skip


class MediaDocument(MediaSummary):
    """A medium, and how the job stands that works on it."""

    status: MediaStatus
    progress: float = Field(description="Percent: the mean of the steps")
    error: str = Field(description="Why it failed; else empty")
    steps: list[StepDocument] = Field(description="A step that was skipped or failed says why")

    @classmethod
    def with_job(cls, media: Media, job: Job | None) -> Self:
        """The document of a medium and its job, if that is there yet."""
        if job is None:
            return cls.of(media, status=MediaStatus.ACCEPTED, progress=0.0, error="", steps=[])
        progress = 100.0 if job.status.value == MediaStatus.DONE else job.progress
        return cls.of(
            media, status=MediaStatus(job.status.value), progress=round(progress, 2), error=job.error,
            steps=step_documents(job),
        )  # fmt: skip


class MediaPage(_Document):
    """Some media, the newest first."""

    media: list[MediaSummary]
    cursor: str = Field(description="For the next page; empty when there is none")


class MediaRemoval(_Document):
    """A medium that is being deleted."""

    media_id: str
    job_id: str = Field(description="That deletes what was made of it")


class TicketDocument(_Document):
    """An address that can be played without a token."""

    path: str = Field(description="Of the master playlist; segments lie under it as well")
    expires: float = Field(description="Seconds since the epoch")
