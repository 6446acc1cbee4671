"""``framemesh tokens``: who may use the API."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from framemesh.errors import FramemeshError
from framemesh.settings import Settings, load
from framemesh.telemetry import redact
from framemesh.terminal import DataOption, data_folder, err, mesh_environment, out, run_until, table, unsaid
from framemesh.tokens import Scope, Token, check_name, duration

if TYPE_CHECKING:
    from framemesh.database.tokens import TokenTable

PATIENCE_S = 2.0

app = typer.Typer(
    help="Bearer tokens of the API: make them, see which there are, revoke them.\n\n"
    "They lie in the results database: the one that the setting jobs_database names, else that of the mesh in the "
    "data folder.",
    no_args_is_help=True,
)

NameArgument = Annotated[
    str, typer.Argument(help="Whose token it is; its jobs carry this name.", show_default=False)
]


class DatabaseSettings(Settings):
    """Where the results database is."""

    jobs_database: str = Field("", description="Results database: sqlite:///jobs.db or postgresql://…")


@app.command()
def create(
    name: NameArgument,
    scope: Annotated[
        Scope,
        typer.Option(help="viewer sees its own jobs, operator submits and ends them, admin has everybody's, too."),
    ] = Scope.OPERATOR,
    expires: Annotated[
        str | None, typer.Option(help="How long it is good: 90m, 12h, 30d, 8w; for ever when left out.")
    ] = None,
    data: DataOption = None,
) -> None:
    """Make a token and print it. It is shown this once: only its hash is kept."""
    check_name(name)
    lasts = duration(expires) if expires else None

    async def work() -> str:
        async with _tokens(data) as tokens:
            return await tokens.create(name, scope, lasts)

    secret = run_until(work())
    err.print(f"token of {name}, {scope}, good {f'for {expires}' if expires else 'until it is revoked'}:")
    typer.echo(secret)


@app.command("list")
def list_tokens(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False, data: DataOption = None
) -> None:
    """Show every token's name, scope and time; the tokens themselves are not kept."""

    async def work() -> list[Token]:
        async with _tokens(data) as tokens:
            return await tokens.all()

    found: list[Token] = run_until(work())
    if as_json:
        typer.echo(json.dumps([asdict(token) for token in found]))
        return
    rows = table("token", "scope", "created", "expires")
    for token in found:
        until = "never" if token.expires is None else _clock(token.expires) + (" (over)" if token.expired else "")
        rows.add_row(token.name, token.scope, _clock(token.created), until)
    out.print(rows if found else "no tokens: `framemesh tokens create NAME` makes one")


@app.command()
def revoke(name: NameArgument, data: DataOption = None) -> None:
    """End a token at once; its jobs go on, and a new one of that name has them again."""

    async def work() -> None:
        async with _tokens(data) as tokens:
            await tokens.revoke(name)

    run_until(work())
    out.print(f"{name} is revoked")


@asynccontextmanager
async def _tokens(data: Path | None) -> AsyncIterator[TokenTable]:
    try:
        from framemesh.database.engine import open_database  # noqa: PLC0415 - most commands need no database
        from framemesh.database.tokens import TokenTable  # noqa: PLC0415
    except ImportError as error:
        raise FramemeshError(f"{error}: run `pip install 'framemesh[gateway]'`") from error
    address = database_address(data)
    err.print(f"database: {redact(address)}", markup=False)
    engine = await open_database(address, PATIENCE_S)
    try:
        yield TokenTable(engine)
    finally:
        await engine.dispose()


def database_address(data: Path | None) -> str:
    """The database that the setting names, else that of the mesh in the data folder, whether or not it runs."""
    folder = data_folder(data)
    os.environ.update(unsaid(mesh_environment(folder)))
    return load(DatabaseSettings).jobs_database or f"sqlite:///{folder.resolve() / 'jobs.db'}"


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
