"""What services note for themselves in the results database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from framemesh.database.tables import MarkRow


def insert_for(engine: AsyncEngine) -> Any:
    """The INSERT of the database's own kind, which knows ON CONFLICT."""
    return (postgresql if engine.dialect.name == "postgresql" else sqlite).insert


class Marks:
    """Texts by name."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = insert_for(engine)

    async def get(self, name: str) -> str | None:
        """What was noted last."""
        async with self._engine.connect() as connection:
            return await connection.scalar(select(MarkRow.value).where(MarkRow.name == name))

    async def put(self, name: str, value: str) -> None:
        """Note something, instead of what was noted under the name before."""
        wanted = self._insert(MarkRow).values(name=name, value=value)
        async with self._engine.begin() as connection:
            await connection.execute(
                wanted.on_conflict_do_update(index_elements=["name"], set_={"value": wanted.excluded.value})
            )
