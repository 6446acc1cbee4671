"""A router in this process: models that go away, and routes that are taken away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.embedded import NatsServer, Server
from framemesh.messages import Delivery, Heartbeat, Medium
from framemesh.registry import Registry
from services.router.router import Router, RouterSettings
from tests.samples import OwnServer, frame, result, until, window

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


def heartbeat(model: str, takes: Medium = Medium.FRAME) -> Heartbeat:
    return Heartbeat(
        kind=model, instance="one", host="h", pid=1, started=1.0, version="0", model="weights", takes=takes
    )


@asynccontextmanager
async def beating(registry: Registry, model: str, takes: Medium = Medium.FRAME) -> AsyncIterator[None]:
    task = asyncio.create_task(registry.beating(heartbeat(model, takes)))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def publish(bus: Bus, source: str, count: int) -> None:
    for seq in range(count):
        claim = frame(source, seq, delivery=Delivery.LOSSLESS)
        await bus.publish(subjects.frames("frames-stream", source), claim, msg_id=claim.key)


async def publish_windows(bus: Bus, source: str, count: int) -> None:
    for seq in range(count):
        claim = window(source, seq, delivery=Delivery.LOSSLESS)
        await bus.publish(subjects.audio(source), claim, msg_id=claim.key)


async def waiting(bus: Bus, model: str) -> int:
    info = await bus.stream_info(f"{model}-lossless")
    return info.state.messages if info else 0


async def unacked(bus: Bus, stream: subjects.Stream = FRAMES) -> int:
    info = await bus.consumer_info(subjects.router_consumer(stream))
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


async def all_routed(bus: Bus, stream: subjects.Stream = FRAMES) -> bool:
    return await unacked(bus, stream) == 0


def let_go() -> float:
    value = REGISTRY.get_sample_value("framemesh_unrouted_total", {"delivery": "lossless"})
    return value or 0.0


async def test_a_file_waits_for_a_model_of_its_own_medium(
    own_bus: Bus, registry: Registry, source: str, model: str
) -> None:
    """That only one lives that listens helps no frame."""
    async with beating(registry, f"{model}-listens", Medium.AUDIO), router(own_bus, registry):
        await publish(own_bus, source, 5)
        await publish_windows(own_bus, source, 3)
        await until(lambda: waiting_is(own_bus, f"{model}-listens", 3))
        await asyncio.sleep(1.5)
        assert await unacked(own_bus) == 5
        async with beating(registry, model):
            await until(lambda: waiting_is(own_bus, model, 5))
            await until(lambda: all_routed(own_bus))


async def test_a_file_waits_for_the_first_model_however_long(
    own_bus: Bus, registry: Registry, source: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.router.router.AWAY_SECONDS", 0.5)
    async with router(own_bus, registry):
        await publish(own_bus, source, 5)
        await asyncio.sleep(2.5)
        assert await unacked(own_bus) == 5
        async with beating(registry, model):
            await until(lambda: waiting_is(own_bus, model, 5))


async def test_what_no_model_comes_for_is_let_go_counted_and_said_once_a_source(
    own_bus: Bus,
    registry: Registry,
    source: str,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("services.router.router.AWAY_SECONDS", 2.0)
    before = let_go()
    async with beating(registry, f"{model}-listens", Medium.AUDIO), router(own_bus, registry):
        await publish(own_bus, source, 5)
        await asyncio.sleep(1)
        assert await unacked(own_bus) == 5
        await until(lambda: all_routed(own_bus))
        await publish(own_bus, f"{source}-2", 2)
        await until(lambda: all_routed(own_bus), within=1)  # which nobody waits for again
        assert let_go() - before == 7
        said = [line for line in caplog.messages if "seen by no model" in line]
        assert [line.split(":")[0] for line in said] == [source, f"{source}-2"]
        assert "start a worker" in said[0]
        assert "routes" in said[0]


# -- the form of a queue ----------------------------------------------------------------------------------


async def kept(bus: Bus, model: str) -> int:
    """How many tasks of a source a model's live queue holds."""
    info = await bus.stream_info(model)
    return info.config.max_msgs_per_subject or 0 if info else 0


async def test_the_queue_of_a_routed_model_takes_the_form_that_its_worker_says(
    own_bus: Bus, registry: Registry, source: str, model: str
) -> None:
    async def listens() -> bool:
        return await kept(own_bus, model) == subjects.WAITING_WINDOWS

    async with router(own_bus, registry, routes={source: [model]}) as made:
        assert await kept(own_bus, model) == 1
        async with beating(registry, model, Medium.AUDIO):
            await until(listens)
        await own_bus.redeclare()  # as after a restart of the server
        assert await listens()

        async def gone() -> bool:
            return not made._live

        await until(gone)
        await publish_windows(own_bus, source, 2)  # of which it is known now who takes them
        await publish(own_bus, source, 2)
        await until(lambda: waiting_is(own_bus, model, 2))
        await until(lambda: all_routed(own_bus))


async def test_what_one_route_says_of_a_model_holds_for_all_of_its_routes(
    own_bus: Bus, registry: Registry, source: str, model: str
) -> None:
    routes = {"*": [model], source: [{"model": model, "takes": "audio"}], "other": [model]}
    async with router(own_bus, registry, routes=routes):
        assert await kept(own_bus, model) == subjects.WAITING_WINDOWS
        await publish_windows(own_bus, "other", 2)
        await until(lambda: waiting_is(own_bus, model, 2))


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
