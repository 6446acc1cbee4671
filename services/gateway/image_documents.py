"""What the API takes and gives of pictures, collections and tasks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from framemesh.database.images import Collection, Image, Thumbnail
from framemesh.images import SIZES
from framemesh.steps.job import Job, JobStatus
from framemesh.steps.plan import NAME_PATTERN

MOST_LISTED = 1000
_GIVEN = ConfigDict(extra="forbid", frozen=True)
CollectionName = Annotated[str, Field(pattern=NAME_PATTERN, description="A collection that there is")]


class NewCollection(BaseModel):
    """A collection that is to be made."""

    model_config = _GIVEN

    name: str = Field(pattern=NAME_PATTERN, description="Letters, digits, - and _, 64 at most")


class NewImage(BaseModel):
    """A picture that is uploaded."""

    model_config = _GIVEN

    collection: CollectionName
    name: str | None = Field(None, max_length=1000, description="What it is called; else as its file is")
    later: bool = Field(False, alias="async", description="Answer at once, and process it in the background")


class NewImages(BaseModel):
    """Pictures that are uploaded together; each is called as its file is."""

    model_config = _GIVEN

    collection: CollectionName


def _size(size: int | None) -> int | None:
    if size is not None and size not in SIZES:
        raise ValueError(f"there are {', '.join(map(str, SIZES))}; leave it out for the picture itself")
    return size


class ImageQuery(BaseModel):
    """Which of a picture's files is wanted."""

    model_config = _GIVEN

    size: Annotated[int | None, AfterValidator(_size)] = Field(
        None, description="A thumbnail of that longer side, pixels", json_schema_extra={"enum": list(SIZES)}
    )
    format: Literal["webp", "jpeg"] | None = Field(
        None, description="Of a thumbnail; else WebP for who accepts image/webp, and JPEG"
    )


class ListQuery(BaseModel):
    """Which part of a list is wanted."""

    model_config = _GIVEN

    after: str = Field("", max_length=1000, pattern=r"^[^\x00]*$", description="The last name of the part before")
    limit: int = Field(100, ge=1, le=MOST_LISTED, description="Most in one answer")


class ForceQuery(BaseModel):
    """Whether a collection goes with what is in it."""

    model_config = _GIVEN

    force: bool = Field(False, description="Delete its images, too")


class StatisticsDocument(BaseModel):
    """How much a collection has."""

    model_config = ConfigDict(from_attributes=True)

    images: int
    bytes: int
    thumbnails: int
    thumbnail_bytes: int = Field(serialization_alias="thumbnailBytes")
    updated: float


class CollectionDocument(BaseModel):
    """A collection."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    owner: str = Field(description="Name of the token that made it")
    created: float
    statistics: StatisticsDocument

    @classmethod
    def of(cls, collection: Collection) -> Self:
        """The document of a collection."""
        return cls.model_validate(collection)


class CollectionPage(BaseModel):
    """Some collections, by name."""

    collections: list[CollectionDocument]


class ThumbnailDocument(BaseModel):
    """A thumbnail."""

    model_config = ConfigDict(from_attributes=True)

    size: int
    type: str
    width: int
    height: int
    bytes: int


class ImageDocument(BaseModel):
    """A picture; ``width`` and ``height`` are those of the upright one."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    collection: str
    owner: str = Field(description="Name of the token that uploaded it")
    type: str
    bytes: int
    width: int
    height: int
    animated: bool
    sha256: str
    created: float
    thumbnails: list[ThumbnailDocument] = Field(description="Empty until they are made")

    @classmethod
    def of(cls, image: Image, thumbnails: list[Thumbnail]) -> Self:
        """The document of a picture."""
        return cls.model_validate(vars(image) | {"thumbnails": thumbnails})


class ImagePage(BaseModel):
    """Some pictures of a collection, by name."""

    images: list[ImageDocument]


class TaskDocument(BaseModel):
    """How a task stands: the same as the job of that id."""

    task_id: str = Field(serialization_alias="taskId")
    task: str = Field(description="What kind it is: image, images, or another plan's name")
    owner: str
    status: JobStatus
    progress: float = Field(description="Percent")
    text: str = Field(description="What it is at")
    error: str = Field(description="Why it failed; else empty")
    created: float
    started: float | None
    ended: float | None
    result: Any = Field(
        description="What came out, once it is done: image and thumbnails; or done, failed and failures of many"
    )

    @classmethod
    def of(cls, job: Job) -> Self:
        """The document of a job."""
        return cls(
            task_id=job.id, task=job.plan.name, owner=job.owner, status=job.status,
            progress=round(100.0 if job.status is JobStatus.DONE else job.progress, 2), text=_text(job),
            error=job.error, created=job.created, started=job.started, ended=job.ended, result=job.output,
        )  # fmt: skip


def _text(job: Job) -> str:
    said = [state.text for state in job.steps.values() if state.text]
    return said[-1] if said else ""


class TaskPage(BaseModel):
    """Tasks that are not over, the newest first."""

    tasks: list[TaskDocument]
