"""What the tests of the gateway share: one at work, clients with tokens, and a pipeline of trivial steps."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession

from framemesh import subjects
from framemesh.analysis import AnalysisStatus, analysis_plan
from framemesh.bus import Bus
from framemesh.embedded import free_port
from framemesh.registry import Registry
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.functions import Function, Skip, StepFailed
from framemesh.steps.job import Job
from framemesh.tokens import Scope
from services.gateway.gateway import Gateway
from services.gateway.settings import GatewaySettings
from services.jobs.jobs import JobsService
from services.jobs.settings import JobsSettings
from tests.integration.stepping import Begin, at_work

STEPS = list(analysis_plan().steps)
URL = "https://example.org/talk.mp4"


@dataclass
class Pipeline:
    """Functions of the pipeline's names that do next to nothing, and what a test makes of them."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Open, but where a test closes it: downloads wait for it."""
    failing: set[str] = field(default_factory=set)
    skipping: set[str] = field(default_factory=set)
    given: dict[str, Any] = field(default_factory=dict)
    """What each step was given last."""

    def __post_init__(self) -> None:
        self.gate.set()

    def functions(self) -> list[Function]:
        return [Function(name, self._body(name)) for name in STEPS]

    def _body(self, name: str) -> Callable[[Context, Any], Any]:
        async def body(ctx: Context, given: Any) -> Any:
            self.given[name] = given
            ctx.log.info("%s has begun", name)
            if name == AnalysisStatus.DOWNLOADING_VIDEO:
                await ctx.progress(25, "waiting")
                await self.gate.wait()
            if name in self.failing:
                raise StepFailed(f"{name} will never work", retry=False)
            if name in self.skipping:
                raise Skip(f"nothing for {name}")
            return {"of": name, "video": "v", "audio": "a", "transcript": "t"}

        return body


@dataclass
class Client:
    """Somebody with a token, or without."""

    session: ClientSession
    base: str
    token: str = ""
    name: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    async def ask(self, method: str, path: str, *, headers: dict[str, str] | None = None, **values: Any) -> Answer:
        """Send a request; problems are checked to be such."""
        url = self.base + path
        async with self.session.request(method, url, headers=self.headers | (headers or {}), **values) as answer:
            return await Answer.of(answer)

    async def get(self, path: str, **values: Any) -> Answer:
        return await self.ask("GET", path, **values)

    async def post(self, path: str, **values: Any) -> Answer:
        return await self.ask("POST", path, **values)

    async def submit(self, **values: Any) -> str:
        """Submit a video by its address; the job's id."""
        answer = await self.post("/analysis", json={"videoURL": URL} | values)
        assert answer.status == 202, answer
        return str(answer.body["jobId"])

    async def ended(self, job_id: str, within: float = 20) -> dict[str, Any]:
        """The document when the job is over."""
        async with asyncio.timeout(within):
            while True:
                answer = await self.get(f"/analysis/{job_id}")
                assert answer.status == 200, answer
                if answer.body["status"] in {"done", "failed", "cancelled"}:
                    return dict(answer.body)
                await asyncio.sleep(0.05)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: Any

    @classmethod
    async def of(cls, answer: ClientResponse) -> Answer:
        data = await answer.read()
        body: Any = json.loads(data) if data else None
        found = cls(answer.status, dict(answer.headers), body)
        assert found.headers.get("X-Content-Type-Options") == "nosniff", found
        assert not any(name.lower().startswith("access-control") for name in found.headers)
        if found.status >= 400 and answer.method != "HEAD":
            assert found.headers["Content-Type"].startswith("application/problem+json"), found
            assert (
                {"type", "title", "status", "detail"}
                <= set(body)
                <= {"type", "title", "status", "detail", "field"}
            )
            assert body["status"] == found.status
            assert "\n" not in body["detail"]
        return found


@dataclass(frozen=True)
class Sent:
    """A server-sent event."""

    id: int | None
    document: dict[str, Any]


async def events(client: Client, job_id: str, last: int | str | None = None) -> AsyncGenerator[Sent]:
    """The events of a job as a browser reads them."""
    headers = client.headers | ({} if last is None else {"Last-Event-ID": str(last)})
    async with client.session.get(f"{client.base}/analysis/{job_id}/events", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["Content-Type"] == "text/event-stream"
        text = ""
        async for data in answer.content.iter_any():
            text += data.decode()
            *blocks, text = text.split("\n\n")
            for block in blocks:
                if found := re.fullmatch(r"(?:id: (\d+)\n)?data: (.*)", block):
                    yield Sent(int(found[1]) if found[1] else None, json.loads(found[2]))
                else:
                    assert block == "retry: 2000" or block.startswith(":"), block


@dataclass
class Site:
    """A gateway at work."""

    gateway: Gateway
    session: ClientSession
    base: str

    async def client(self, name: str, scope: Scope, lasts: float | None = None) -> Client:
        """Somebody with a token of their own."""
        token = await self.gateway.desk.tokens.create(name, scope, lasts)
        return Client(self.session, self.base, token, name)

    @property
    def nobody(self) -> Client:
        return Client(self.session, self.base)


@asynccontextmanager
async def serving(bus: Bus, registry: Registry, servers: Mapping[str, str], folder: Path) -> AsyncIterator[Site]:
    """A gateway that takes two uploads of 64 MiB at a time."""
    settings = GatewaySettings(
        **servers,  # type: ignore[arg-type]
        instance="gateway",
        gateway_port=free_port(),
        gateway_upload_mb=64,
        gateway_uploads=2,
        jobs_database=f"sqlite:///{folder}/jobs.db",
    )
    gateway = Gateway(settings, bus, registry)
    try:
        await gateway.prepare()
        async with ClientSession() as session:
            yield Site(gateway, session, f"http://127.0.0.1:{settings.gateway_port}")
    finally:
        await gateway.finish()


@pytest.fixture
async def site(bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path) -> AsyncIterator[Site]:
    """A gateway for a test that imports this."""
    async with serving(bus, registry, servers, tmp_path) as made:
        yield made


@asynccontextmanager
async def projecting(
    site: Site, bus: Bus, registry: Registry, servers: Mapping[str, str]
) -> AsyncIterator[JobsService]:
    """The jobs service on the gateway's database."""
    database = site.gateway.settings.jobs_database
    settings = JobsSettings(**servers, instance="jobs", jobs_database=database)  # type: ignore[arg-type]
    async with at_work(JobsService(settings, bus, registry)) as made:
        yield made


@pytest.fixture
async def ann(site: Site) -> Client:
    """An operator."""
    return await site.client(f"ann-{secrets.token_hex(3)}", Scope.OPERATOR)


@pytest.fixture
async def bob(site: Site) -> Client:
    """Another operator."""
    return await site.client(f"bob-{secrets.token_hex(3)}", Scope.OPERATOR)


@asynccontextmanager
async def working(begin: Begin, jobs: Jobs, bus: Bus) -> AsyncIterator[Pipeline]:
    """A worker that has the pipeline's functions; what a test leaves is cancelled."""
    made = Pipeline()
    async with begin(*made.functions()):
        yield made
        made.gate.set()
        async for stored in bus.read(subjects.JOBS.name, subjects.job_state("*"), 1, Job):
            if stored.message.plan.name == "analysis" and not stored.message.status.over:
                await jobs.cancel(stored.message.id)
