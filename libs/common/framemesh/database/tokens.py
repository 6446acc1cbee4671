"""Bearer tokens in the results database, so that every gateway knows the same."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from framemesh.database.tables import TokenRow
from framemesh.errors import FramemeshError
from framemesh.tokens import Scope, Token, check_name, hashed, new_secret

LONGEST = 200
"""Characters of what is looked up."""
_COLUMNS = (TokenRow.name, TokenRow.scope, TokenRow.created, TokenRow.expires)


class TokenTable:
    """The tokens, by the hash of each."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def create(self, name: str, scope: Scope, lasts: float | None = None) -> str:
        """Make a token that ends after ``lasts`` seconds; the token, which is never shown again.

        Raises FramemeshError for a name that is none or is taken.
        """
        check_name(name)
        secret, now = new_secret(), time.time()
        expires = None if lasts is None else now + lasts
        row = {"name": name, "hash": hashed(secret), "scope": scope.value, "created": now, "expires": expires}
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(TokenRow).values(row))
        except IntegrityError:
            raise FramemeshError(
                f"name {name}: there is a token of that name: choose another, or `framemesh tokens revoke {name}`"
            ) from None
        return secret

    async def find(self, secret: str) -> Token | None:
        """What is known of a token; None for one that is none, was revoked, or whose time is over."""
        if len(secret) > LONGEST:
            return None
        wanted = select(*_COLUMNS).where(TokenRow.hash == hashed(secret))
        async with self._engine.connect() as connection:
            row = (await connection.execute(wanted)).first()
        token = _token(row) if row else None
        return None if token is None or token.expired else token

    async def named(self, name: str) -> tuple[Token, str] | None:
        """A token by its name, and the hash that it is known by; None as ``find``."""
        wanted = select(*_COLUMNS, TokenRow.hash).where(TokenRow.name == name)
        async with self._engine.connect() as connection:
            row = (await connection.execute(wanted)).first()
        return None if row is None or _token(row).expired else (_token(row), str(row.hash))

    async def all(self) -> list[Token]:
        """Every token by its name, those whose time is over, too."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(*_COLUMNS).order_by(TokenRow.name))
            return [_token(row) for row in rows]

    async def revoke(self, name: str) -> None:
        """End a token at once. Raises FramemeshError where there is none of that name."""
        wanted = delete(TokenRow).where(TokenRow.name == name).returning(TokenRow.name)
        async with self._engine.begin() as connection:
            gone = (await connection.execute(wanted)).first()
        if gone is None:
            raise FramemeshError(
                f"name {name}: there is no token of that name: `framemesh tokens list` shows those that there are"
            )


def _token(row: Any) -> Token:
    return Token(row.name, Scope(row.scope), row.created, row.expires)
