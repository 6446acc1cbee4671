"""Fair shares: of each owner only so many jobs are under way at a time, the others wait their turn.

Steps are done in the order in which they were sent, so an owner of a thousand jobs stands in nobody's way with
more than its window. Whoever ends a job lets the owner's next one begin, so no service of its own is needed. Redis
holds who is under way and who is parked; both can be told from the jobs themselves, and ``rebuild`` does. Without
Redis every job begins at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from framemesh.steps.job import Job

log = logging.getLogger(__name__)

WINDOW = 64
"""Jobs of one owner and one priority that are under way at a time, where nothing else is set."""

# KEYS: under way, parked. ARGV: job, when it was made, window.
_ENTER = """
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1 then return 1 end
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
local window = tonumber(redis.call('GET', 'jobs:window') or ARGV[3])
if redis.call('SCARD', KEYS[1]) < window then redis.call('SADD', KEYS[1], ARGV[1]) return 1 end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return 0
"""
_LEAVE = """
redis.call('SREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
local window = tonumber(redis.call('GET', 'jobs:window') or ARGV[2])
local free = window - redis.call('SCARD', KEYS[1])
if free < 1 then return {} end
local found = {}
for _, job in ipairs(redis.call('ZRANGE', KEYS[2], 0, free - 1)) do
  redis.call('ZREM', KEYS[2], job)
  redis.call('SADD', KEYS[1], job)
  table.insert(found, job)
end
return found
"""


class Admission:
    """Who may begin."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._enter = redis.register_script(_ENTER)
        self._leave = redis.register_script(_LEAVE)

    async def enter(self, job: Job) -> bool:
        """Whether a new job may begin; else it is parked, and somebody who leaves will name it."""
        try:
            return bool(await self._enter(keys=_keys(job.owner, job.priority), args=[job.id, job.created, WINDOW]))
        except RedisError as error:
            log.warning("shares are not kept, Redis does not answer: %s", error)
            return True

    async def leave(self, job: Job) -> list[str]:
        """A job is over: those that may begin instead. Saying so again does no harm."""
        try:
            found: list[str] = await self._leave(keys=_keys(job.owner, job.priority), args=[job.id, WINDOW])
        except RedisError as error:
            log.warning("shares are not kept, Redis does not answer: %s", error)
            return []
        return found

    async def set_window(self, jobs: int) -> None:
        """How many of an owner's jobs may be under way at a time."""
        await self._redis.set("jobs:window", jobs)

    async def rebuild(self, under_way: Iterable[Job], parked: Iterable[Job]) -> list[str]:
        """Bring Redis in step with the jobs as they are; returns those that may begin."""
        begun: dict[tuple[str, str], set[str]] = {}
        waiting: dict[tuple[str, str], dict[str, float]] = {}
        for job in under_way:
            begun.setdefault((job.owner, str(job.priority)), set()).add(job.id)
        for job in parked:
            waiting.setdefault((job.owner, str(job.priority)), {})[job.id] = job.created
        stale = [key async for key in self._redis.scan_iter(match="jobs:share:*", count=500)]
        found: list[str] = []
        for share in begun.keys() | waiting.keys() | {_share(key) for key in stale}:
            found += await self._mend(share, begun.get(share, set()), waiting.get(share, {}))
        return found

    async def _mend(self, share: tuple[str, str], begun: set[str], waiting: dict[str, float]) -> list[str]:
        ours, theirs = _keys(*share)
        async with self._redis.pipeline() as pipeline:
            pipeline.delete(ours, theirs)
            if begun:
                pipeline.sadd(ours, *begun)
            if waiting:
                pipeline.zadd(theirs, waiting)
            await pipeline.execute()
        found: list[str] = await self._leave(keys=[ours, theirs], args=["", WINDOW])
        return found


def _keys(owner: str, priority: str) -> list[str]:
    return [f"jobs:share:{owner}:{priority}:begun", f"jobs:share:{owner}:{priority}:parked"]


def _share(key: str) -> tuple[str, str]:
    _, _, owner, priority, _ = key.split(":")
    return owner, priority
