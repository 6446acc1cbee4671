"""Windows that several replicas transcribe, in any order, through a real Redis, which may go away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from framemesh.messages import AudioTask, Segment, Word
from framemesh.registry import connect
from services.transcribe.memory import Memory
from tests.samples import OwnServer, window

KIND = "TranscribeInference"


def task(source: str, seq: int, **values: Any) -> AudioTask:
    return AudioTask(**window(source, seq, **values).model_dump() | {"model": KIND})


def heard(*words: tuple[str, float, float]) -> list[Segment]:
    """Times in seconds from 1000, where the first window begins."""
    made = [Word(text=text, start=1000 + start, end=1000 + end, confidence=0.9) for text, start, end in words]
    text = " ".join(word.text for word in made)
    return [Segment(confidence=0.9, text=text, start=made[0].start, end=made[-1].end, words=made)]


ONE = heard(("my", 4.0, 4.4), ("fell", 4.6, 5.0))
TWO = heard(("fellow", 4.6, 5.1), ("Americans", 5.1, 5.8), ("a", 9.1, 9.5))
THREE = heard(("ask", 9.1, 9.4), ("not", 9.6, 9.9))


def texts(found: Sequence[Segment]) -> list[str]:
    return [word.text for segment in found for word in segment.words]


async def test_replicas_share_what_is_said_at_the_edges(redis: Redis, source: str) -> None:
    one, two = Memory(redis, KIND), Memory(redis, KIND)
    assert texts(await one.stitched(ONE, task(source, 0))) == ["my"]
    assert texts(await two.stitched(TWO, task(source, 1))) == ["fellow", "Americans"]
    assert texts(await one.stitched(THREE, task(source, 2, tail=0.0))) == ["ask", "not"]


async def test_a_window_that_is_early_waits_for_the_one_before(redis: Redis, source: str) -> None:
    memory = Memory(redis, KIND)
    early = asyncio.create_task(memory.stitched(heard(("low", 4.5, 4.9), ("men", 5.2, 5.5)), task(source, 1)))
    await asyncio.sleep(0.3)
    assert not early.done()
    assert texts(await memory.stitched(heard(("fellow", 4.4, 4.9)), task(source, 0))) == ["fellow"]
    assert texts(await early) == ["men"]


async def test_windows_that_wait_do_not_wait_for_each_other(redis: Redis, source: str) -> None:
    """Each has said what the next must know before it waits itself."""
    memory = Memory(redis, KIND)
    given = await asyncio.gather(
        memory.stitched(THREE, task(source, 2, tail=0.0)),
        memory.stitched(TWO, task(source, 1)),
        memory.stitched(ONE, task(source, 0)),
    )
    assert [texts(found) for found in given] == [["ask", "not"], ["fellow", "Americans"], ["my"]]


async def test_one_that_never_comes_is_not_waited_for_long(redis: Redis, source: str) -> None:
    begun = time.monotonic()
    assert texts(await Memory(redis, KIND, patience=0.2).stitched(TWO, task(source, 1))) == ["fellow", "Americans"]
    assert time.monotonic() - begun >= 0.2


async def test_a_task_that_comes_again_gives_the_same(redis: Redis, source: str) -> None:
    memory = Memory(redis, KIND)
    await memory.stitched(ONE, task(source, 0))
    first = await memory.stitched(TWO, task(source, 1))
    assert await Memory(redis, KIND).stitched(TWO, task(source, 1)) == first


@pytest.mark.parametrize("other", [{"run": "run-2"}, {"channel": 1}])
async def test_another_run_or_channel_is_another_sound(redis: Redis, source: str, other: dict[str, Any]) -> None:
    await Memory(redis, KIND).stitched(ONE, task(source, 0))
    memory = Memory(redis, KIND, patience=0)
    assert texts(await memory.stitched(heard(("fell", 4.6, 5.0)), task(source, 1, **other))) == ["fell"]


@pytest.mark.parametrize("channels", [2, 40])
async def test_each_of_many_channels_finds_its_own_window_before(redis: Redis, source: str, channels: int) -> None:
    """A run numbers the windows of all its channels in one row."""
    memory = Memory(redis, KIND)
    for channel in range(channels):
        first = task(source, channel, channel=channel, number=0, timestamp=1000.0, overlap=0.0)
        await memory.stitched(ONE if channel == 1 else [], first)
    second = task(source, channels + 1, channel=1, number=1, timestamp=1004.5, overlap=0.5)
    assert texts(await memory.stitched(heard(("my", 4.5, 4.55)), second)) == ["fell"]


@pytest.mark.parametrize("by", [-3.0, -0.9, -0.3, 0.0, 0.2])
async def test_a_clock_that_was_set_between_two_windows_costs_no_word(
    redis: Redis, source: str, by: float
) -> None:
    """A camera's sound moves when it arrives earlier than ever: what both heard is the same nevertheless."""
    memory = Memory(redis, KIND)
    await memory.stitched(heard(("my", 4.0, 4.4), ("fel", 4.6, 4.9)), task(source, 0))
    later = heard(("fellow", 4.6 + by, 4.9 + by), ("Americans", 5.1 + by, 5.8 + by))
    assert texts(await memory.stitched(later, task(source, 1, timestamp=1004.5 + by, tail=0.0))) == [
        "fellow",
        "Americans",
    ]
    again = heard(("fellow", 4.6 + by, 4.9 + by), ("Americans", 5.1 + by, 5.8 + by))
    await memory.stitched(heard(("my", 4.0, 4.4), ("fellow", 4.4, 4.9)), task(source, 0))
    assert texts(await memory.stitched(again, task(source, 1, timestamp=1004.5 + by, tail=0.0))) == ["Americans"]


async def test_words_that_only_the_window_before_heard_have_the_times_of_the_later_one(
    redis: Redis, source: str
) -> None:
    memory = Memory(redis, KIND)
    await memory.stitched(heard(("my", 4.55, 4.7)), task(source, 0))
    [found] = await memory.stitched([], task(source, 1, timestamp=1003.5, tail=0.0))
    assert [found.start, found.end] == pytest.approx([1003.55, 1003.7])


async def test_without_redis_every_window_speaks_for_itself(
    own_redis: OwnServer, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(own_redis.environment["redis_host"], int(own_redis.environment["redis_port"]))
    memory = Memory(client, KIND)
    await own_redis.kill()
    with caplog.at_level(logging.WARNING):
        assert texts(await memory.stitched(ONE, task(source, 0))) == ["my"]
        assert texts(await memory.stitched(TWO, task(source, 1))) == ["fellow", "Americans"]
    assert sum("Redis does not answer" in message for message in caplog.messages) == 1
    await own_redis.start()
    await memory.stitched(ONE, task(source, 0))
    assert texts(await memory.stitched(heard(("low", 4.6, 4.9)), task(source, 1))) == ["low"]
    await client.aclose()


async def test_what_somebody_else_has_written_there_is_passed_over(redis: Redis, source: str) -> None:
    await redis.set(f"stitch:{KIND}:{source}:run-1:all:0", "{}")
    assert texts(await Memory(redis, KIND, patience=0).stitched(TWO, task(source, 1))) == ["fellow", "Americans"]
