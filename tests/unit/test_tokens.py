"""Tokens: their secrets, scopes, times, and the commands."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from framemesh.cli import app
from framemesh.database.engine import open_database
from framemesh.database.tokens import TokenTable
from framemesh.errors import FramemeshError
from framemesh.settings import load
from framemesh.tokens import Scope, duration, hashed, new_secret
from framemesh.tokens_cli import DatabaseSettings, database_address


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    made = await open_database(f"sqlite:///{tmp_path}/jobs.db")
    yield made
    await made.dispose()


@pytest.fixture
def tokens(engine: AsyncEngine) -> TokenTable:
    return TokenTable(engine)


def run(*args: str) -> str:
    """What a command prints on standard output."""
    result = CliRunner().invoke(app, ["tokens", *args])
    if result.exception:
        raise result.exception
    return result.stdout


async def test_a_token_is_found_by_its_secret_alone(tokens: TokenTable) -> None:
    secret = await tokens.create("mobile-app", Scope.OPERATOR)
    found = await tokens.find(secret)
    assert found
    assert (found.name, found.scope, found.expires) == ("mobile-app", Scope.OPERATOR, None)
    for wrong in (
        "",
        secret[:-1],
        secret.upper(),
        hashed(secret),
        "fm_" + "x" * 43,
        secret + "x" * 10_000,
        "\udcff",
    ):
        assert await tokens.find(wrong) is None


async def test_the_secret_lies_nowhere(tokens: TokenTable, engine: AsyncEngine, tmp_path: Path) -> None:
    secret = await tokens.create("a", Scope.ADMIN)
    await engine.dispose()
    files = [path.read_bytes() for path in tmp_path.glob("jobs.db*")]
    assert any(hashed(secret).encode() in data for data in files)
    assert not any(secret.encode() in data or secret[3:].encode() in data for data in files)


async def test_a_token_ends_in_time_or_when_it_is_revoked(tokens: TokenTable) -> None:
    short, long = await tokens.create("short", Scope.VIEWER, 0.0), await tokens.create("long", Scope.VIEWER, 60.0)
    assert await tokens.find(short) is None
    assert await tokens.find(long)
    assert [(token.name, token.expired) for token in await tokens.all()] == [("long", False), ("short", True)]
    await tokens.revoke("long")
    assert await tokens.find(long) is None
    with pytest.raises(FramemeshError, match="name long: there is no token of that name"):
        await tokens.revoke("long")


async def test_a_name_is_had_once_and_can_own_jobs(tokens: TokenTable) -> None:
    first = await tokens.create("a", Scope.VIEWER)
    with pytest.raises(FramemeshError, match="name a: there is a token of that name"):
        await tokens.create("a", Scope.ADMIN)
    found = await tokens.find(first)
    assert found
    assert found.scope is Scope.VIEWER
    for wrong in ("", "a b", "a.b", "a\n", "-a", "x" * 65):
        with pytest.raises(FramemeshError, match="want letters, digits"):
            await tokens.create(wrong, Scope.VIEWER)


def test_secrets_are_long_and_never_the_same() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(secret.startswith("fm_") and len(secret) == 46 for secret in made)


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("other", Scope)
def test_each_scope_covers_those_before_it(scope: Scope, other: Scope) -> None:
    order = ["viewer", "operator", "admin"]
    assert scope.covers(other) is (order.index(scope) >= order.index(other))


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("12h", 43200), ("30d", 2592000), ("8w", 4838400)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0d", "d", "30", "30 d", "-1d", "1.5h", "99999d", "30d\n"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(FramemeshError, match=r"expires .*e\.g\. 30d"):
        duration(text)


# -- commands -----------------------------------------------------------------------------------------


def test_create_list_revoke(tmp_path: Path) -> None:
    data = ["--data", str(tmp_path)]
    assert "no tokens" in run("list", *data)
    secret = run("create", "ann", "--scope", "admin", "--expires", "30d", *data).strip()
    row = sqlite3.connect(tmp_path / "jobs.db").execute("select name, hash, scope, expires from tokens").fetchone()
    assert row[:3] == ("ann", hashed(secret), "admin")
    assert row[3] == pytest.approx(time.time() + 30 * 86400, abs=60)
    run("create", "bob", *data)
    listed = json.loads(run("list", "--json", *data))
    assert [(each["name"], each["scope"]) for each in listed] == [("ann", "admin"), ("bob", "operator")]
    assert secret not in run("list", *data)
    run("revoke", "ann", *data)
    assert [each["name"] for each in json.loads(run("list", "--json", *data))] == ["bob"]


def test_what_is_wrong_is_said_before_a_database_is_made(tmp_path: Path) -> None:
    with pytest.raises(FramemeshError, match="expires"):
        run("create", "ann", "--expires", "soon", "--data", str(tmp_path))
    with pytest.raises(FramemeshError, match="name"):
        run("create", "an n", "--data", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_setting_comes_before_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert database_address(tmp_path) == f"sqlite:///{tmp_path}/jobs.db"
    monkeypatch.setenv("JOBS_DATABASE", "postgresql://u:secret@host/name")
    assert database_address(tmp_path) == "postgresql://u:secret@host/name"
    assert load(DatabaseSettings).jobs_database
