"""Frames by time, found by bisection in a stream that two sources share."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.messages import Frame
from framemesh.timeline import between, position, thinned
from tests.samples import frame, until

COUNT = 3000


@pytest.fixture
async def stream(bus: Bus, source: str) -> str:
    """Two sources, interleaved at random: ``a`` with 25 frames a second, ``b`` with 10 that begin later."""
    topic = f"t-{source}"
    declared = subjects.frames_stream(topic, 900)
    await bus.declare(declared)
    left = [frame("a", i, timestamp=1000 + i / 25) for i in range(COUNT)]
    right = [frame("b", i, timestamp=1050 + i / 10) for i in range(COUNT // 3)]
    order = ["a"] * len(left) + ["b"] * len(right)
    random.Random(7).shuffle(order)
    queues = {"a": iter(left), "b": iter(right)}
    for name in order:
        await bus.client.publish(f"{topic}.{name}", next(queues[name]).model_dump_json().encode())

    async def stored() -> bool:
        info = await bus.stream_info(declared.name)
        return info is not None and info.state.messages == len(order)

    await until(stored)
    return topic


def time_of(found: Frame) -> float:
    return found.timestamp


async def spans(bus: Bus, topic: str, source: str, since: float, until_: float) -> list[int]:
    name = subjects.frames_stream(topic, 0).name
    return [found.seq async for found in between(bus, name, f"{topic}.{source}", since, until_)]


async def test_a_span_holds_the_frames_of_one_source_in_order(bus: Bus, stream: str) -> None:
    assert await spans(bus, stream, "a", 1010, 1012) == list(range(250, 301))
    assert await spans(bus, stream, "b", 1050, 1051) == list(range(11))
    assert await spans(bus, stream, "a", 1010.001, 1010.041) == [251]
    assert await spans(bus, stream, "a", 0, 1000.1) == [0, 1, 2]
    assert await spans(bus, stream, "a", 1119.9, 9999) == [2998, 2999]
    assert await spans(bus, stream, "a", 5000, 6000) == []
    assert await spans(bus, stream, "b", 0, 1049) == []
    assert await spans(bus, stream, "nobody", 0, 9999) == []
    assert len(await spans(bus, stream, "a", 0, 9999)) == COUNT


async def test_a_position_is_the_first_frame_at_or_after_a_time(bus: Bus, stream: str) -> None:
    name, subject = subjects.frames_stream(stream, 0).name, f"{stream}.a"
    for seq in (0, 1, 777, COUNT - 1):
        for early in (0.0, 0.03):
            begin = await position(bus, name, subject, Frame, time_of, 1000 + seq / 25 - early)
            found = await bus.at_or_after(name, subject, begin, Frame)
            assert found
            assert found.message.seq == seq
    info = await bus.stream_info(name)
    assert info
    assert await position(bus, name, subject, Frame, time_of, 5000) == info.state.last_seq + 1
    assert await position(bus, "NOTHING", subject, Frame, time_of, 1000) == 1


async def test_frames_that_are_gone_and_frames_that_are_none_are_passed_over(bus: Bus, stream: str) -> None:
    name = subjects.frames_stream(stream, 0).name
    begin = await position(bus, name, f"{stream}.a", Frame, time_of, 1010)
    await bus.jetstream.purge_stream(name, seq=begin)
    assert (await spans(bus, stream, "a", 1000, 1011))[:2] == [250, 251]
    await bus.jetstream.publish(f"{stream}.c", b"bad")
    await bus.publish(f"{stream}.c", frame("c", 1, timestamp=2000.0), msg_id="c")
    assert await spans(bus, stream, "c", 1000, 2000) == [1]


@pytest.mark.parametrize(
    ("fps", "wanted"),
    [(25, list(range(50))), (50, list(range(50))), (5, [0, *range(5, 50, 5), 49]), (0.4, [0, 49])],
)
async def test_thinning_shows_the_frames_of_a_slower_video(fps: float, wanted: list[int]) -> None:
    async def frames() -> AsyncIterator[Frame]:
        for i in range(50):
            yield frame("a", i)

    found = [item.seq async for item in thinned(frames(), fps)]
    assert found == sorted(set(found))
    assert found[0] == 0
    assert abs(len(found) - min(50, 2 * fps)) <= 2
    if fps >= 25:
        assert found == wanted


async def test_nothing_thins_to_nothing() -> None:
    async def frames() -> AsyncIterator[Frame]:
        return
        yield

    assert [item async for item in thinned(frames(), 5)] == []
