"""Declaring, publishing and reading on a real NATS server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from framemesh import subjects
from framemesh.bus import Bus, BusError, QueueFull, settle_all
from framemesh.embedded import HOST, NatsServer, choose_ports, free_port
from framemesh.errors import FramemeshError
from framemesh.messages import Frame, Result, SourceState
from framemesh.subjects import RESULTS, RESULTS_FEED, Consumer, Stream
from tests.samples import dead_letters, frame, result, until


def stream_of(source: str, **config: Any) -> Stream:
    return Stream(StreamConfig(name=source, subjects=[f"{source}.*"], storage=StorageType.MEMORY, **config))


async def test_a_message_published_twice_is_stored_once(bus: Bus, source: str) -> None:
    await bus.declare(stream_of(source))
    first = await bus.publish(f"{source}.a", frame(source), msg_id="1")
    again = await bus.publish(f"{source}.a", frame(source), msg_id="1")
    other = await bus.publish(f"{source}.a", frame(source, 1), msg_id="2")
    assert (first, again, other) == (1, 1, 2)
    info = await bus.stream_info(source)
    assert info
    assert info.state.messages == 2


async def test_a_full_queue_that_discards_what_is_new_says_so(bus: Bus, model: str, source: str) -> None:
    _, lossless = subjects.task_streams(model)
    await bus.declare(Stream(lossless.config.evolve(max_msgs=2)))
    subject = subjects.tasks(model, source, lossless=True)
    for seq in range(2):
        await bus.publish(subject, frame(source, seq), msg_id=str(seq))
    with pytest.raises(QueueFull):
        await bus.publish(subject, frame(source, 2), msg_id="2")
    consumer = subjects.worker_consumers(model)[1]
    pull = await bus.pull(replace(consumer, stream=Stream(lossless.config.evolve(max_msgs=2))), Frame)
    await settle_all(await pull.batch(2))
    await until(lambda: _published(bus, subject, frame(source, 2)))


async def _published(bus: Bus, subject: str, message: Frame) -> bool:
    try:
        await bus.publish(subject, message, msg_id=message.key)
    except QueueFull:
        return False
    return True


async def test_a_queue_bounded_in_bytes_is_full_too(bus: Bus, source: str) -> None:
    await bus.declare(stream_of(source, max_bytes=2000, discard=DiscardPolicy.NEW))
    with pytest.raises(QueueFull):
        for seq in range(20):
            await bus.publish(f"{source}.a", frame(source, seq), msg_id=str(seq))


async def test_declaring_again_changes_a_stream(bus: Bus, source: str) -> None:
    await bus.declare(stream_of(source, max_msgs=10))
    await bus.declare(stream_of(source, max_msgs=20))
    info = await bus.stream_info(source)
    assert info
    assert info.config.max_msgs == 20


async def test_a_stream_that_cannot_be_changed_is_named(bus: Bus, source: str) -> None:
    await bus.declare(stream_of(source))
    with pytest.raises(FramemeshError, match=f"stream {source} exists .* cannot be changed .* delete it"):
        await bus.declare(Stream(StreamConfig(name=source, subjects=[f"{source}.*"], storage=StorageType.FILE)))


async def test_streams_that_claim_the_same_subject_are_an_error(bus: Bus, source: str) -> None:
    await bus.declare(stream_of(source))
    with pytest.raises(FramemeshError, match=f"stream {source}-2: subjects overlap"):
        await bus.declare(Stream(StreamConfig(name=f"{source}-2", subjects=[f"{source}.*"])))


async def test_a_consumer_that_cannot_be_changed_is_named(bus: Bus, source: str) -> None:
    stream = stream_of(source, retention=RetentionPolicy.WORK_QUEUE)
    await bus.declare_consumer(Consumer(stream, ConsumerConfig(durable_name="a")))
    with pytest.raises(FramemeshError, match=f"consumer b of stream {source} .* delete it"):
        await bus.declare_consumer(Consumer(stream, ConsumerConfig(durable_name="b")))


@pytest.mark.parametrize("scheme", ["nats://", ""])
async def test_a_server_that_does_not_answer_is_named_without_its_password(scheme: str) -> None:
    address = f"{HOST}:{free_port()}"
    begun = time.monotonic()
    with pytest.raises(FramemeshError, match="nats_host: no NATS server answers") as caught:
        await Bus.connect(f"{scheme}me:s3cret@{address}", "test", patience=0.3)
    assert address in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "framemesh up" in str(caught.value)
    assert time.monotonic() - begun < 4


async def test_an_address_that_is_none_is_an_error_at_once() -> None:
    with pytest.raises(FramemeshError, match=r"nats_host: .*port"):
        await Bus.connect("nats://me:s3cret@127.0.0.1:port", "test", patience=30)


async def test_a_message_too_large_for_nats_is_refused_at_once(bus: Bus, source: str) -> None:
    await bus.declare(stream_of(source))
    begun = time.monotonic()
    with pytest.raises(BusError, match="more than NATS takes"):
        await bus.publish_raw(f"{source}.a", b"x" * (2 << 20), {}, patience=30)
    assert time.monotonic() - begun < 2


async def test_a_subject_that_no_stream_keeps_ends_in_an_error(bus: Bus, source: str) -> None:
    with pytest.raises(BusError, match=r"not accepted within 0\.2 s"):
        await bus.publish(f"{source}.a", frame(source), msg_id="1", patience=0.2)


async def test_a_plain_subscriber_receives_every_result(bus: Bus, source: str, model: str) -> None:
    heard: set[int] = set()

    async def on_result(msg: Msg) -> None:
        found = Result.model_validate_json(msg.data)
        if found.source == source:
            heard.add(found.seq)

    await bus.declare(RESULTS)
    await bus.client.subscribe(RESULTS_FEED, cb=on_result)
    for begin in range(0, 2000, 250):
        async with asyncio.TaskGroup() as group:
            for seq in range(begin, begin + 250):
                made = result(source, model, seq)
                group.create_task(bus.publish(subjects.results(model, source), made, msg_id=made.task_key))

    async def all_heard() -> bool:
        return len(heard) == 2000

    await until(all_heard)


async def test_reading_gives_every_message_of_a_subject_in_order(bus: Bus, source: str) -> None:
    stream = stream_of(source, allow_direct=True)
    await bus.declare(stream)
    for seq in range(600):
        await bus.client.publish(f"{source}.{'ab'[seq % 2]}", frame(source, seq).model_dump_json().encode())
    await bus.client.flush()

    async def all_stored() -> bool:
        info = await bus.stream_info(source)
        return info is not None and info.state.messages == 600

    await until(all_stored)
    read = [stored.message.seq async for stored in bus.read(source, f"{source}.a", 101, Frame, batch=64)]
    assert read == list(range(100, 600, 2))
    newest = await bus.last(source, f"{source}.b", Frame)
    assert newest
    assert newest.message.seq == 599
    assert [item async for item in bus.read(source, f"{source}.nothing", 1, Frame)] == []


async def test_a_stream_that_does_not_exist_reads_as_empty(bus: Bus, source: str) -> None:
    begun = time.monotonic()
    assert [item async for item in bus.read(source, "x", 1, Frame)] == []
    assert await bus.last(source, "x", Frame) is None
    assert await bus.stream_info(source) is None
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("bad", [b"{", b'{"source": 1}', b'{"source": "\xff"}', b""])
async def test_looking_at_a_message_that_is_none_makes_it_a_dead_letter(bus: Bus, source: str, bad: bytes) -> None:
    await bus.declare(subjects.SOURCES)
    subject = subjects.source_state(source)
    seq = (await bus.jetstream.publish(subject, bad)).seq
    assert await bus.last("SOURCES", subject, SourceState) is None
    assert await bus.at_or_after("SOURCES", subject, seq, SourceState) is None
    good = SourceState(source=source, run="r", state="started", timestamp=1.0)
    await bus.publish(subject, good, msg_id=source)
    found = await bus.at_or_after("SOURCES", subject, seq, SourceState)
    assert found
    assert found.message == good
    letters = await dead_letters(bus, "SOURCES", subject)
    assert [(dead.stream_seq, dead.origin) for dead in letters] == [(seq, "test")]
    assert letters[0].reason.startswith("not a valid SourceState")


async def test_two_buses_share_one_server(servers: Mapping[str, str], bus: Bus, source: str) -> None:
    other = await Bus.connect(servers["nats_host"], "other")
    await bus.declare(stream_of(source, allow_direct=True))
    await other.publish(f"{source}.a", frame(source), msg_id="1")
    assert await bus.last(source, f"{source}.a", Frame)
    await other.close()
    await other.close()  # closing twice is no error


async def test_publishing_after_the_end_is_an_error(servers: Mapping[str, str], source: str) -> None:
    bus = await Bus.connect(servers["nats_host"], "other")
    await bus.close()
    with pytest.raises(BusError):
        await bus.publish(f"{source}.a", frame(source), msg_id="1")


async def test_a_queue_knows_the_waiting_tasks_of_each_source(bus: Bus, model: str) -> None:
    _, lossless = subjects.task_streams(model)
    await bus.declare(lossless)
    for seq in range(3):
        await bus.publish(subjects.tasks(model, "a", lossless=True), frame("a", seq), msg_id=str(seq))
    info = await bus.stream_info(lossless.name, subjects.tasks(model, "a", lossless=True))
    assert info
    assert info.state.subjects == {f"{model}-lossless.a": 3}
    assert lossless.name in {str(item.config.name) for item in await bus.task_streams()}


async def test_a_bus_closes_though_its_server_is_gone(tmp_path: Path) -> None:
    nats = NatsServer(tmp_path, choose_ports({}, {}))
    await nats.start()
    await nats.ready()
    buses = [await Bus.connect(nats.environment()["nats_host"], f"bus-{number}") for number in range(3)]
    await nats.stop()
    for number, bus in enumerate(buses):
        await asyncio.sleep(0.1 * number)  # before it has seen that, and after
        with contextlib.suppress(NatsError):
            await bus.client.publish("a", b"x" * 10_000)
        async with asyncio.timeout(10):
            await bus.close()
