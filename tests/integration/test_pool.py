"""Processes that answer calls: kept, bounded, ended in the middle of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from framemesh.errors import FramemeshError
from framemesh.pool import Answer, CallFailed, ChildEnded, Pool
from tests.samples import until

WORK = "tests.integration.pool_bodies:work"


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    made = Pool(2, 2 << 30, 20.0)
    yield made
    await made.close()
    assert not children()


def children() -> list[int]:
    """Processes of pools that live."""
    return [each.pid for each in psutil.Process().children() if "framemesh.pool" in each.cmdline()]


async def pid(pool: Pool) -> int:
    return int((await pool.call(WORK, {})).output["pid"])


async def test_bytes_go_and_come_as_they_are_and_no_settings_go(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("s3_secret_key", "not theirs")
    data = bytes(range(256)) * 40_000
    assert await pool.call(WORK, {}, data) == Answer(
        {"pid": children()[0], "bytes": len(data), "settings": False}, [data, data[::-1], b""]
    )


async def test_a_process_is_kept_and_there_are_never_more_than_allowed(pool: Pool) -> None:
    assert await pid(pool) == await pid(pool)
    found = await asyncio.gather(*(pid(pool) for _ in range(12)))
    assert len(set(found)) == 2


@pytest.mark.parametrize(("how", "kind", "said"), [
    ("refuse", FramemeshError, "file: not this one"), ("fail", CallFailed, "KeyError: 'no idea'"),
    ("grow", CallFailed, "MemoryError"),
])  # fmt: skip
async def test_what_a_call_raises_comes_back_and_the_process_stays(
    pool: Pool, how: str, kind: type[Exception], said: str
) -> None:
    before = await pid(pool)
    with pytest.raises(kind, match=said):
        await pool.call(WORK, {"how": how})
    assert await pid(pool) == before


@pytest.mark.parametrize(
    ("how", "said"), [("die", "SIGKILL"), ("exit", "ended with 3"), ("flood", "an answer of 314572800 bytes")]
)
async def test_a_process_that_dies_is_named_and_replaced(pool: Pool, how: str, said: str) -> None:
    before = await pid(pool)
    with pytest.raises(ChildEnded, match=said):
        await pool.call(WORK, {"how": how})
    assert await pid(pool) != before


@pytest.mark.parametrize("how", ["hang", "spin"])
async def test_a_call_that_takes_too_long_ends_its_process(how: str) -> None:
    pool = Pool(1, 0, 0.5)
    with pytest.raises(ChildEnded, match=r"took longer than 0.5 s"):
        await pool.call(WORK, {"how": how})
    assert not children()
    await pool.close()


async def test_a_call_that_nobody_wants_ends_its_process_and_another_takes_its_place(pool: Pool) -> None:
    calls: list[asyncio.Task[Any]] = [asyncio.create_task(pool.call(WORK, {"how": "spin"})) for _ in range(2)]

    async def busy() -> bool:
        return len(children()) == 2

    await until(busy)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    assert not children()
    assert await pid(pool)
