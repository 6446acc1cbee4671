"""What a request is answered from: the jobs of the stream, those of the database, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web
from pydantic import BaseModel

from framemesh.analysis import PLAN_NAME
from framemesh.blobs import BlobStore
from framemesh.buckets import Bucket
from framemesh.bus import Bus
from framemesh.database.images import ImageTable
from framemesh.database.jobs import JobTable, Place
from framemesh.database.media import MediaTable
from framemesh.database.tokens import TokenTable
from framemesh.steps.client import Jobs
from framemesh.steps.job import Job, JobStatus
from framemesh.tokens import Scope, Token
from services.gateway.documents import matches
from services.gateway.problems import Problem
from services.gateway.rooms import Room
from services.gateway.settings import GatewaySettings

JOB_PATTERN = r"^[A-Za-z0-9_-]{1,120}$"


@dataclass
class Desk:
    """Connections of one gateway."""

    bus: Bus
    jobs: Jobs
    table: JobTable
    tokens: TokenTable
    blobs: BlobStore
    settings: GatewaySettings
    images: ImageTable
    bucket: Bucket
    media: MediaTable
    media_bucket: Bucket
    uploads: Room = field(init=False)
    streams: Room = field(init=False)

    def __post_init__(self) -> None:
        self.uploads = Room(self.settings.gateway_uploads, "uploads")
        self.streams = Room(self.settings.gateway_streams, "event streams")

    async def find(self, job_id: str) -> Job | None:
        """A job as it stands: the stream knows best, the database knows those that have been put away."""
        return await self.jobs.store.find(job_id) or await self.table.find(job_id)

    async def place(self, job: Job) -> Place:
        """Where a job stands in the queue."""
        return await self.table.place(job) if job.status is JobStatus.QUEUED else Place(0, 0)


@dataclass(frozen=True)
class Call:
    """One request of somebody who may make it."""

    desk: Desk
    request: web.Request
    token: Token
    secret: str
    query: BaseModel

    async def job(self) -> Job:
        """The job that the path names. Raises Problem, the same for one that is not there and for another's."""
        name = self.request.match_info["jobId"]
        job = await self.desk.find(name) if matches(JOB_PATTERN, name) else None
        if job is None or not self.may_see(job.owner):
            raise Problem(404, f"job {name[:120]}: there is none of that id: GET /jobs lists yours", field="jobId")
        return job

    async def analysis(self) -> Job:
        """The analysis that the path names. Raises Problem."""
        job = await self.job()
        if job.plan.name != PLAN_NAME:
            raise Problem(404, f"job {job.id} is no analysis but {job.plan.name}: see GET /jobs", field="jobId")
        return job

    def may_see(self, owner: str) -> bool:
        """Whether an owner's jobs are this token's business."""
        return owner == self.token.name or self.token.scope.covers(Scope.ADMIN)

    def whose(self, owner: str | None, what: str) -> str | None:
        """Whose to list where an owner was asked for, or none: None is everybody's. Raises Problem."""
        if self.may_see(owner or ""):
            return owner
        if owner is not None:
            raise Problem(403, f"owner: {owner}'s {what} are not yours: leave it out", field="owner")
        return self.token.name
