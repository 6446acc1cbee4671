"""A PostgreSQL of the tests' own, and databases in it."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from framemesh.database.engine import open_database
from framemesh.embedded import free_port
from tests.samples import until

BIN = next((path for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)


class Postgres:
    """One server, which can be stopped and started again."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder, self._port = programs, folder, free_port()
        self._options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        if os.geteuid() == 0:  # it refuses to run as root
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._options |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        command: list[str | Path] = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "mesh", "-N"]
        subprocess.run(command, check=True, **self._options)
        self.start()

    @property
    def address(self) -> str:
        """Without a database."""
        return f"postgresql://mesh@127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it; it does not take connections at once."""
        where: list[str | Path] = ["-D", self._folder / "data", "-p", str(self._port), "-k", self._folder]
        command: list[str | Path] = [self._programs / "postgres", *where, "-c", "listen_addresses=127.0.0.1", "-F"]
        self._server = subprocess.Popen(command, **self._options)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it, by default with all its connections."""
        self._server.send_signal(number)
        self._server.wait(20)

    async def fresh(self) -> str:
        """Address of a new and empty database."""
        name = f"d{secrets.token_hex(4)}"

        async def created() -> bool:
            try:
                connection = await asyncpg.connect(f"{self.address}/postgres")
            except (OSError, asyncpg.PostgresError):
                return False
            await connection.execute(f"create database {name}")
            await connection.close()
            return True

        await until(created, within=20)
        return f"{self.address}/{name}"


@contextmanager
def running() -> Iterator[Postgres]:
    """A server for the length of a block. Skips the test where there is none."""
    if BIN is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # Its account may not look into root's folders.
    folder = Path(tempfile.mkdtemp(prefix="framemesh-postgres-", dir="/var/tmp"))
    try:
        server = Postgres(BIN, folder)
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server that tests share."""
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/jobs.db"
    server: Postgres = request.getfixturevalue("postgres")
    return await server.fresh()


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    """A database with its tables."""
    made = await open_database(database)
    yield made
    await made.dispose()
