"""The event store in Redis: sorted set ``events``, score = event time. It can be projected again from EVENTS."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable
from typing import Any, cast

from redis.asyncio import Redis

from framemesh.bus import Bus
from framemesh.messages import Event, Told
from framemesh.subjects import EVENTS

KEY = "events"
KEPT_SECONDS = float(EVENTS.config.max_age or 0)
"""As long as the stream that they can be projected from again."""
INDEX = "events:members"
"""Hash from event id to its member, so that a newer state replaces the older one."""

# One atomic step, so that a reader never sees an event twice or not at all. A state that comes late never
# replaces a later one: the number of transitions only grows.
_SAVE = """
local old = redis.call('HGET', KEYS[2], ARGV[1])
if old then
  if tonumber(string.match(old, '^(%d+) ')) > tonumber(ARGV[4]) then return 0 end
  redis.call('ZREM', KEYS[1], string.sub(old, string.find(old, ' ') + 1))
end
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', ARGV[5], 'BYSCORE', 'LIMIT', 0, 16)) do
  redis.call('ZREM', KEYS[1], member)
  redis.call('HDEL', KEYS[2], cjson.decode(member)['id'])
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4] .. ' ' .. ARGV[3])
return 1
"""


def member(event: Event) -> str:
    """The event as a member of the sorted set, the task under its key."""
    body: dict[str, Any] = {
        event.task_key: {
            "message": event.message.model_dump(mode="json"),
            "video_proofs": event.video_proofs,
            "image_proof_path": event.image_proof_path,
        }
    }
    body |= event.model_dump(mode="json", exclude={"message", "video_proofs", "image_proof_path"})
    return json.dumps(body, separators=(",", ":"))


def parse(text: str) -> Event:
    """The inverse of ``member``. Raises ValueError."""
    body = json.loads(text)
    task = body.pop(body["task_key"])
    return Event.model_validate(body | task)


class EventStore:
    """Events of all sources, by time."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._save = redis.register_script(_SAVE)

    async def save(self, event: Event) -> None:
        """Add an event, or replace an earlier state of it."""
        forgotten = time.time() - KEPT_SECONDS
        arguments: list[str | int | float] = [
            event.id,
            event.start,
            member(event),
            len(event.transitions),
            forgotten,
        ]
        await self._save(keys=[KEY, INDEX], args=arguments)

    async def between(self, since: float = 0.0, until: float = float("inf"), *, limit: int = 1000) -> list[Event]:
        """Events that began in a span of time (epoch seconds), oldest first; the newest ``limit`` of them."""
        asked = self._redis.zrevrangebyscore(KEY, until, since, start=0, num=limit)
        return [parse(text) for text in reversed(await cast("Awaitable[list[str]]", asked))]

    async def rebuild(self, bus: Bus) -> int:
        """Project EVENTS again, for a Redis that was wiped. Returns the number of messages read."""
        count = 0
        async for stored in bus.read(EVENTS.name, "events.*", 1, Told):
            if stored.message.event:
                await self.save(stored.message.event)
                count += 1
        return count
