"""Where passages and their vectors lie: in a folder of this service, or on a Qdrant server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from framemesh.errors import FramemeshError
from services.search.passages import Found, Passage, Point, Vector, Where
from services.search.settings import SearchSettings

DENSE, WORDS = "meaning", "words"
PAGE = 256
_NAME = re.compile(r".*-(\d+)-[a-z]+")
AVERAGE_WORDS = 60.0
"""Words of a passage, for BM25: with longer ones a word counts less."""


class Shelf(Protocol):
    """Passages of one embedding model: vectors of two models are never compared."""

    async def put(self, points: Sequence[Point]) -> None:
        """Lay down passages, in place of those of the same ids."""

    async def drop(self, ids: Sequence[str]) -> None:
        """Take passages away."""

    async def clear(self, where: Where) -> None:
        """Take away all of a kind."""

    async def get(self, ids: Sequence[str]) -> dict[str, Point]:
        """Those that are there, by id."""

    def all(self, where: Where) -> AsyncIterator[Point]:
        """Passages in no order."""

    async def near(self, vector: Vector, where: Where, limit: int, least: float) -> list[Found]:
        """Those of the most similar meaning, at least so similar (cosine)."""

    async def worded(self, text: str, where: Where, limit: int) -> list[Found]:
        """Those with the words of a text, by BM25."""

    async def count(self) -> int:
        """How many there are."""

    async def flush(self) -> None:
        """Return when everything is on disk."""

    async def tidy(self) -> None:
        """Give back the room of what was taken away, where it is much."""

    async def close(self) -> None:
        """Let go."""


class Library(Protocol):
    """The shelves of a place, by name."""

    async def open(self, name: str, size: int) -> tuple[Shelf, bool]:
        """A shelf for vectors of so many numbers, and whether it is new."""

    async def names(self) -> list[str]:
        """Shelves that there are."""

    async def remove(self, name: str) -> None:
        """Take a shelf away with all that lies on it."""

    async def close(self) -> None:
        """Let go of the place."""


def shelf_name(model: str, size: int, language: str) -> str:
    """A name for what depends on these: what was made by another model lies elsewhere."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", model).strip("-").lower()[:80]
    return f"{plain}-{size}-{language}"


def size_of(name: str) -> int | None:
    """How many numbers the vectors of a shelf have; None where it is none of ours."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def parsed(payload: object) -> Passage:
    """A passage as it lies. Raises ValidationError."""
    return Passage.model_validate(payload)


def library(settings: SearchSettings) -> Library:
    """Where the settings say. Raises FramemeshError."""
    from services.search.edge import EdgeLibrary  # noqa: PLC0415 - one of the two is enough
    from services.search.qdrant import QdrantLibrary  # noqa: PLC0415

    try:
        if settings.search_url:
            key = settings.search_api_key.get_secret_value()
            return QdrantLibrary.at(settings.search_url, key, settings.search_language)
        return EdgeLibrary(settings.search_path, settings.search_language)
    except ValueError as error:
        raise FramemeshError(f"setting search_language: {error}") from error
