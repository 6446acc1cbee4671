"""Pictures, collections and statistics in SQLite and in PostgreSQL, with many at a time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from framemesh.database.images import CollectionMissing, Image, ImageTable, Statistics, Taken, Thumbnail
from framemesh.database.marks import Marks
from framemesh.images import new_image_id, new_key
from tests.integration.postgres import database, engine, postgres

__all__ = ["database", "engine", "postgres"]


def image(number: int, **values: object) -> Image:
    new = new_image_id()
    made = Image(
        id=new, collection="trip", name=f"{number:03}.png", owner="ann", key=new_key(new, "png"), type="png",
        bytes=100 + number, width=4, height=3, animated=False, sha256="0" * 64, created=time.time(),
        task=f"job/step/{number}",
    )  # fmt: skip
    return replace(made, **values)  # type: ignore[arg-type]


def thumbnails(count: int = 6) -> list[Thumbnail]:
    return [Thumbnail(100 + number, "webp", 4, 3, 10, "0" * 64) for number in range(count)]


def counted(found: Statistics) -> tuple[int, int, int, int]:
    return found.images, found.bytes, found.thumbnails, found.thumbnail_bytes


async def test_statistics_are_right_whatever_comes_and_goes_at_once(engine: AsyncEngine) -> None:
    table = ImageTable(engine)
    await table.create_collection("trip", "ann")

    async def life(number: int) -> None:
        made = await table.add(image(number))
        await table.set_thumbnails(made, thumbnails())
        await table.set_thumbnails(made, thumbnails(4))
        if number % 3 == 0:
            await table.delete(made)
            await table.delete(made)
        elif number % 3 == 1:
            assert await table.replace(made, new_key(made.id, "png"), made.bytes - 50, "1" * 64)
            assert not await table.replace(made, new_key(made.id, "png"), 1, "2" * 64)

    async def recounts() -> None:
        for _ in range(5):
            await table.recount("trip")
            await asyncio.sleep(0.01)

    await asyncio.gather(*(life(number) for number in range(30)), recounts())
    kept = [number for number in range(30) if number % 3]
    right = (20, sum(100 + number - 50 * (number % 3 == 1) for number in kept), 80, 800)
    assert counted((await table.collection("trip")).statistics) == right
    assert counted(await table.recount("trip")) == right


async def test_of_many_of_one_name_one_is_recorded_and_a_task_records_once(engine: AsyncEngine) -> None:
    table = ImageTable(engine)
    await table.create_collection("trip", "ann")
    found = await asyncio.gather(
        *(table.add(image(1, task=f"task-{number}")) for number in range(8)), return_exceptions=True
    )
    assert sum(isinstance(each, Image) for each in found) == 1
    assert sum(isinstance(each, Taken) for each in found) == 7
    tries = await asyncio.gather(*(table.add(image(2)) for _ in range(5)))
    assert len({each.id for each in tries}) == 1
    assert await table.unfinished("job") == tries[:1]
    assert await table.unfinished("jo_") == await table.unfinished("jo") == []
    await table.set_thumbnails(tries[0], thumbnails())
    assert await table.unfinished("job") == []
    assert (await table.collection("trip")).statistics.images == 2


async def test_nothing_comes_into_a_collection_that_goes(engine: AsyncEngine) -> None:
    table = ImageTable(engine)
    await table.create_collection("trip", "ann")
    with pytest.raises(Taken, match="there is a collection trip"):
        await table.create_collection("trip", "bob")
    first = await table.add(image(0))
    await table.set_thumbnails(first, thumbnails())
    with pytest.raises(Taken, match="trip has images"):
        await table.delete_collection("trip")
    found = await asyncio.gather(
        table.delete_collection("trip", force=True),
        *(table.add(image(number)) for number in range(1, 6)),
        return_exceptions=True,
    )
    assert all(each is None or isinstance(each, Image | CollectionMissing) for each in found), found
    assert await table.collections() == []
    assert await table.keys([first.id]) == {}
    assert await table.page("trip") == []
    assert not await table.set_thumbnails(first, thumbnails())
    assert not await table.replace(first, new_key(first.id, "png"), 1, "2" * 64)
    with pytest.raises(CollectionMissing, match="POST /collections"):
        await table.recount("trip")


async def test_a_note_is_the_last_one(engine: AsyncEngine) -> None:
    marks = Marks(engine)
    assert await marks.get("a") is None
    for value in ("1", "2"):
        await marks.put("a", value)
        assert await marks.get("a") == value
