"""Jobs in the results database: written by ``services/jobs``, read by whoever lists and searches."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import aliased

from framemesh.database.tables import RANKS, Checkpoint, JobRow
from framemesh.errors import FramemeshError
from framemesh.steps.job import Job, JobStatus

CHECKPOINT = "jobs"
MOST_ROWS = 500
_CURSOR = TypeAdapter(
    tuple[Annotated[float, Field(allow_inf_nan=False)], Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,120}\z")]]
)
UNDER_WAY = (JobStatus.QUEUED.value, JobStatus.PROCESSING.value)
QUEUED = and_(JobRow.status == JobStatus.QUEUED.value, JobRow.parent.is_(None))
OPEN = and_(JobRow.status.in_(UNDER_WAY), JobRow.parent.is_(None))
"""Jobs of their own that wait, and those that are not over."""
_PRIORITIES = {rank: priority for priority, rank in RANKS.items()}

Share = tuple[str, str]
"""An owner and a priority."""
Sizes = tuple[int, int]
"""How many jobs of a share are under way, and how many are parked."""


@dataclass(frozen=True)
class Place:
    """Where a job stands among those that have not begun."""

    position: int | None
    """1 for the next; 0 for one that has begun; None for one that the database does not know yet."""
    waiting: int


@dataclass(frozen=True)
class Page:
    """Some jobs, the newest first, and where the next page begins; empty when there is none."""

    jobs: list[Job]
    cursor: str


class JobTable:
    """The jobs of a mesh, as they last stood."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
        self._insert: Any = dialect.insert

    # -- write --------------------------------------------------------------------------------------

    async def checkpoint(self) -> int:
        """Stream sequence up to which all is here."""
        async with self._engine.connect() as connection:
            found = await connection.scalar(select(Checkpoint.seq).where(Checkpoint.name == CHECKPOINT))
        return found or 0

    async def save(self, states: Sequence[tuple[int, Job]], checkpoint: int) -> None:
        """Take in states with their stream sequences; that, and how far it went, at once or not at all."""
        async with self._engine.begin() as connection:
            for start in range(0, len(states), MOST_ROWS):
                await self._upsert(connection, [_row(seq, job) for seq, job in states[start : start + MOST_ROWS]])
            wanted = self._insert(Checkpoint).values(name=CHECKPOINT, seq=checkpoint)
            await connection.execute(
                wanted.on_conflict_do_update(index_elements=["name"], set_={"seq": wanted.excluded.seq})
            )

    async def _upsert(self, connection: AsyncConnection, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        wanted = self._insert(JobRow)
        changed = {name: wanted.excluded[name] for name in rows[0] if name not in {"id", "arrived"}}
        newer = wanted.on_conflict_do_update(
            index_elements=["id"], set_=changed, where=JobRow.seq < wanted.excluded.seq
        )
        await connection.execute(newer, rows)  # compiled once, whatever their number

    async def begin_anew(self) -> None:
        """The stream counts from 1 again: so does the checkpoint, and no row stands in a newer state's way."""
        async with self._engine.begin() as connection:
            await connection.execute(update(JobRow).values(seq=0))
            await connection.execute(update(Checkpoint).where(Checkpoint.name == CHECKPOINT).values(seq=0))

    async def over_before(self, moment: float, limit: int = MOST_ROWS) -> list[tuple[str, int]]:
        """Jobs that ended before a time and lie in the stream still, with the sequence of their last state."""
        wanted = (
            select(JobRow.id, JobRow.seq).where(JobRow.put_away.is_(False), JobRow.ended < moment).limit(limit)
        )
        async with self._engine.connect() as connection:
            return [(str(row.id), int(row.seq)) for row in await connection.execute(wanted)]

    async def put_away(self, states: Sequence[tuple[str, int]]) -> None:
        """These, whose last states had these stream sequences, lie here only."""
        if not states:
            return
        async with self._engine.begin() as connection:
            last = tuple_(JobRow.id, JobRow.seq).in_(states)  # somebody may have asked for one again
            await connection.execute(update(JobRow).where(last).values(put_away=True))

    # -- read ---------------------------------------------------------------------------------------

    async def find(self, job_id: str) -> Job | None:
        """A job as it last stood."""
        async with self._engine.connect() as connection:
            document = await connection.scalar(select(JobRow.document).where(JobRow.id == job_id))
        return Job.model_validate_json(document) if document else None

    async def shares(self) -> dict[Share, Sizes]:
        """How many jobs of each owner and priority are under way, and how many are parked."""
        wanted = select(JobRow.owner, JobRow.rank, JobRow.parked, func.count()).where(OPEN)
        found: dict[Share, Sizes] = {}
        async with self._engine.connect() as connection:
            for owner, rank, parked, count in await connection.execute(
                wanted.group_by(JobRow.owner, JobRow.rank, JobRow.parked)
            ):
                share = owner, _PRIORITIES[rank]
                begun, waiting = found.get(share, (0, 0))
                found[share] = (begun, count) if parked else (count, waiting)
        return found

    async def share(self, share: Share) -> dict[str, bool]:
        """The jobs of an owner and a priority that are not over, and whether each is parked."""
        owner, priority = share
        own = (JobRow.owner == owner, JobRow.rank == RANKS[priority])
        wanted = select(JobRow.id, JobRow.parked).where(OPEN, *own)
        async with self._engine.connect() as connection:
            return {row.id: row.parked for row in await connection.execute(wanted)}

    async def resting(self, after: int, upto: int, limit: int = MOST_ROWS) -> list[tuple[int, Job]]:
        """Jobs whose last state has a stream sequence in ``(after, upto]``, the oldest first, with it.

        Those that are to be worked off, and the sub-jobs that are over.
        """
        wanted = (
            select(JobRow.seq, JobRow.document)
            .where(JobRow.seq > after, JobRow.seq <= upto, JobRow.parked.is_(False))
            .where(or_(JobRow.status.in_(UNDER_WAY), JobRow.parent.is_not(None)))
            .order_by(JobRow.seq)
            .limit(limit)
        )
        async with self._engine.connect() as connection:
            return [(row.seq, Job.model_validate_json(row.document)) for row in await connection.execute(wanted)]

    async def orphans(self, limit: int = MOST_ROWS) -> list[str]:
        """Sub-jobs that are not over although their job is."""
        parent = aliased(JobRow)
        wanted = (
            select(JobRow.id)
            .join(parent, parent.id == JobRow.parent)
            .where(JobRow.status.in_(UNDER_WAY), JobRow.parent.is_not(None), parent.status.not_in(UNDER_WAY))
            .limit(limit)
        )
        async with self._engine.connect() as connection:
            return list(await connection.scalars(wanted))

    async def page(
        self, *, status: str | None = None, owner: str | None = None, limit: int = 50, cursor: str = ""
    ) -> Page:
        """Jobs that nobody's step is, the newest first. Raises FramemeshError for a cursor that is none."""
        wanted = select(JobRow.document, JobRow.created, JobRow.id).where(JobRow.parent.is_(None))
        if status:
            wanted = wanted.where(JobRow.status == status)
        if owner:
            wanted = wanted.where(JobRow.owner == owner)
        if cursor:
            wanted = wanted.where(tuple_(JobRow.created, JobRow.id) < tuple_(*_parse_cursor(cursor)))
        wanted = wanted.order_by(JobRow.created.desc(), JobRow.id.desc()).limit(limit + 1)
        async with self._engine.connect() as connection:
            rows = list(await connection.execute(wanted))
        more = _cursor(rows[limit - 1].created, rows[limit - 1].id) if len(rows) > limit else ""
        return Page([Job.model_validate_json(row.document) for row in rows[:limit]], more)

    async def place(self, job: Job) -> Place:
        """How many wait, and how many of them come before this one.

        Among equals in the order in which the stream has them, as workers do: nobody comes in between later.
        """
        arrived = select(JobRow.arrived).where(JobRow.id == job.id).scalar_subquery()
        queued = select(func.count()).where(QUEUED)
        before, waiting = queued.where(_before(job, arrived)).scalar_subquery(), queued.scalar_subquery()
        async with self._engine.connect() as connection:
            row = (await connection.execute(select(waiting, arrived.is_not(None), before))).one()
        if job.status is not JobStatus.QUEUED:
            return Place(0, row[0])
        return Place(row[2] + 1, max(row[0], row[2] + 1)) if row[1] else Place(None, row[0] + 1)

    async def counts(self) -> dict[str, int]:
        """How many jobs there are in each status."""
        wanted = select(JobRow.status, func.count()).where(JobRow.parent.is_(None)).group_by(JobRow.status)
        async with self._engine.connect() as connection:
            return {str(status): int(count) for status, count in await connection.execute(wanted)}


def _row(seq: int, job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "plan": job.plan.name,
        "owner": job.owner,
        "rank": RANKS[job.priority.value],
        "status": job.status.value,
        "parent": job.parent.job if job.parent else None,
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "error": job.error,
        "document": job.model_dump_json(exclude_defaults=True),
        "seq": seq,
        "arrived": seq,
        "parked": job.parked and not job.status.over,
        "put_away": False,
    }


def _before(job: Job, arrived: ColumnElement[int]) -> ColumnElement[bool]:
    return tuple_(JobRow.rank, JobRow.arrived) < tuple_(RANKS[job.priority.value], arrived)


def _cursor(created: float, job_id: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([created, job_id]).encode()).decode().rstrip("=")


def _parse_cursor(text: str) -> tuple[float, str]:
    try:
        return _CURSOR.validate_json(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), strict=True)
    except ValueError:
        raise FramemeshError(f"cursor: {text[:40]!r} is none that was given: leave it out to begin anew") from None
