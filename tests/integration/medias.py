"""What the tests of media share: a whole pipeline on real servers, with the speech written down by a stand-in."""

from __future__ import annotations

import contextlib
import io
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.registry import Registry
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.files import named_file
from framemesh.steps.functions import Function
from framemesh.tokens import Scope
from services.jobs.jobs import JobsService
from services.jobs.settings import JobsSettings
from services.media.settings import MediaSettings
from services.media.worker import Media
from tests.integration.gateways import Client, Site, serving
from tests.integration.stepping import Begin, at_work

LADDER = '[{"height": 360, "kbps": 600}, {"height": 240, "kbps": 300}]'


@dataclass
class Speech:
    """Writes down what a test says is said, and counts how often it was asked."""

    words: list[str] = field(default_factory=lambda: ["hello", "world"])
    asked: int = 0

    @property
    def function(self) -> Function:
        return Function("transcribing", self._transcribe)

    async def _transcribe(self, ctx: Context, given: Any) -> Any:
        await named_file(ctx, given, "audio")
        self.asked += 1
        whole = {"segments": [{"text": " ".join(self.words), "start": 0, "end": 1, "words": []}]}
        url = await ctx.put(json.dumps(whole).encode())
        return {"transcript": url, "text": " ".join(self.words), "words": len(self.words), "language": "en"}


@dataclass
class Studio:
    """All that a medium goes through, at work."""

    site: Site
    media: Media
    speech: Speech
    bus: Bus

    async def client(self, scope: Scope = Scope.OPERATOR) -> Client:
        return await self.site.client(f"ann-{secrets.token_hex(3)}", scope)


@asynccontextmanager
async def studio(
    bus: Bus, registry: Registry, servers: Mapping[str, str], folder: Path, begin: Begin,
    environment: pytest.MonkeyPatch,
) -> AsyncIterator[Studio]:  # fmt: skip
    """The gateway, the jobs service and the media service, in which steps are processes that read the settings."""
    database = f"sqlite:///{folder}/jobs.db"
    for name, value in (*servers.items(), ("jobs_database", database), ("media_ladder", LADDER)):
        environment.setenv(name, value)
    environment.setenv("ALLOW_PRIVATE_ADDRESSES", "true")
    environment.setenv("MEDIA_THREADS", "1")
    environment.setenv("MEDIA_PRESET", "ultrafast")
    given: dict[str, Any] = dict(servers)
    speech = Speech()
    for function in ("embed", "index", "unindex"):  # other tests of this session had them
        with contextlib.suppress(FramemeshError):
            await Jobs(bus, registry.redis).forget(function)
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(serving(bus, registry, servers, folder))
        jobs = JobsSettings(**given, instance="jobs", jobs_database=database)
        await stack.enter_async_context(at_work(JobsService(jobs, bus, registry)))
        settings = MediaSettings(**given, instance=f"media-{secrets.token_hex(3)}", jobs_database=database)
        media = await stack.enter_async_context(at_work(Media(settings, bus, registry)))
        await stack.enter_async_context(begin(speech.function))
        yield Studio(site, media, speech, bus)


def form(path: Path, **texts: str) -> aiohttp.FormData:
    """A file as it is uploaded."""
    made = aiohttp.FormData(texts)
    made.add_field(
        "file", io.BytesIO(path.read_bytes()), filename=path.name, content_type="application/octet-stream"
    )
    return made
