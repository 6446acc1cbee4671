"""Connects to the results database and brings its tables up to date."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path
from typing import Any

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from framemesh.errors import FramemeshError
from framemesh.telemetry import redact

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_KNOWN = {"host", "port", "ssl", "prepared_statement_cache_size", "target_session_attrs"}
BUSY_S = 15.0
SQLITE_PATIENCE_S = 2.0
_LOCK = 0x66726D73
"""Of PostgreSQL: two services that start at once do not both migrate."""


def database_url(text: str) -> URL:
    """The address with its driver. Raises FramemeshError."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise FramemeshError(
            f"jobs_database: {redact(text)!r} is no address: give sqlite:///jobs.db or postgresql://user@host/name"
        ) from None
    driver = _DRIVERS.get(url.drivername.partition("+")[0])
    if driver is None:
        raise FramemeshError(f"jobs_database: {url.drivername} is not known: give sqlite:///… or postgresql://…")
    return url.set(drivername=driver)


async def open_database(text: str, patience: float = 30.0) -> AsyncEngine:
    """An engine on an up-to-date database; waits ``patience`` seconds for its server. Raises FramemeshError."""
    url = database_url(text)
    engine = _engine(url)
    loop = asyncio.get_running_loop()
    # Of a file another process may just be making the tables.
    deadline = loop.time() + (
        patience if url.drivername != _DRIVERS["sqlite"] else min(patience, SQLITE_PATIENCE_S)
    )
    while True:
        try:
            async with engine.begin() as connection:
                await connection.run_sync(_migrate)
        except (OSError, SQLAlchemyError) as error:
            if not isinstance(error, OSError | DBAPIError) or loop.time() > deadline:
                await engine.dispose()
                raise FramemeshError(
                    f"jobs_database: {redact(text)} cannot be used ({_first_line(error)}): check the address, "
                    "the rights and that its server runs"
                ) from error
            await asyncio.sleep(0.5)
        else:
            return engine


def _engine(url: URL) -> AsyncEngine:
    if url.drivername != _DRIVERS["sqlite"]:
        url, arguments = _arguments(url)
        return create_async_engine(url, pool_pre_ping=True, connect_args=arguments)
    if url.database and url.database != ":memory:":
        Path(url.database).absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine.sync_engine, "connect")
    def _(connection: object, _: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
        cursor.execute("PRAGMA synchronous=NORMAL")  # the stream has it all again
        cursor.close()

    return engine


def _arguments(url: URL) -> tuple[URL, dict[str, Any]]:
    """An address of PostgreSQL as SQLAlchemy wants it, and what it has no place for. Raises FramemeshError."""
    query, arguments = dict(url.query), dict[str, Any](async_creator_fn=_connect)
    if "sslmode" in query:
        query.setdefault("ssl", query.pop("sslmode"))
    if "application_name" in query:
        arguments["server_settings"] = {"application_name": query.pop("application_name")}
    if unknown := query.keys() - _KNOWN:
        known = ", ".join(sorted(_KNOWN | {"sslmode", "application_name"}))
        raise FramemeshError(f"jobs_database: ?{min(unknown)}= is not known; known: {known}")
    return url.set(query=query), arguments


async def _connect(*given: Any, **named: Any) -> asyncpg.Connection:
    """SQLAlchemy lets asyncpg's errors pass as they are. Raises OSError."""
    try:
        return await asyncpg.connect(*given, **named)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise ConnectionError(str(error)) from error


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    config = Config()
    config.set_main_option("script_location", str(files("framemesh.database") / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return redact(str(cause).strip().splitlines()[0]) if str(cause).strip() else type(cause).__name__
