"""Fair shares: of each owner only so many jobs are under way at a time, the others wait their turn.

Steps are done in the order in which they were sent, so an owner of a thousand jobs stands in nobody's way with
more than its window. Whoever ends a job lets the owner's next one begin, so no service of its own is needed. Redis
holds who is under way and who is parked; both can be told from the jobs themselves, and ``rebuild`` does. Without
Redis every job begins at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from framemesh.steps.job import Job
from framemesh.tasks import Together

log = logging.getLogger(__name__)

WINDOW = 64
"""Jobs of one owner and one priority that are under way at a time, where nothing else is set."""

# Both take several jobs at once. KEYS: of each the set of those under way and that of those parked. ARGV: the
# window, then of each its id and when it was made. The first says how many places there were; 0: it is parked.
_ENTER = """
local window, begun = tonumber(redis.call('GET', 'jobs:window') or ARGV[1]), {}
for at = 1, #KEYS, 2 do
  local ours, parked, job, made = KEYS[at], KEYS[at + 1], ARGV[at + 1], ARGV[at + 2]
  local may = redis.call('SISMEMBER', ours, job)
  if may == 0 and not redis.call('ZSCORE', parked, job) then
    local free = window - redis.call('SCARD', ours)
    if free > 0 then
      redis.call('SADD', ours, job)
      may = free
    else
      redis.call('ZADD', parked, made, job)
    end
  end
  table.insert(begun, may)
end
return begun
"""
_LEAVE = """
local window, found = tonumber(redis.call('GET', 'jobs:window') or ARGV[1]), {}
for at = 1, #KEYS, 2 do
  local ours, parked, next = KEYS[at], KEYS[at + 1], {}
  redis.call('SREM', ours, ARGV[at + 1])
  redis.call('ZREM', parked, ARGV[at + 1])
  local free = window - redis.call('SCARD', ours)
  if free > 0 then
    for _, job in ipairs(redis.call('ZRANGE', parked, 0, free - 1)) do
      redis.call('ZREM', parked, job)
      redis.call('SADD', ours, job)
      table.insert(next, job)
    end
  end
  table.insert(found, next)
end
return found
"""

HEARD_S = 1.0
"""For how long an answer is believed by those who do not wait for the next."""


Member = tuple[str, str, str, float]
"""Of a job its owner, its priority, its id, and when it was made."""


class Admission:
    """Who may begin."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._enter = Together(_scripted(redis, _ENTER))
        self._leave = Together(_scripted(redis, _LEAVE))
        self._heard: tuple[tuple[str, str], int, float] | None = None
        """Of the share last asked of, how many more may begin, and when that was heard."""

    async def enter(self, job: Job) -> bool:
        """Whether a new job may begin; else it is parked, and somebody who leaves will name it."""
        try:
            free: int = await self._enter(_member(job))
        except RedisError as error:
            log.warning("shares are not kept, Redis does not answer: %s", error)
            return True
        self._heard = (job.owner, str(job.priority)), free, time.monotonic()
        return free > 0

    def take_room(self, job: Job) -> bool:
        """Whether a new job may surely begin, by what was heard a moment ago; ``enter`` is still to be told.

        Each answer is good for one, so many at once wait for theirs.
        """
        heard, self._heard = self._heard, None
        if heard is None or heard[0] != (job.owner, str(job.priority)) or self._enter.busy:
            return False
        return heard[1] > WINDOW // 2 and time.monotonic() - heard[2] < HEARD_S

    async def leave(self, job: Job) -> list[str]:
        """A job is over: those that may begin instead. Saying so again does no harm."""
        try:
            found: list[str] = await self._leave(_member(job))
        except RedisError as error:
            log.warning("shares are not kept, Redis does not answer: %s", error)
            return []
        return found

    async def set_window(self, jobs: int) -> None:
        """How many of an owner's jobs may be under way at a time."""
        await self._redis.set("jobs:window", jobs)

    async def begun(self, job: Job) -> None:
        """This job is under way, whatever is known of it."""
        ours, parked = _keys(job.owner, str(job.priority))
        async with self._redis.pipeline() as pipeline:
            pipeline.zrem(parked, job.id)
            pipeline.sadd(ours, job.id)
            await pipeline.execute()

    async def forget(self, share: tuple[str, str], job_id: str) -> list[str]:
        """A job is over, or there is none; those that may begin instead."""
        found: list[str] = await self._leave((*share, job_id, 0.0))
        return found

    async def sizes(self) -> dict[tuple[str, str], tuple[int, int]]:
        """How many jobs of each owner and priority are known to be under way, and how many to be parked."""
        shares = list({_share(key) async for key in self._redis.scan_iter(match="jobs:share:*", count=1000)})
        async with self._redis.pipeline(transaction=False) as pipeline:
            for share in shares:
                ours, parked = _keys(*share)
                pipeline.scard(ours)
                pipeline.zcard(parked)
            counts = await pipeline.execute()
        return dict(zip(shares, zip(counts[::2], counts[1::2], strict=True), strict=True))

    async def share(self, share: tuple[str, str]) -> dict[str, bool]:
        """The jobs of an owner and a priority that are known, and whether each is parked."""
        ours, parked = _keys(*share)
        async with self._redis.pipeline() as pipeline:
            pipeline.smembers(ours)
            pipeline.zrange(parked, 0, -1)
            begun, waiting = await pipeline.execute()
        return dict.fromkeys(begun, False) | dict.fromkeys(waiting, True)


def _member(job: Job) -> Member:
    return job.owner, str(job.priority), job.id, job.created


def _scripted(redis: Redis, lua: str) -> Callable[[list[Member]], Awaitable[list[Any]]]:
    script = redis.register_script(lua)

    async def run(members: list[Member]) -> list[Any]:
        keys = [key for owner, priority, _, _ in members for key in _keys(owner, priority)]
        found: list[Any] = await script(
            keys, [WINDOW, *(part for *_, job, made in members for part in (job, made))]
        )
        return found

    return run


def _keys(owner: str, priority: str) -> list[str]:
    return [f"jobs:share:{owner}:{priority}:begun", f"jobs:share:{owner}:{priority}:parked"]


def _share(key: str) -> tuple[str, str]:
    _, _, owner, priority, _ = key.split(":")
    return owner, priority
