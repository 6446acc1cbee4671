"""How many may be in at a time; who finds no room is told to come again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.gateway.problems import away

KEPT = 4
"""Of so many places one is kept for owners who have none yet, so that nobody can keep all others out."""


class Room:
    """Room for so many."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self._owners: Counter[str] = Counter()

    @property
    def inside(self) -> int:
        """How many are in."""
        return self._owners.total()

    @contextmanager
    def entered(self, owner: str) -> Iterator[None]:
        """Be in for a block. Raises Problem when there is no place for an owner."""
        places = self._most - (self._most // KEPT if self._owners[owner] else 0)
        if self.inside >= places:
            raise away(f"{places} {self._what} are under way: try again in some seconds")
        self._owners[owner] += 1
        try:
            yield
        finally:
            self._owners[owner] -= 1
            self._owners += Counter()  # those who have left are forgotten
