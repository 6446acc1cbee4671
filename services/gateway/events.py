"""Server-sent events: a job's document each time that it has changed, until the job is over.

An event's id is the stream sequence of the job's state. Who was cut off says with ``Last-Event-ID`` what was seen
last: the newest document follows at once where there is a newer one. Documents in between are left out, as they
are for a slow client: each says all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from framemesh import subjects
from framemesh.analysis import AnalysisDocument
from framemesh.bus import BusError
from framemesh.steps.job import Job
from services.gateway.desk import Call, Desk
from services.gateway.problems import Problem

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
LOOK_S = 5.0
"""An update may be missed while NATS is away."""
QUEUE_S = 2.0
"""How often the place of a job that waits is looked up."""
AGAIN_MS = 2000
"""After which a browser that was cut off comes again."""
SEEN_HEADER = "Last-Event-ID"
_HEADERS = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}


Describe = Callable[[Job | None], Awaitable[BaseModel | None]]
"""What is said of a job; of one that is not there (yet), None where it never will be."""


async def stream(call: Call) -> web.StreamResponse:
    """Answer with the events of an analysis."""
    job = await call.analysis()

    async def describe(job: Job | None) -> BaseModel | None:
        return AnalysisDocument.of(job, await call.desk.place(job)) if job else None

    return await follow(call, job.id, describe)


async def follow(call: Call, job_id: str, describe: Describe) -> web.StreamResponse:
    """Answer with what is said of a job, each time that it has changed. Raises Problem."""
    seen = _last_seen(call.request)
    with call.desk.streams.entered(call.token.name):
        async with _changes(call.desk, job_id) as changed:
            feed = _Feed(call, job_id, changed, describe)
            if seen is not None and await feed.is_over(seen):
                return web.Response(status=204)  # an EventSource that gets this does not come again
            # What a client has that comes again is known by its number only.
            feed.seq = seen or 0
            await feed.run()
            return feed.response


def _last_seen(request: web.Request) -> int | None:
    text = request.headers.get(SEEN_HEADER)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise Problem(400, f"{SEEN_HEADER}: want the id of an event, a number", field=SEEN_HEADER)
    return int(text)


@asynccontextmanager
async def _changes(desk: Desk, job_id: str) -> AsyncIterator[asyncio.Event]:
    changed = asyncio.Event()

    async def on_update(_: Msg) -> None:
        changed.set()

    subscription = await desk.bus.client.subscribe(subjects.job_updates(job_id), cb=on_update)
    try:
        yield changed
    finally:
        await subscription.unsubscribe()


class _Feed:
    """Sends what changes to one client."""

    def __init__(self, call: Call, job_id: str, changed: asyncio.Event, describe: Describe) -> None:
        self.response = web.StreamResponse(headers=_HEADERS)
        self.seq = 0
        self._call, self._desk, self._job_id, self._changed = call, call.desk, job_id, changed
        self._describe = describe
        self._sent: str | None = None
        self._waits = True
        self._wrote = time.monotonic()

    async def is_over(self, seen: int) -> bool:
        """Whether nothing will follow what was seen."""
        known = await self._desk.jobs.store.look(self._job_id)
        return known is None or (known.seq <= seen and known.job.status.over)

    async def run(self) -> None:
        """Send until the job is over, the client has gone, or its token is good no more."""
        await self.response.prepare(self._call.request)
        with contextlib.suppress(ConnectionResetError):
            try:
                await self._send_all()
            except (BusError, NatsError, SQLAlchemyError) as error:  # too late to say so: the client comes again
                log.warning("events of %s end: %s", self._job_id, str(error).partition("\n")[0])

    async def _send_all(self) -> None:
        await self._write(f"retry: {AGAIN_MS}\n\n")
        while await self._look():
            await self._wait(QUEUE_S if self._waits else LOOK_S)
            if time.monotonic() - self._wrote >= HEARTBEAT_S:
                if not await self._may_go_on():
                    return
                await self._write(": still there\n\n")

    async def _look(self) -> bool:
        """Send the job on where it has changed; whether more is to come."""
        self._changed.clear()
        known = await self._desk.jobs.store.look(self._job_id)
        job = known.job if known else await self._desk.table.find(self._job_id)  # put away: it is over
        document = await self._describe(job)
        if document is None:
            return False
        await self._send(document, known.seq if known else None)
        self._waits = job is None or job.started is None
        return job is None or not job.status.over

    async def _send(self, document: BaseModel, seq: int | None) -> None:
        text = document.model_dump_json(by_alias=True)
        known = self._sent is None and seq is not None and seq <= self.seq
        if not known and text != self._sent:
            number = f"id: {seq}\n" if seq else ""
            await self._write(f"{number}data: {text}\n\n")
        self._sent, self.seq = text, seq or self.seq

    async def _write(self, text: str) -> None:
        await self.response.write(text.encode())
        self._wrote = time.monotonic()

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.01, min(seconds, self._wrote + HEARTBEAT_S - time.monotonic()))):
                await self._changed.wait()

    async def _may_go_on(self) -> bool:
        return await self._desk.tokens.find(self._call.secret) is not None
