"""Heartbeats and leases in a real Redis."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from framemesh.embedded import HOST, free_port
from framemesh.errors import FramemeshError
from framemesh.messages import Heartbeat
from framemesh.registry import Registry
from framemesh.registry import connect as connect_redis
from tests.samples import OwnServer, until


def beat(kind: str, instance: str = "one", **values: Any) -> Heartbeat:
    return Heartbeat(kind=kind, instance=instance, host="here", pid=1, started=1.0, version="0", **values)


@pytest.fixture
def kind() -> str:
    return f"Kind{secrets.token_hex(4)}"


async def test_a_heartbeat_is_there_for_the_routing_ttl(registry: Registry, redis: Redis, kind: str) -> None:
    await registry.beat(beat(kind))
    assert 0 < await redis.pttl(f"service:{kind}:one") <= 1000
    assert await registry.alive(kind) == [beat(kind)]
    await asyncio.sleep(1.1)
    assert await registry.alive(kind) == []


async def test_a_service_that_beats_stays_alive_and_is_gone_at_once_when_it_ends(
    registry: Registry, kind: str
) -> None:
    beating = asyncio.create_task(registry.beating(beat(kind, model="yolox-nano")))
    for _ in range(8):
        await asyncio.sleep(0.2)
        assert [found.model for found in await registry.alive(kind)] == ["yolox-nano"]
    beating.cancel()
    await asyncio.wait([beating])
    assert await registry.alive(kind) == []


async def test_the_living_are_listed_by_kind_and_instance(registry: Registry, redis: Redis, kind: str) -> None:
    for instance in ("b", "a"):
        await registry.beat(beat(kind, instance))
    await registry.beat(beat(f"{kind}2", "c"))
    await redis.set(f"service:{kind}:broken", "{", ex=5)
    assert [found.instance for found in await registry.alive(kind)] == ["a", "b"]
    everybody = [found for found in await registry.alive() if found.kind.startswith(kind)]
    assert [found.instance for found in everybody] == ["a", "b", "c"]


async def test_one_owner_at_a_time_holds_a_lease(registry: Registry, source: str) -> None:
    assert await registry.acquire(source, "a")
    assert await registry.acquire(source, "a")
    assert not await registry.acquire(source, "b")
    await registry.release(source, "b")  # not b's to give
    assert not await registry.acquire(source, "b")
    await registry.release(source, "a")
    assert await registry.acquire(source, "b")


async def test_the_lease_of_a_dead_owner_is_taken_over(registry: Registry, source: str) -> None:
    assert await registry.acquire(source, "dead")
    begun = time.monotonic()
    async with asyncio.timeout(3), registry.lease(source, "heir") as lost:
        assert 0.5 < time.monotonic() - begun < 2
        assert not lost.is_set()
        await asyncio.sleep(1.5)  # it is renewed
        assert not await registry.acquire(source, "dead")
    assert await registry.acquire(source, "dead")


async def test_many_that_want_a_lease_hold_it_one_after_the_other(registry: Registry, source: str) -> None:
    holding: list[str] = []

    async def hold(owner: str) -> None:
        async with registry.lease(source, owner):
            holding.append(owner)
            assert holding == [owner]
            await asyncio.sleep(0.02)
            holding.remove(owner)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for i in range(5):
            group.create_task(hold(f"owner-{i}"))


async def test_a_stolen_lease_is_told_to_its_owner_and_left_to_the_thief(
    registry: Registry, redis: Redis, source: str
) -> None:
    async with registry.lease(source, "owner") as lost:
        await redis.set(f"lease:{source}", "thief", ex=5)
        await asyncio.wait_for(lost.wait(), 2)
    assert await redis.get(f"lease:{source}") == "thief"


async def test_heartbeats_and_leases_come_back_with_redis(own_redis: OwnServer, source: str, kind: str) -> None:
    redis = await connect_redis(HOST, int(own_redis.environment["redis_port"]))
    registry = Registry(redis, 1.0)
    beating = asyncio.create_task(registry.beating(beat(kind)))
    async with registry.lease(source, "owner") as lost:
        await own_redis.kill()
        await asyncio.sleep(1.5)
        assert not lost.is_set()  # whoever could take it needs Redis too
        await own_redis.start()
        await until(lambda: registry.alive(kind), within=3)
        await until(lambda: redis.get(f"lease:{source}"), within=3)
        assert not lost.is_set()
    beating.cancel()
    await asyncio.wait([beating])
    await redis.aclose()


async def test_a_redis_that_does_not_answer_is_named() -> None:
    port = free_port()
    with pytest.raises(FramemeshError, match=f"redis_host, redis_port: no Redis answers at {HOST}:{port}"):
        await connect_redis(HOST, port, patience=0.3)


async def test_attempts_are_counted_until_one_is_survived_or_they_are_old(registry: Registry, source: str) -> None:
    assert [await registry.attempt(source, 60) for _ in range(3)] == [1, 2, 3]
    await registry.survived(source)
    assert await registry.attempt(source, 0.1) == 1
    await asyncio.sleep(0.2)
    assert await registry.attempt(source, 60) == 1


async def test_without_redis_no_attempt_counts(own_redis: OwnServer) -> None:
    client = await connect_redis(own_redis.environment["redis_host"], int(own_redis.environment["redis_port"]))
    registry = Registry(client, 1.0)
    await own_redis.kill()
    assert await registry.attempt("anything", 60) == 0
    await registry.survived("anything")
    await client.aclose()
