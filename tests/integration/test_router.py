"""A router in this process: models that go away, and routes that are taken away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.embedded import NatsServer, Server
from framemesh.messages import Delivery, Heartbeat
from framemesh.registry import Registry
from services.router.router import Router, RouterSettings
from tests.samples import OwnServer, frame, result, until

FRAMES = subjects.frames_stream("frames-stream", 900)


@pytest.fixture
async def own_bus(own_server: Callable[[type[Server]], OwnServer]) -> AsyncIterator[Bus]:
    """A NATS of the test's own: every router reads the same streams."""
    server = own_server(NatsServer)
    await server.start()
    bus = await Bus.connect(server.environment["nats_host"], "test")
    yield bus
    await bus.close()


@asynccontextmanager
async def router(bus: Bus, registry: Registry, **settings: Any) -> AsyncIterator[Router]:
    made = Router(RouterSettings(**settings), bus, registry)
    await made.prepare()
    running = asyncio.create_task(made.run())
    pulls = 2 + len(made._followed())

    async def started() -> bool:
        return len(bus._pulls) == pulls

    await until(started)
    await asyncio.sleep(0.2)  # Python 3.11's wait_for may swallow a cancellation that comes with its answer
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])
        for pull in list(bus._pulls):
            await pull.stop()


def heartbeat(model: str) -> Heartbeat:
    return Heartbeat(kind=model, instance="one", host="h", pid=1, started=1.0, version="0", model="weights")


async def publish(bus: Bus, source: str, count: int) -> None:
    for seq in range(count):
        claim = frame(source, seq, delivery=Delivery.LOSSLESS)
        await bus.publish(subjects.frames("frames-stream", source), claim, msg_id=claim.key)


async def waiting(bus: Bus, model: str) -> int:
    info = await bus.stream_info(f"{model}-lossless")
    return info.state.messages if info else 0


async def unacked(bus: Bus) -> int:
    info = await bus.consumer_info(subjects.router_consumer(FRAMES))
    return (info.num_pending or 0) + (info.num_ack_pending or 0) if info else -1


@pytest.mark.parametrize("routed", [False, True])
async def test_a_model_that_went_away_for_good_stops_no_file(
    own_bus: Bus,
    registry: Registry,
    servers: Mapping[str, str],
    source: str,
    model: str,
    routed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.router.router.AWAY_SECONDS", 3.0)
    stays = f"{model}-stays"
    routes = {"routes": {source: [model]}} if routed else {}
    await registry.beat(heartbeat(model))  # once, and never again
    staying = asyncio.create_task(registry.beating(heartbeat(stays)))
    async with router(own_bus, registry, **routes):
        await own_bus.jetstream.update_stream(
            subjects.task_streams(model)[1].config.evolve(max_msgs=20)
        )  # a queue that is full soon
        await publish(own_bus, source, 50)
        await until(lambda: waiting_is(own_bus, model, 20))
        if routed:  # a route names it: its tasks wait for it, and the file waits too
            await asyncio.sleep(5)
            assert await waiting(own_bus, model) == 20
            assert await unacked(own_bus) == 30
        else:
            await until(lambda: all_routed(own_bus), within=15)
            await until(lambda: waiting_is(own_bus, model, 0))
            assert await waiting(own_bus, stays) == 50
    staying.cancel()
    await asyncio.wait([staying])


async def waiting_is(bus: Bus, model: str, count: int) -> bool:
    return await waiting(bus, model) == count


async def all_routed(bus: Bus) -> bool:
    return await unacked(bus) == 0


async def test_a_route_that_is_taken_away_leaves_no_consumer_and_one_that_comes_back_begins_anew(
    own_bus: Bus, registry: Registry, source: str, model: str
) -> None:
    other = f"{model}-other"
    follows = {"routes": {"*": [model, {"model": other, "follows": model}]}}

    async def tell(seq: int) -> None:
        made = result(source, model, seq).model_copy(update={"delivery": Delivery.LOSSLESS})
        await own_bus.publish(subjects.results(model, source), made, msg_id=made.task_key)

    async def followers() -> list[str]:
        names = [str(info.name) for info in await own_bus.consumers(subjects.RESULTS)]
        return [name for name in names if name.startswith(subjects.FOLLOWER)]

    async def followed(count: int) -> bool:
        return await waiting(own_bus, other) == count

    async with router(own_bus, registry, **follows):
        await until(followers)
        await tell(0)
        await until(lambda: followed(1))
    async with router(own_bus, registry):
        assert await followers() == []
        await tell(1)
    async with router(own_bus, registry, **follows):
        await until(followers)
        await tell(2)
        await until(lambda: followed(2))
        await asyncio.sleep(0.5)
        assert await followed(2)
