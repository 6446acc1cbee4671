"""Replicas that share sources: each source has one of them, whoever comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.messages import Heartbeat, Medium
from framemesh.registry import Registry
from framemesh.shares import Shares
from tests.samples import task, until

TTL = 1.0


class Replica:
    """One of them, with what it works on."""

    def __init__(self, bus: Bus, redis: Redis, kind: str, name: str) -> None:
        self._registry = Registry(redis, TTL)
        self._beat = Heartbeat(kind=kind, instance=name, host="here", pid=1, started=1.0, version="0")
        self.shares = Shares(bus, self._registry, kind, Medium.FRAME, name)
        self.sources: set[str] = set()
        self._running: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self._registry.beat(self._beat)
        self._running = [
            asyncio.create_task(self._registry.beating(self._beat)),
            asyncio.create_task(self.shares.run(self._work)),
        ]

    async def _work(self, source: str) -> None:
        self.sources.add(source)
        try:
            await asyncio.Event().wait()
        finally:
            self.sources.discard(source)

    async def stop(self) -> None:
        for each in self._running:
            each.cancel()
        if self._running:
            await asyncio.wait(self._running)


@asynccontextmanager
async def replicas(bus: Bus, redis: Redis, kind: str, count: int) -> AsyncIterator[list[Replica]]:
    made = [Replica(bus, redis, kind, f"replica-{number}") for number in range(count)]
    try:
        yield made
    finally:
        for each in made:
            await each.stop()


async def fill(bus: Bus, model: str, sources: list[str]) -> None:
    """A task for each source that nobody takes."""
    await bus.declare(*subjects.task_streams(model))
    for source in sources:
        made = task(source, model)
        await bus.publish(subjects.tasks(model, source, lossless=True), made, msg_id=made.task_key)


async def shared(made: list[Replica], sources: list[str], *, most: int, within: float = 20) -> None:
    async def fair() -> bool:
        held = [each.sources for each in made]
        together = [source for mine in held for source in mine]
        assert len(together) == len(set(together)), held
        return set(together) == set(sources) and max(map(len, held)) <= most

    await until(fair, within=within)


async def test_sources_are_shared_and_shared_anew_when_replicas_come_and_go(
    bus: Bus, redis: Redis, model: str
) -> None:
    sources = [f"cam-{number}" for number in range(5)]
    await fill(bus, model, sources)
    async with replicas(bus, redis, model, 3) as made:
        await made[0].start()
        await shared(made, sources, most=5)
        await made[1].start()
        await shared(made, sources, most=3)
        await made[2].start()
        await shared(made, sources, most=2)
        await made[0].stop()
        await shared(made, sources, most=3)


async def test_many_sources_are_shared_as_soon_as_few(bus: Bus, redis: Redis, model: str) -> None:
    sources = [f"cam-{number}" for number in range(60)]
    await fill(bus, model, sources)
    async with replicas(bus, redis, model, 3) as made:
        await made[0].start()
        await shared(made, sources, most=60, within=10)
        await made[1].start()
        await made[2].start()
        await shared(made, sources, most=20, within=15)
        await made[1].stop()
        await shared(made, sources, most=30, within=15)


async def test_sources_of_a_dead_replica_go_to_the_others(bus: Bus, redis: Redis, model: str) -> None:
    sources = ["cam-1", "cam-2"]
    await fill(bus, model, sources)
    assert await Registry(redis, TTL).acquire(f"tasks-{model}-cam-1", "dead")  # and never renewed
    async with replicas(bus, redis, model, 1) as made:
        await made[0].start()
        await shared(made, sources, most=2)


async def test_a_source_without_tasks_is_given_back(
    bus: Bus, redis: Redis, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framemesh.shares.IDLE_SECONDS", 0.5)
    await fill(bus, model, ["cam-1"])
    async with replicas(bus, redis, model, 1) as made:
        await made[0].start()
        await shared(made, ["cam-1"], most=1)
        await bus.jetstream.purge_stream(f"{model}-lossless")
        await shared(made, [], most=0)

        async def forgotten() -> bool:
            return not made[0].shares._busy

        await until(forgotten)
