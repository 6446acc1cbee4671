"""How many steps of a function more may be begun in this process."""

from __future__ import annotations

import asyncio


class Hands:
    """How many steps more may be begun here."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._freed = asyncio.Event()

    def take(self) -> None:
        """A step begins."""
        self.count -= 1

    def put_down(self) -> None:
        """A step has ended."""
        self.count += 1
        self._freed.set()

    async def free(self, wait: float) -> bool:
        """Whether there is one free, within ``wait`` seconds."""
        if self.count > 0:
            return True
        try:
            async with asyncio.timeout(wait):
                while self.count < 1:
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            return False
        return True
