"""What the results database holds. ``migrations`` makes it so; a test keeps the two in step."""

from __future__ import annotations

from sqlalchemy import BigInteger, Float, Index, Integer, String, Text
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
        Index("ix_jobs_status", "status", "rank", "created", "id"),
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
