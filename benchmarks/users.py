"""Users of the API as careful clients are: they send again what may not have arrived, and poll or listen."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from framemesh.analysis import AnalysisStatus
from framemesh.database.engine import open_database
from framemesh.database.tokens import TokenTable
from framemesh.tokens import Scope

AGAIN_S = 0.5
"""After a connection that broke, or was refused."""
POLL_S = 4.0
T = TypeVar("T")
OVER = {AnalysisStatus.DONE, AnalysisStatus.FAILED, AnalysisStatus.CANCELLED}
_AWAY = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


@dataclass
class Sight:
    """What somebody saw of an analysis, in order and without repetitions."""

    statuses: list[AnalysisStatus] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def add(self, document: dict[str, Any]) -> bool:
        """Take in how it stands; whether it is over."""
        status = AnalysisStatus(document["status"])
        _add(self.statuses, status)
        if document["position"] is not None:
            _add(self.positions, int(document["position"]))
        return status in OVER


def _add(seen: list[T], now: T) -> None:
    if seen[-1:] != [now]:
        seen.append(now)


@dataclass
class User:
    """Somebody with a token."""

    session: aiohttp.ClientSession
    base: str
    name: str
    token: str
    refused: int = 0
    """How often an answer was 503, or none came."""

    async def submit(self, video: Path, key: str) -> str:
        """Upload a video, again and again with one key until it is heard; the job's id."""
        while True:
            form = aiohttp.FormData()
            form.add_field("video", video.read_bytes(), filename=video.name)
            answer = await self._ask("POST", "/analysis", data=form, headers={"Idempotency-Key": key})
            if answer is not None:
                return str(answer["jobId"])

    async def get(self, path: str) -> Any:
        """What a path gives, asked for until there is an answer."""
        while (answer := await self._ask("GET", path)) is None:
            pass
        return answer

    async def place(self, job_id: str) -> int:
        """Where an analysis stands in the queue, when that is known."""
        while (place := (await self.get(f"/analysis/status/{job_id}"))["position"]) is None:
            await asyncio.sleep(AGAIN_S)
        return int(place)

    async def poll(self, job_id: str) -> Sight:
        """Look at an analysis every few seconds until it is over."""
        sight = Sight()
        while not sight.add(await self.get(f"/analysis/status/{job_id}")):
            await asyncio.sleep(POLL_S)
        return sight

    async def listen(self, job_id: str) -> Sight:
        """Hear of an analysis until it is over; cut off, go on where it was."""
        sight, last = Sight(), ""
        while True:
            try:
                async for number, document in self._events(job_id, last):
                    last = number or last
                    if sight.add(document):
                        return sight
            except _AWAY:
                self.refused += 1
            await asyncio.sleep(AGAIN_S)

    async def _events(self, job_id: str, last: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        headers = self._headers | ({"Last-Event-ID": last} if last else {})
        url, timeout = f"{self.base}/analysis/{job_id}/events", aiohttp.ClientTimeout(total=None, sock_read=60)
        async with self.session.get(url, headers=headers, timeout=timeout) as answer:
            answer.raise_for_status()
            number = ""
            async for line in answer.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    number = value
                elif name == "data":
                    yield number, json.loads(value)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def _ask(self, method: str, path: str, headers: dict[str, str] | None = None, **values: Any) -> Any:
        """The answer; None, after a rest, when it is worth asking again."""
        try:
            async with self.session.request(
                method, self.base + path, headers=self._headers | (headers or {}), **values
            ) as answer:
                if answer.status != 503:
                    answer.raise_for_status()
                    return await answer.json()
                rest = float(answer.headers["Retry-After"])
        except aiohttp.ClientResponseError:
            raise
        except _AWAY:
            rest = AGAIN_S
        self.refused += 1
        await asyncio.sleep(rest)
        return None


@asynccontextmanager
async def users(base: str, database: str, count: int) -> AsyncIterator[list[User]]:
    """So many operators, each with a token of their own, of a gateway that listens or will soon."""
    engine = await open_database(database)
    tokens = TokenTable(engine)
    names = [f"user-{number}-{time.time_ns()}" for number in range(count)]
    made = {name: await tokens.create(name, Scope.OPERATOR) for name in names}
    await engine.dispose()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield [User(session, base, name, token) for name, token in made.items()]
