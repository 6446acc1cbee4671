"""Hands of a worker."""

import asyncio

from framemesh.steps.hands import Hands


async def test_a_hand_that_somebody_else_took_is_not_free() -> None:
    hands = Hands(1)
    hands.take()
    waiting = asyncio.create_task(hands.free(0.1))
    await asyncio.sleep(0)
    hands.put_down()
    hands.take()
    assert not await waiting


async def test_one_who_waits_hears_of_a_hand() -> None:
    hands = Hands(1)
    hands.take()
    waiting = asyncio.create_task(hands.free(5))
    await asyncio.sleep(0)
    hands.put_down()
    assert await waiting
