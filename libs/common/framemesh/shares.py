"""The sources of a model, shared among its replicas: all tasks of a source go to one of them, as long as it lives.

A model that follows things over frames must see all frames of a source. Each source has a lease in Redis; a
replica takes free ones up to its fair share, and gives back what is more when there are more replicas than before.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable

from nats.errors import Error as NatsError
from redis.exceptions import RedisError

from framemesh.bus import Bus
from framemesh.errors import StartAgain
from framemesh.messages import Medium
from framemesh.registry import Registry
from framemesh.subjects import Stream, task_streams, worker_consumers

log = logging.getLogger(__name__)

FOLLOWS = "follows_sources"
"""In the details of a worker's heartbeat."""
LOOK_SECONDS = 0.5
IDLE_SECONDS = 600.0
"""A source of which no task was seen to wait for so long is given back; those of a slow one rarely wait."""


class Shares:
    """The sources that one replica of ``kind`` works on."""

    def __init__(self, bus: Bus, registry: Registry, kind: str, medium: Medium, instance: str) -> None:
        self._bus, self._registry = bus, registry
        self._kind, self._medium, self._instance = kind, medium, instance
        self._working: dict[str, asyncio.Task[None]] = {}
        self._busy: dict[str, float] = {}

    @property
    def sources(self) -> set[str]:
        """Those that are worked on here."""
        return set(self._working)

    async def run(self, work: Callable[[str], Awaitable[None]]) -> None:
        """Run ``work`` for each source that falls to this replica, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    for source in await self._look():
                        self._working[source] = group.create_task(self._hold(source, work))
                except (RedisError, NatsError, TimeoutError) as error:  # others say so too; what is held is held
                    log.debug("shares of %s: %s", self._kind, error)
                await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1))  # noqa: S311 - not all at once

    async def _look(self) -> list[str]:
        """Give back what falls to others; returns what falls to us and nobody has."""
        waiting, leased = await self._waiting(), await self._registry.leases(self._lease(""))
        replicas = sorted({beat.instance for beat in await self._registry.alive(self._kind)} | {self._instance})
        fair = math.ceil(len(waiting | leased) / len(replicas))
        self._working = {source: task for source, task in self._working.items() if not task.done()}
        kept = self._keep(waiting, fair)
        free = sorted(waiting - leased - self.sources)
        begin = replicas.index(self._instance) * len(free) // len(replicas)  # where no other replica begins
        return (free[begin:] + free[:begin])[: max(0, fair - kept)]

    def _keep(self, waiting: set[str], most: int) -> int:
        """Let go of the sources that have been idle, and of more than ``most``; returns how many are left."""
        now = time.monotonic()
        self._busy = {
            source: now if source in waiting else self._busy.get(source, now) for source in self._working
        }
        held = sorted(source for source, task in self._working.items() if not task.cancelling())
        idle = [source for source in held if now - self._busy[source] > IDLE_SECONDS]
        given = (idle + [source for source in held if source not in idle])[: max(len(idle), len(held) - most)]
        for source in given:
            self._working[source].cancel()
        return len(held) - len(given)

    async def _waiting(self) -> set[str]:
        """Sources that have tasks."""
        found: set[str] = set()
        for stream in task_streams(self._kind, self._medium):
            info = await self._bus.stream_info(stream.name, f"{stream.name}.*")
            found |= {subject.partition(".")[2] for subject in (info.state.subjects if info else None) or {}}
        return found

    async def _hold(self, source: str, work: Callable[[str], Awaitable[None]]) -> None:
        lease = self._lease(source)
        try:
            if not await self._registry.acquire(lease, self._instance):
                return
        except RedisError:
            return
        async with self._registry.lease(lease, self._instance) as lost:
            log.info("works on %s", source)
            working, watching = asyncio.ensure_future(work(source)), asyncio.create_task(lost.wait())
            try:
                await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    await working
            finally:
                working.cancel()
                watching.cancel()
                await asyncio.wait([working])
                log.info("leaves %s", source)

    def _lease(self, source: str) -> str:
        return f"tasks-{self._kind}-{source}"


async def make_way(bus: Bus, registry: Registry, kind: str, medium: Medium, *, follows: bool) -> None:
    """Delete the consumers that workers of ``kind`` had when they did not follow sources yet, or still did.

    The consumers of a queue may not overlap. As long as a worker of the other way lives, it is waited for.
    """
    waits = False
    while found := await _in_the_way(bus, kind, medium, follows=follows):
        others = await _of_the_other_way(registry, kind, follows=follows)
        if not others:
            for stream, name in found:
                log.info("nobody uses the consumer %s of %s any more: it is deleted", name, stream.name)
                await bus.delete_consumer(stream, name)
            return
        if not waits:
            waits = True
            log.warning(
                "%s waits for %s to end, where follows_sources is %s: all workers of a model must have it alike",
                kind, ", ".join(others), not follows,
            )  # fmt: skip
        await asyncio.sleep(LOOK_SECONDS)


async def _in_the_way(bus: Bus, kind: str, medium: Medium, *, follows: bool) -> list[tuple[Stream, str]]:
    found: list[tuple[Stream, str]] = []
    for shared in worker_consumers(kind, medium):
        names = [str(info.name) for info in await bus.consumers(shared.stream)]
        of_sources = [name for name in names if name.startswith(f"{shared.name}-")]
        in_the_way = [name for name in names if name == shared.name] if follows else of_sources
        found += [(shared.stream, name) for name in in_the_way]
    return found


async def _of_the_other_way(registry: Registry, kind: str, *, follows: bool) -> list[str]:
    """Instances that live; who says nothing of it does not follow."""
    try:
        alive = await registry.alive(kind)
    except RedisError as error:
        raise StartAgain(
            f"{kind}: nobody knows which of its workers live, as Redis does not answer: {error}"
        ) from error
    return [beat.instance for beat in alive if bool(beat.detail.get(FOLLOWS)) is not follows]
