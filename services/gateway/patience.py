"""How long a client is waited for: who sends a body drop by drop must not keep others out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from services.gateway.problems import Problem

MOST_S = 30.0
"""Seconds that a client may keep one waiting; what it sends earns it more."""
LEAST_BYTES = 4096
"""Bytes that earn a second."""

T = TypeVar("T")


class Patience:
    """The patience with one body. Only the time that is spent waiting for the client is counted."""

    def __init__(self) -> None:
        self._left = MOST_S

    async def within(self, work: Awaitable[T]) -> T:
        """Wait for what the client sends. Raises Problem when it is too slow."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._left):
                got = await work
        except TimeoutError:
            raise Problem(
                400, f"less than {LEAST_BYTES >> 10} KiB a second came for {MOST_S:g} s: send the request again"
            ) from None
        earned = len(got) / LEAST_BYTES if isinstance(got, bytes | bytearray) else 0.0
        self._left = min(MOST_S, self._left - (time.monotonic() - begun) + earned)
        return got
