"""Who is alive: heartbeats, discovery and leases in Redis. Nothing here must outlive a Redis that is wiped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator

from pydantic import ValidationError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from framemesh.errors import FramemeshError
from framemesh.messages import Heartbeat
from framemesh.tasks import heed_cancellation

log = logging.getLogger(__name__)

CONNECTIONS = 16

_RENEW = """
local owner = redis.call('GET', KEYS[1])
if owner == false or owner == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
return 0
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


async def connect(host: str, port: int, *, patience: float = 30.0) -> Redis:
    """Connect to Redis; wait up to ``patience`` seconds for it, then say what is wrong."""
    pool = BlockingConnectionPool(  # who finds all connections in use waits for one
        max_connections=CONNECTIONS,
        timeout=5,
        host=host,
        port=port,
        decode_responses=True,
        socket_timeout=5,
        socket_connect_timeout=2,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=15,
    )
    redis = Redis.from_pool(pool)
    deadline = time.monotonic() + patience
    while True:
        try:
            await redis.ping()
        except RedisError as error:
            if time.monotonic() > deadline:
                await redis.aclose()
                raise FramemeshError(
                    f"redis_host, redis_port: no Redis answers at {host}:{port} ({error}); "
                    "start one with `framemesh up`, or set both to where yours listens"
                ) from error
            await asyncio.sleep(0.25)
        else:
            return redis


class Registry:
    """Heartbeats of this service and a view of the others."""

    def __init__(self, redis: Redis, ttl: float = 10.0) -> None:
        self.redis = redis
        self.ttl = ttl
        self._renew = redis.register_script(_RENEW)
        self._release = redis.register_script(_RELEASE)

    # -- heartbeats ---------------------------------------------------------------------------------

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Say once that a service is alive; it counts as dead after ``ttl`` seconds without another."""
        await self.redis.set(
            _key(heartbeat.kind, heartbeat.instance), heartbeat.model_dump_json(), px=_ms(self.ttl)
        )

    async def beating(self, heartbeat: Heartbeat) -> None:
        """Say it every third of ``ttl``, until cancelled; then take it back."""
        try:
            while True:
                with _tolerated("heartbeat"):
                    await self.beat(heartbeat)
                await asyncio.sleep(self.ttl / 3)
        finally:
            with contextlib.suppress(RedisError, TimeoutError):
                async with asyncio.timeout(1):
                    await self.redis.delete(_key(heartbeat.kind, heartbeat.instance))

    async def alive(self, kind: str = "*") -> list[Heartbeat]:
        """Services that are alive now, of one kind or of all, by kind and instance."""
        keys = [key async for key in self.redis.scan_iter(match=_key(kind, "*"), count=500)]
        values = await self.redis.mget(keys) if keys else []
        found = [beat for value in values if value and (beat := _parse(value))]
        return sorted(found, key=lambda beat: (beat.kind, beat.instance))

    # -- attempts -----------------------------------------------------------------------------------

    async def attempt(self, name: str, seconds: float) -> int:
        """Count an attempt at ``name``, forgotten ``seconds`` after the last; 0 while Redis is away."""
        key = f"attempt:{name}"
        try:
            async with self.redis.pipeline() as pipeline:
                pipeline.incr(key)
                pipeline.pexpire(key, _ms(seconds))
                counted, _ = await pipeline.execute()
        except RedisError as error:
            log.warning("attempts at %s are not counted: %s", name, error)
            return 0
        return int(counted)

    async def attempts(self, name: str) -> int:
        """How many attempts at ``name`` have been counted; 0 while Redis is away."""
        try:
            return int(await self.redis.get(f"attempt:{name}") or 0)
        except RedisError:
            return 0

    async def survived(self, name: str) -> None:
        """An attempt has come to an end, a good one or not: forget those at ``name``."""
        with _tolerated(f"attempts at {name}"):
            await self.redis.delete(f"attempt:{name}")

    # -- leases -------------------------------------------------------------------------------------

    async def acquire(self, name: str, owner: str) -> bool:
        """Take or renew the lease ``name`` for ``ttl`` seconds; False when somebody else holds it."""
        return bool(await self._renew(keys=[f"lease:{name}"], args=[owner, _ms(self.ttl)]))

    async def release(self, name: str, owner: str) -> None:
        """Give a lease back, if it is still ours."""
        with contextlib.suppress(RedisError):
            await self._release(keys=[f"lease:{name}"], args=[owner])

    async def leases(self, prefix: str) -> set[str]:
        """What follows ``prefix`` in the names of the leases that somebody holds."""
        begin = f"lease:{prefix}"
        return {str(key).removeprefix(begin) async for key in self.redis.scan_iter(match=f"{begin}*", count=500)}

    @contextlib.asynccontextmanager
    async def lease(self, name: str, owner: str) -> AsyncIterator[asyncio.Event]:
        """Wait for a lease, hold it for the length of the block, give it back.

        Yields an event that is set when the lease is lost to another owner. While Redis is away the lease is
        kept: whoever could take it needs Redis too.
        """
        while not await self._try(name, owner):
            heed_cancellation()
            await asyncio.sleep(self.ttl / 5)
        lost = asyncio.Event()
        renewing = asyncio.create_task(self._renewing(name, owner, lost))
        try:
            heed_cancellation()  # the client of Redis may have swallowed it
            yield lost
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])  # a renewal under way must not take the lease again
            await self.release(name, owner)

    async def _try(self, name: str, owner: str) -> bool:
        try:
            return await self.acquire(name, owner)
        except RedisError as error:
            log.warning("lease %s: %s", name, error)
            return False

    async def _renewing(self, name: str, owner: str, lost: asyncio.Event) -> None:
        while not lost.is_set():
            await asyncio.sleep(self.ttl / 3)
            with _tolerated(f"lease {name}"):
                if not await self.acquire(name, owner):
                    log.warning("lease %s was lost to another instance", name)
                    lost.set()


@contextlib.contextmanager
def _tolerated(what: str) -> Iterator[None]:
    """Redis may be away for a while: say so and go on."""
    try:
        yield
    except RedisError as error:
        log.warning("%s: Redis does not answer: %s", what, error)


def _key(kind: str, instance: str) -> str:
    return f"service:{kind}:{instance}"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _parse(value: str | bytes) -> Heartbeat | None:
    try:
        return Heartbeat.model_validate_json(value)
    except ValidationError:
        return None
