"""What the results database holds. ``migrations`` makes it so; a test keeps the two in step."""

from __future__ import annotations

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from framemesh.steps.job import Priority

RANKS = {priority.value: rank for rank, priority in enumerate(Priority)}


class Base(DeclarativeBase):
    """All tables."""


class JobRow(Base):
    """One job. ``document`` is the whole of it, as on ``jobs.state.<id>``; the rest is what is searched for."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_created", "created", "id"),
        Index("ix_jobs_owner", "owner", "created", "id"),
        Index("ix_jobs_status", "status", "parent", "created", "id"),
        Index("ix_jobs_queue", "status", "parent", "rank", "arrived"),
        Index("ix_jobs_share", "status", "parent", "owner", "rank", "parked", "id"),
        Index("ix_jobs_ended", "put_away", "ended"),
        Index("ix_jobs_seq", "seq"),
    )

    id: Mapped[str] = mapped_column(String(120), primary_key=True)
    plan: Mapped[str] = mapped_column(String(64))
    owner: Mapped[str] = mapped_column(String(64))
    rank: Mapped[int] = mapped_column(Integer)
    """Of its priority; the smallest is the first."""
    status: Mapped[str] = mapped_column(String(16))
    parent: Mapped[str | None] = mapped_column(String(120))
    created: Mapped[float] = mapped_column(Float(53))
    started: Mapped[float | None] = mapped_column(Float(53))
    ended: Mapped[float | None] = mapped_column(Float(53))
    error: Mapped[str] = mapped_column(Text, default="")
    document: Mapped[str] = mapped_column(Text)
    seq: Mapped[int] = mapped_column(BigInteger)
    """Stream sequence of the state; a smaller one never replaces it."""
    arrived: Mapped[int] = mapped_column(BigInteger)
    """Stream sequence of the first state that was seen of it: its place among those that wait."""
    parked: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether it waits for its owner's other jobs."""
    put_away: Mapped[bool] = mapped_column(default=False)
    """Whether it lies here only, and no more in the stream."""


class Checkpoint(Base):
    """How far the stream has been read."""

    __tablename__ = "checkpoints"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)


class TokenRow(Base):
    """One bearer token of the API; of the token itself only its hash."""

    __tablename__ = "tokens"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[str] = mapped_column(String(16))
    created: Mapped[float] = mapped_column(Float(53))
    expires: Mapped[float | None] = mapped_column(Float(53))


class CollectionRow(Base):
    """A collection of pictures."""

    __tablename__ = "collections"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    created: Mapped[float] = mapped_column(Float(53))


class StatisticsRow(Base):
    """How much a collection has."""

    __tablename__ = "statistics"

    collection: Mapped[str] = mapped_column(ForeignKey("collections.name"), primary_key=True)
    images: Mapped[int] = mapped_column(Integer, default=0)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    thumbnails: Mapped[int] = mapped_column(Integer, default=0)
    thumbnail_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    updated: Mapped[float] = mapped_column(Float(53))


class ImageRow(Base):
    """A picture. Its name is a label only; ``key`` is where it lies."""

    __tablename__ = "images"
    __table_args__ = (UniqueConstraint("collection", "name"), Index("ix_images_optimized", "optimized", "id"))

    id: Mapped[str] = mapped_column(String(24), primary_key=True)
    collection: Mapped[str] = mapped_column(ForeignKey("collections.name"))
    name: Mapped[str] = mapped_column(String(200))
    owner: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(64))
    type: Mapped[str] = mapped_column(String(8))
    bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    animated: Mapped[bool] = mapped_column()
    sha256: Mapped[str] = mapped_column(String(64))
    created: Mapped[float] = mapped_column(Float(53))
    task: Mapped[str] = mapped_column(String(255), unique=True)
    """What made it, the same for every try of it."""
    optimized: Mapped[float | None] = mapped_column(Float(53))
    """When it was tried to make it smaller; once is enough."""


class ThumbnailRow(Base):
    """A thumbnail of a picture."""

    __tablename__ = "thumbnails"

    image: Mapped[str] = mapped_column(ForeignKey("images.id"), primary_key=True)
    size: Mapped[int] = mapped_column(Integer, primary_key=True)
    type: Mapped[str] = mapped_column(String(8), primary_key=True)
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    bytes: Mapped[int] = mapped_column(Integer)
    sha256: Mapped[str] = mapped_column(String(64))


class MediaRow(Base):
    """A medium: what was asked for last, and what is published of it."""

    __tablename__ = "media"
    __table_args__ = (
        Index("ix_media_created", "created", "id"),
        Index("ix_media_owner", "owner", "created", "id"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    title: Mapped[str] = mapped_column(String(200))
    source: Mapped[str] = mapped_column(String(64))
    version: Mapped[int] = mapped_column(Integer)
    """Counts what was asked for: what an older one makes is not published any more."""
    job: Mapped[str] = mapped_column(String(120))
    """That works on this version."""
    created: Mapped[float] = mapped_column(Float(53))
    updated: Mapped[float] = mapped_column(Float(53))
    deleted: Mapped[bool] = mapped_column(default=False)
    published: Mapped[str | None] = mapped_column(Text)
    """What can be played and read, as JSON."""


class MarkRow(Base):
    """What a service notes for itself: how far it is, or that it has done something once for all."""

    __tablename__ = "marks"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
