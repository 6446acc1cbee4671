"""What was asked for and what is published, in SQLite and in PostgreSQL, with many at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from framemesh.database.media import Media, MediaTable
from framemesh.errors import FramemeshError
from tests.integration.postgres import database, engine, postgres

__all__ = ["database", "engine", "postgres"]


@pytest.fixture
def table(engine: AsyncEngine) -> MediaTable:
    return MediaTable(engine)


async def asked(table: MediaTable, version: int, job: str, media: str = "m", **values: Any) -> bool:
    return await table.ask(
        media, **({"owner": "ann", "title": "t", "source": "s"} | values), job=job, version=version
    )


async def row(table: MediaTable, media: str = "m") -> Media:
    found = await table.find(media)
    assert found
    return found


async def test_of_those_who_ask_at_once_one_is_first(table: MediaTable) -> None:
    for version in (1, 2, 3):
        first = await asyncio.gather(*(asked(table, version, f"{version}-{n}") for n in range(8)))
        assert sum(first) == 1
        won = await row(table)
        assert (won.version, won.job) == (version, f"{version}-{first.index(True)}")
        assert await asked(table, version, won.job)  # as it does after a crash
    assert not await asked(table, 4, "x", owner="bob")
    assert not await asked(table, 5, "x")
    assert not await asked(table, 2, "x")


async def test_only_the_newest_version_is_published(table: MediaTable) -> None:
    said = {"edition": "e", "tags": {"title": "naïve \u0000 👩‍👩‍👧"}, "text": "x" * 100_000}
    assert await asked(table, 1, "a")
    assert await table.work_on("m", 1, "replayed")
    assert await table.publish("m", 1, said)
    assert ((await row(table)).job, (await row(table)).published) == ("replayed", said)
    before = await row(table)
    assert await asked(table, 2, "b", title="new")
    assert not await table.publish("m", 1, {"edition": "old"})
    assert not await table.work_on("m", 1, "a")
    assert (await row(table)).published == said
    await table.take_back("m", "b", before)
    assert await row(table) == before
    await table.take_back("m", "b", None)  # it is not that job's any more
    assert await row(table) == before


async def test_a_deletion_that_nobody_heard_of_is_taken_back(table: MediaTable) -> None:
    assert await asked(table, 1, "a")
    assert await table.publish("m", 1, {"edition": "e"})
    before = await row(table)
    assert await table.mark_deleted("m", "d", 2)
    await table.take_back("m", "d", before)
    assert await row(table) == before


async def test_what_is_deleted_can_be_asked_for_again(table: MediaTable) -> None:
    assert not await table.publish("m", 1, {})
    assert not await table.mark_deleted("m", "d", 1)
    assert await asked(table, 1, "a")
    assert await table.publish("m", 1, {"edition": "e"})
    assert sum(await asyncio.gather(*(table.mark_deleted("m", f"d{n}", 2) for n in range(4)))) == 1
    assert (await row(table)).deleted
    assert not await table.work_on("m", 2, "a")
    assert await table.page() == []
    assert await asked(table, 3, "b")
    await table.remove("m", 2)
    assert ((await row(table)).version, (await row(table)).published) == (3, None)
    assert await table.mark_deleted("m", "d", 4)
    await table.remove("m", 4)
    assert await table.find("m") is None


async def test_pages_have_each_once_the_newest_first(table: MediaTable) -> None:
    for n in range(7):
        await asked(table, 1, f"j{n}", f"m{n}", owner="ann" if n % 2 else "bob", source="x" if n < 4 else "y")
    seen: list[str] = []
    while page := await table.page(limit=2, after=seen[-1] if seen else ""):
        seen += [each.id for each in page]
    assert seen == [f"m{n}" for n in reversed(range(7))]
    assert [each.id for each in await table.page(owner="ann", source="x")] == ["m3", "m1"]
    with pytest.raises(FramemeshError, match="cursor: m9 is not there"):
        await table.page(after="m9")
