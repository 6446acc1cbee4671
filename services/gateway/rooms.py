"""How many may be in at a time; who finds no room is told to come again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.gateway.problems import away


class Room:
    """Room for so many."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self.inside = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in for a block. Raises Problem when it is full."""
        if self.inside >= self._most:
            raise away(f"{self._most} {self._what} are under way: try again in some seconds")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
