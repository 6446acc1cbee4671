"""The continuous pull: nothing twice, nothing lost, whatever happens to the server and the other workers."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, RetentionPolicy, StorageType, StreamConfig

from framemesh import subjects
from framemesh.bus import Bus, BusError, Reject, Retry, settle_all
from framemesh.messages import Captured, Event, EventState, Frame, Message, Result, SourceState, Task
from framemesh.pull import Envelope, Meta, Pull
from framemesh.subjects import Consumer, Stream
from tests.samples import OwnServer, dead_letters, event, frame, result, task, until

BAD = (b"{not json", b'{"source": 7}', b'{"source": "\xff\xfe"}')


def queue(name: str, *, ack_wait: float = 10, storage: StorageType = StorageType.MEMORY, **more: Any) -> Consumer:
    """A work queue of the test's own and the consumer that its workers share."""
    stream = Stream(
        StreamConfig(name=name, subjects=[f"{name}.*"], retention=RetentionPolicy.WORK_QUEUE, storage=storage)
    )
    config = ConsumerConfig(
        durable_name="workers", ack_policy=AckPolicy.EXPLICIT, ack_wait=ack_wait, max_ack_pending=4096
    )
    return Consumer(stream, config, **more)


async def fill(bus: Bus, consumer: Consumer, count: int, begin: int = 0) -> None:
    """Put frames ``begin`` … into a queue, without a round trip each."""
    await bus.declare(consumer.stream)
    before = await bus.stream_info(consumer.stream.name)
    assert before
    last = before.state.last_seq
    for seq in range(begin, begin + count):
        await bus.client.publish(
            f"{consumer.stream.name}.a", frame("cam", seq).model_dump_json().encode(), headers={"n": str(seq)}
        )
        if seq % 1000 == 999:
            await bus.client.flush()

    async def stored() -> bool:
        after = await bus.stream_info(consumer.stream.name)
        return bool(after and after.state.last_seq >= last + count)

    await until(stored)


async def state(bus: Bus, consumer: Consumer) -> ConsumerInfo:
    info = await bus.consumer_info(consumer)
    assert info
    return info


async def drained(bus: Bus, consumer: Consumer) -> bool:
    info = await bus.stream_info(consumer.stream.name)
    return info is not None and not info.state.messages


@asynccontextmanager
async def consuming(
    bus: Bus,
    consumer: Consumer,
    handler: Callable[[Envelope[Frame]], Awaitable[None]],
    concurrency: int = 8,
) -> AsyncIterator[None]:
    work = asyncio.create_task(bus.consume(consumer, Frame, handler, concurrency=concurrency))
    try:
        yield
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


async def seqs(pull: Pull[Frame], count: int, *, within: float = 10) -> list[int]:
    """Take and ack ``count`` messages."""
    found: list[int] = []
    async with asyncio.timeout(within):
        while len(found) < count:
            envelopes = await pull.batch(count - len(found))
            found += [envelope.message.seq for envelope in envelopes]
            await settle_all(envelopes)
    return found


# -- every message once ---------------------------------------------------------------------------------


async def test_twenty_thousand_messages_each_arrive_once_and_in_order(bus: Bus, source: str) -> None:
    consumer = queue(source)
    await fill(bus, consumer, 20_000)
    pull = await bus.pull(consumer, Frame, window=256)
    assert await seqs(pull, 20_000, within=30) == list(range(20_000))
    assert await pull.batch(1, wait=0.2) == []
    await until(lambda: drained(bus, consumer))


async def test_no_more_than_the_window_is_ever_asked_for(bus: Bus, source: str) -> None:
    consumer = queue(source)
    await fill(bus, consumer, 500)
    pull = await bus.pull(consumer, Frame, window=64)
    await asyncio.sleep(0.3)
    assert (await state(bus, consumer)).num_ack_pending == 64
    first = await pull.batch(40)
    assert len(first) == 40
    await asyncio.sleep(0.3)
    assert (await state(bus, consumer)).num_ack_pending == 40 + 64
    await settle_all(first)
    assert len(await seqs(pull, 460)) == 460


async def test_a_batch_is_what_is_here_and_an_empty_one_after_the_wait(bus: Bus, source: str) -> None:
    consumer = queue(source)
    pull = await bus.pull(consumer, Frame)
    begun = time.monotonic()
    assert await pull.batch(5, wait=0.2) == []
    assert 0.2 <= time.monotonic() - begun < 1
    await fill(bus, consumer, 3)
    await asyncio.sleep(0.1)
    found = await pull.batch(10)
    assert [envelope.message.seq for envelope in found] == [0, 1, 2]
    assert found[0].meta.pending == 2
    assert found[0].subject == f"{source}.a"
    await settle_all(found)
    assert pull.idle


async def test_batches_end_when_the_pull_is_stopped(bus: Bus, source: str) -> None:
    pull = await bus.pull(queue(source), Frame)
    asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(pull.stop()))
    async with asyncio.timeout(2):
        assert [batch async for batch in pull.batches(10)] == []


async def test_pulls_that_share_a_consumer_share_its_messages(
    servers: Mapping[str, str], bus: Bus, source: str
) -> None:
    consumer = queue(source)
    buses = [await Bus.connect(servers["nats_host"], f"worker-{i}") for i in range(3)]
    pulls = [await each.pull(consumer, Frame, window=32) for each in (bus, *buses)]
    seen: Counter[int] = Counter()
    shares = [0] * len(pulls)

    async def work(i: int) -> None:
        async for envelope in pulls[i].each():
            seen[envelope.message.seq] += 1
            shares[i] += 1
            await envelope.ack()
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for i in range(len(pulls)):
            group.create_task(work(i))
        await fill(bus, consumer, 4000)
        await until(lambda: drained(bus, consumer))
        for pull in pulls:
            await pull.stop()
    for other in buses:
        await other.close()
    assert seen == Counter(range(4000))
    assert min(shares) > 100


async def test_fifty_thousand_messages_go_through_handlers_once_each(bus: Bus, source: str) -> None:
    consumer = queue(source)
    await fill(bus, consumer, 50_000)
    seen: Counter[int] = Counter()
    busy, most = 0, 0

    async def handler(envelope: Envelope[Frame]) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        seen[envelope.message.seq] += 1
        busy -= 1

    begun = time.monotonic()
    async with consuming(bus, consumer, handler, 32):
        await until(lambda: drained(bus, consumer), within=60)
    print(f"\nconsume: {50_000 / (time.monotonic() - begun):,.0f} messages/s")
    assert seen == Counter(range(50_000))
    assert most <= 32


# -- failures -------------------------------------------------------------------------------------------


async def test_a_nak_brings_a_message_back_after_its_delay(bus: Bus, source: str) -> None:
    consumer = queue(source)
    await fill(bus, consumer, 1)
    pull = await bus.pull(consumer, Frame)
    [envelope] = await pull.batch(1)
    begun = time.monotonic()
    await envelope.nak(0.5)
    [again] = await pull.batch(1)
    assert 0.4 < time.monotonic() - begun < 2
    assert again.deliveries == 2
    begun = time.monotonic()
    await again.nak()  # by default the wait grows with the deliveries
    [again] = await pull.batch(1)
    assert 0.7 < time.monotonic() - begun < 2.5
    await again.ack()


async def test_a_handler_that_asks_again_gets_its_message_again(bus: Bus, source: str) -> None:
    consumer = queue(source)
    await fill(bus, consumer, 1)
    times: list[float] = []

    async def handler(envelope: Envelope[Frame]) -> None:
        times.append(time.monotonic())
        if len(times) < 3:
            raise Retry("not yet", 0.3)

    async with consuming(bus, consumer, handler):
        await until(lambda: drained(bus, consumer))
    assert len(times) == 3
    assert 0.25 < times[1] - times[0] < 1.5


async def test_what_a_handler_rejects_is_a_dead_letter_at_once(bus: Bus, source: str) -> None:
    consumer = queue(source)
    await fill(bus, consumer, 3)
    done: list[int] = []

    async def handler(envelope: Envelope[Frame]) -> None:
        if envelope.message.seq == 1:
            raise Reject("not a picture of rtsp://me:s3cret@camera/1")
        done.append(envelope.message.seq)

    async with consuming(bus, consumer, handler):
        await until(lambda: drained(bus, consumer))
    [dead] = await dead_letters(bus, source, f"{source}.a")
    assert sorted(done) == [0, 2]
    assert dead.reason == "not a picture of rtsp://***@camera/1"
    assert (dead.stream_seq, dead.deliveries, dead.consumer, dead.origin) == (2, 1, "workers", "test")
    assert dead.headers == {"n": "1"}
    assert Frame.model_validate_json(dead.payload).seq == 1
    assert "Reject" in dead.stack
    assert "s3cret" not in dead.stack


async def test_what_fails_too_often_is_a_dead_letter_with_its_stack(bus: Bus, source: str) -> None:
    consumer = queue(source, max_deliveries=2)
    await fill(bus, consumer, 2)
    tried: Counter[int] = Counter()

    async def handler(envelope: Envelope[Frame]) -> None:
        tried[envelope.message.seq] += 1
        if envelope.message.seq == 0:
            raise ZeroDivisionError("the model\n  is broken")

    async with consuming(bus, consumer, handler):
        await until(lambda: drained(bus, consumer))
    [dead] = await dead_letters(bus, source, f"{source}.a")
    assert tried == {0: 2, 1: 1}
    assert dead.reason == "ZeroDivisionError: the model is broken"
    assert dead.deliveries == 2
    assert "test_pull.py" in dead.stack


async def test_what_kills_its_workers_is_a_dead_letter(servers: Mapping[str, str], bus: Bus, source: str) -> None:
    consumer = queue(source, ack_wait=0.5, max_unfinished=2)
    await fill(bus, consumer, 1)
    for _ in range(2):
        worker = await Bus.connect(servers["nats_host"], "worker")
        pull = await worker.pull(consumer, Frame)
        assert len(await pull.batch(1)) == 1
        await worker.client.close()  # it dies with the message in its hands
        await worker.close()
    pull = await bus.pull(consumer, Frame)
    assert await pull.batch(1, wait=3) == []
    [dead] = await dead_letters(bus, source, f"{source}.a")
    assert dead.reason == "delivered 3 times and never finished"
    await until(lambda: drained(bus, consumer))


async def test_an_absurd_message_is_a_dead_letter_too(bus: Bus, source: str) -> None:
    consumer = queue(source)
    await bus.declare(consumer.stream)
    await bus.jetstream.publish(f"{source}.a", b"\0" * 900_000)  # every byte takes six as JSON
    await bus.jetstream.publish(f"{source}.a", "é".encode() * 400_000 + b"\xff")
    await fill(bus, consumer, 1)
    pull = await bus.pull(consumer, Frame)
    assert await seqs(pull, 1) == [0]
    first, second = await dead_letters(bus, source, f"{source}.a")
    assert first.payload.startswith("\0\0")
    assert second.payload.startswith("éé")
    assert second.encoding == "utf-8"


Kind = tuple[Consumer, str, type[Message], Message]


def kinds(source: str, model: str) -> dict[str, Kind]:
    frames = subjects.frames_stream(f"t-{source}", 900)
    live, lossless = subjects.worker_consumers(model)
    claim, job, found = frame(source), task(source, model), result(source, model)
    return {
        "CAPTURED": (
            subjects.uploader_consumer(source),
            subjects.captured(source),
            Captured,
            Captured(entries=["a.r1.000000000000.frame"]),
        ),
        "FRAMES": (subjects.router_consumer(frames), f"t-{source}.{source}", Frame, claim),
        "live": (live, subjects.tasks(model, source, lossless=False), Task, job),
        "lossless": (lossless, subjects.tasks(model, source, lossless=True), Task, job),
        "RESULTS": (subjects.follower_consumer(model), subjects.results(model, source), Result, found),
        "registrator": (subjects.registrator_consumer(source), subjects.results(model, source), Result, found),
    }


@pytest.mark.parametrize("kind", ["CAPTURED", "FRAMES", "live", "lossless", "RESULTS", "registrator"])
async def test_what_is_no_message_never_stops_a_consumer(bus: Bus, source: str, model: str, kind: str) -> None:
    consumer, subject, wanted, good = kinds(source, model)[kind]
    if consumer.exclusive:
        consumer = await bus.take_over(consumer)
    pull = await bus.pull(consumer, wanted)
    first = asyncio.ensure_future(pull.batch(1))
    for count, bad in enumerate(BAD, start=1):
        await bus.jetstream.publish(subject, bad)
        await until(lambda n=count: _buried(bus, consumer, subject, n))  # type: ignore[misc]
        assert not first.done()
    await bus.publish(subject, good, msg_id=source)
    [envelope] = await asyncio.wait_for(first, 5)
    assert envelope.message == good
    await envelope.ack()
    letters = await dead_letters(bus, consumer.stream.name, subject)
    assert [dead.encoding for dead in letters] == ["utf-8", "utf-8", "base64"]
    assert [dead.payload for dead in letters[:2]] == [bad.decode() for bad in BAD[:2]]
    assert all(dead.reason.startswith(f"not a valid {wanted.__name__}: ") for dead in letters)


async def _buried(bus: Bus, consumer: Consumer, subject: str, count: int) -> bool:
    return len(await dead_letters(bus, consumer.stream.name, subject)) == count


@pytest.mark.parametrize("stream", [subjects.EVENTS, subjects.SOURCES], ids=lambda stream: stream.name)
async def test_what_is_no_message_never_stops_a_reader(bus: Bus, source: str, stream: Stream) -> None:
    events = stream is subjects.EVENTS
    subject = subjects.events(source) if events else subjects.source_state(source)
    wanted: type[Message] = Event if events else SourceState
    made = (
        event(source, EventState.CREATED)
        if events
        else SourceState(source=source, run="r", state="started", timestamp=1.0)
    )
    await bus.declare(stream)
    for bad in BAD:
        await bus.jetstream.publish(subject, bad)
    await bus.publish(subject, made, msg_id=source)
    read = [stored.message async for stored in bus.read(stream.name, subject, 1, wanted)]
    assert read == [made]
    letters = await dead_letters(bus, stream.name, subject)
    assert [dead.encoding for dead in letters] == ["utf-8", "utf-8", "base64"]
    assert all(dead.reason.startswith(f"not a valid {wanted.__name__}: ") for dead in letters)


async def test_a_dead_letter_that_is_refused_keeps_its_message_in_the_queue(
    bus: Bus, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = queue(source)
    await bus.declare(consumer.stream)
    await bus.jetstream.publish(f"{source}.a", b"bad")
    publish = bus.publish

    async def refuse(*_: Any, **__: Any) -> int:
        raise BusError("the disk is full")

    monkeypatch.setattr(bus, "publish", refuse)
    pull = await bus.pull(consumer, Frame)
    assert await pull.batch(1, wait=0.3) == []
    assert not await drained(bus, consumer)
    monkeypatch.setattr(bus, "publish", publish)
    assert await pull.batch(1, wait=3) == []
    [dead] = await dead_letters(bus, source, f"{source}.a")
    assert dead.deliveries == 2
    await until(lambda: drained(bus, consumer))


# -- who holds a message --------------------------------------------------------------------------------


async def test_work_longer_than_the_ack_wait_is_done_once(bus: Bus, source: str) -> None:
    consumer = queue(source, ack_wait=2)
    await fill(bus, consumer, 3)
    deliveries: list[int] = []

    async def handler(envelope: Envelope[Frame]) -> None:
        deliveries.append(envelope.deliveries)
        await asyncio.sleep(5)

    async with consuming(bus, consumer, handler):
        await until(lambda: drained(bus, consumer))
    assert deliveries == [1, 1, 1]


async def test_messages_that_wait_here_are_kept_alive(bus: Bus, source: str) -> None:
    consumer = queue(source, ack_wait=2)
    await fill(bus, consumer, 20)
    pull = await bus.pull(consumer, Frame, window=32)
    await asyncio.sleep(3)
    found = await pull.batch(20)
    assert [envelope.deliveries for envelope in found] == [1] * 20
    await asyncio.sleep(3)  # and so are those that are held
    await settle_all(found)
    assert await pull.batch(1, wait=0.5) == []
    await until(lambda: drained(bus, consumer))


async def test_the_message_of_a_dead_worker_goes_to_another(
    servers: Mapping[str, str], bus: Bus, source: str
) -> None:
    consumer = queue(source, ack_wait=1)
    await fill(bus, consumer, 5)
    dying = await Bus.connect(servers["nats_host"], "dying")
    assert len(await (await dying.pull(consumer, Frame)).batch(5)) >= 1
    await dying.client.close()
    pull = await bus.pull(consumer, Frame)
    assert sorted(await seqs(pull, 5)) == list(range(5))
    await dying.close()


async def test_stopping_gives_back_at_once_what_was_not_begun(
    servers: Mapping[str, str], bus: Bus, source: str
) -> None:
    consumer = queue(source, ack_wait=30)
    await fill(bus, consumer, 400)
    other = await Bus.connect(servers["nats_host"], "other")
    leaving = await other.pull(consumer, Frame, window=256)
    [begun] = await leaving.batch(1)
    await leaving.stop()
    await begun.ack()  # what was begun can still be finished
    pull = await bus.pull(consumer, Frame)
    rest = await seqs(pull, 399, within=5)
    assert sorted([begun.message.seq, *rest]) == list(range(400))
    await until(lambda: drained(bus, consumer))
    await other.close()


async def test_stopping_while_messages_pour_in_gives_all_of_them_back(
    servers: Mapping[str, str], bus: Bus, source: str
) -> None:
    consumer = queue(source, ack_wait=30)
    other = await Bus.connect(servers["nats_host"], "other")
    leaving = await other.pull(consumer, Frame, window=256)
    filling = asyncio.create_task(fill(bus, consumer, 3000))
    taken = await seqs(leaving, 50)
    await leaving.stop()
    await filling
    pull = await bus.pull(consumer, Frame)
    rest = await seqs(pull, 2950, within=8)
    assert sorted(taken + rest) == list(range(3000))
    await other.close()


async def test_cancelling_consume_gives_back_what_was_not_begun(bus: Bus, source: str) -> None:
    consumer = queue(source, ack_wait=1)
    await fill(bus, consumer, 20)
    begun: list[int] = []

    async def handler(envelope: Envelope[Frame]) -> None:
        begun.append(envelope.message.seq)
        await asyncio.sleep(60)

    async def two_begun() -> bool:
        return len(begun) == 2

    async with consuming(bus, consumer, handler, 2):
        await until(two_begun)
    pull = await bus.pull(consumer, Frame)
    assert sorted(await seqs(pull, 20, within=5)) == list(range(20))


# -- consumers with a purpose ---------------------------------------------------------------------------


async def test_a_live_queue_holds_only_the_newest_frame_of_each_source(bus: Bus, model: str) -> None:
    live, _ = subjects.worker_consumers(model)
    await bus.declare(live.stream)
    for seq in range(10):
        for source in ("a", "b"):
            made = task(source, model, seq)
            await bus.publish(subjects.tasks(model, source, lossless=False), made, msg_id=made.task_key)
    pull = await bus.pull(live, Task)
    await asyncio.sleep(0.2)
    found = await pull.batch(10)
    assert [(item.message.source, item.message.seq) for item in found] == [("a", 9), ("b", 9)]
    await settle_all(found)


async def test_who_was_taken_over_gets_nothing_more(bus: Bus, source: str, model: str) -> None:
    first = await bus.pull(await bus.take_over(subjects.registrator_consumer(source)), Result)
    second = await bus.pull(await bus.take_over(subjects.registrator_consumer(source)), Result)
    for seq in range(10):
        made = result(source, model, seq)
        await bus.publish(subjects.results(model, source), made, msg_id=made.task_key)
    found: list[Envelope[Result]] = []
    async with asyncio.timeout(5):
        while len(found) < 10:
            found += await second.batch(10)
        while not first.taken:
            assert await first.batch(1, wait=0.1) == []
    assert [item.message.seq for item in found] == list(range(10))
    assert not second.taken


async def test_rewinding_brings_back_all_after_the_ack_floor_at_once(
    servers: Mapping[str, str], bus: Bus, source: str, model: str
) -> None:
    await bus.declare(subjects.RESULTS)
    for seq in range(60):
        made = result(source, model, seq)
        await bus.publish(subjects.results(model, source), made, msg_id=made.task_key)
    await bus.jetstream.publish(subjects.results(model, source), b"bad")
    acked = 0
    for floor in (20, 40, *[0] * 7):  # more often than max_deliveries: no good message may die of it
        keeper = await Bus.connect(servers["nats_host"], "keeper")
        consumer = await keeper.take_over(subjects.registrator_consumer(source))
        pull = await keeper.pull(consumer, Result, window=256)
        found: list[Envelope[Result]] = []
        async with asyncio.timeout(5):
            while not found or found[-1].message.seq < 59:
                found += await pull.batch(256)
        assert [item.message.seq for item in found] == list(range(acked, 60))
        assert await pull.batch(1, wait=0.1) == []  # the bad one is buried, which acks nothing before it
        for item in found:
            if item.message.seq == floor - 1:
                await item.ack()
                acked = floor
        await keeper.client.flush()
        await keeper.client.close()
        await keeper.close()
    letters = await dead_letters(bus, "RESULTS", subjects.results(model, source))
    assert [dead.payload for dead in letters] == ["bad"]


# -- the server goes and comes --------------------------------------------------------------------------


async def test_a_pull_survives_that_its_consumer_is_deleted(bus: Bus, source: str) -> None:
    consumer = queue(source)
    pull = await bus.pull(consumer, Frame)
    await fill(bus, consumer, 3)
    assert await seqs(pull, 3) == [0, 1, 2]
    await until(lambda: drained(bus, consumer))
    await bus.jetstream.delete_consumer(source, "workers")
    await fill(bus, consumer, 3, begin=3)
    assert await seqs(pull, 3, within=6) == [3, 4, 5]


async def test_a_pull_survives_that_its_stream_is_deleted(bus: Bus, source: str) -> None:
    consumer = queue(source)
    pull = await bus.pull(consumer, Frame)
    await asyncio.sleep(0.2)  # a request that the server drops unanswered would be missed after 12.5 s
    await bus.jetstream.delete_stream(source)
    for seq in range(3):
        await bus.publish(f"{source}.a", frame("cam", seq), msg_id=str(seq))
    assert await seqs(pull, 3, within=6) == [0, 1, 2]


@pytest.mark.parametrize("storage", [StorageType.FILE, StorageType.MEMORY])
async def test_a_killed_server_costs_no_message_that_is_on_disk(
    own_nats: OwnServer, source: str, storage: StorageType
) -> None:
    bus = await Bus.connect(own_nats.environment["nats_host"], "test")
    consumer = queue(source, ack_wait=2, storage=storage)
    await fill(bus, consumer, 500)
    pull = await bus.pull(consumer, Frame, window=64)
    assert await seqs(pull, 200) == list(range(200))
    held = await pull.batch(20)
    await asyncio.sleep(0.2)
    await own_nats.kill()
    await own_nats.start()
    begun = time.monotonic()
    for seq in range(500, 600):
        await bus.publish(f"{source}.a", frame("cam", seq), msg_id=str(seq))
    await settle_all(held)
    found = {envelope.message.seq for envelope in held}
    wanted = set(range(500, 600)) | (set(range(200, 500)) if storage is StorageType.FILE else found)
    async with asyncio.timeout(10):
        while not wanted <= found:
            for envelope in await pull.batch(64):
                found.add(envelope.message.seq)
                await envelope.ack()
    assert time.monotonic() - begun < 6
    if storage is StorageType.FILE:
        await until(lambda: drained(bus, consumer))
    await bus.close()


async def test_a_server_that_is_away_for_three_seconds_costs_the_publishers_nothing(
    own_nats: OwnServer, source: str
) -> None:
    bus = await Bus.connect(own_nats.environment["nats_host"], "test")
    consumer = queue(source, storage=StorageType.FILE)
    pull = await bus.pull(consumer, Frame, window=64)
    publishing = asyncio.TaskGroup()

    async def publish() -> None:
        for begin in range(0, 100, 5):
            async with asyncio.TaskGroup() as group:
                for seq in range(begin, begin + 5):
                    group.create_task(bus.publish(f"{source}.a", frame("cam", seq), msg_id=str(seq)))
            await asyncio.sleep(0.05)

    async with publishing:
        publishing.create_task(publish())
        await asyncio.sleep(0.3)
        await own_nats.kill()
        await asyncio.sleep(3)
        await own_nats.start()
    info = await bus.stream_info(source)
    assert info
    assert info.state.last_seq == 100
    found: set[int] = set()
    while len(found) < 100:  # what the server had delivered when it was killed may come again
        found.update(await seqs(pull, 1))
    assert found == set(range(100))
    await until(lambda: drained(bus, consumer))
    await bus.close()


async def test_reading_waits_for_a_server_that_is_away(own_nats: OwnServer, source: str) -> None:
    bus = await Bus.connect(own_nats.environment["nats_host"], "test")
    stream = Stream(StreamConfig(name=source, subjects=[f"{source}.*"], allow_direct=True))
    await bus.declare(stream)
    for seq in range(300):
        await bus.publish(f"{source}.a", frame("cam", seq), msg_id=str(seq))
    read: list[int] = []

    async def read_all() -> None:
        async for stored in bus.read(source, f"{source}.*", 1, Frame, batch=50):
            read.append(stored.message.seq)
            await asyncio.sleep(0.002)

    reading = asyncio.create_task(read_all())
    await asyncio.sleep(0.3)
    await own_nats.kill()
    await asyncio.sleep(0.5)
    await own_nats.start()
    await reading
    assert read == list(range(300))
    await bus.close()


async def test_a_message_says_where_it_comes_from() -> None:
    plain = Meta.parse("$JS.ACK.S.C.2.10.11.1700000000000000000.5")
    domain = Meta.parse("$JS.ACK.hub.A1.S.C.2.10.11.1700000000000000000.5.x")
    assert plain == domain == Meta("S", "C", 2, 10, 1.7e9, 5)


async def test_a_request_carries_a_window_and_a_heartbeat(bus: Bus, source: str) -> None:
    asked: list[dict[str, int]] = []

    async def on_request(msg: Any) -> None:
        asked.append(json.loads(msg.data))

    await bus.client.subscribe(f"$JS.API.CONSUMER.MSG.NEXT.{source}.workers", cb=on_request)
    await bus.pull(queue(source), Frame, window=10)

    async def any_asked() -> bool:
        return bool(asked)

    await until(any_asked)
    assert asked == [{"batch": 10, "expires": 30_000_000_000, "idle_heartbeat": 5_000_000_000}]


async def test_a_consumer_with_another_ack_wait_is_changed_in_place(bus: Bus, source: str) -> None:
    consumer = queue(source, ack_wait=1)
    await bus.declare_consumer(consumer)
    await bus.declare_consumer(replace(consumer, config=consumer.config.evolve(ack_wait=7)))
    assert (await state(bus, consumer)).config.ack_wait == 7
