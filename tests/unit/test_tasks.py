"""Calls that go together."""

import asyncio

import pytest

from framemesh.tasks import Together, finished


async def test_what_comes_meanwhile_goes_in_the_next() -> None:
    seen: list[list[int]] = []
    gate = asyncio.Event()

    async def double(numbers: list[int]) -> list[int]:
        seen.append(numbers)
        await gate.wait()
        return [2 * number for number in numbers]

    together = Together(double)
    first = asyncio.create_task(together(1))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(together(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0.01)
    gate.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert seen == [[1], [2, 3, 4]]


async def test_an_error_is_raised_to_all_and_the_next_goes_on() -> None:
    async def picky(numbers: list[int]) -> list[int]:
        await asyncio.sleep(0)
        if 0 in numbers:
            raise ValueError("a zero")
        return numbers

    together = Together(picky)
    for result in await asyncio.gather(together(0), together(0), return_exceptions=True):
        assert isinstance(result, ValueError)
    assert await together(1) == 1


async def test_one_who_has_gone_takes_nobody_with_it() -> None:
    async def slowly(numbers: list[int]) -> list[int]:
        await asyncio.sleep(0.02)
        return numbers

    together = Together(slowly)
    gone, stays = asyncio.create_task(together(1)), asyncio.create_task(together(2))
    await asyncio.sleep(0.01)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await stays == 2


@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_finished_is_not_broken_off(fails: bool) -> None:
    gate, ended = asyncio.Event(), False

    async def work() -> int:
        nonlocal ended
        await gate.wait()
        ended = True
        return 1 // (not fails)

    waiting = asyncio.create_task(finished(work(), 10))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended
    gate.clear()
    waiting = asyncio.create_task(finished(work(), 0.01))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
