"""What the commands share: the terminal, Ctrl-C, and where the servers are."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from platformdirs import user_data_path
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.loops import runner
from framemesh.mesh import running
from framemesh.registry import Registry
from framemesh.registry import connect as connect_redis
from framemesh.settings import Settings, given_names, load

INTERRUPT_AGAIN = 0.5
LISTEN_SECONDS = 0.5

# Without emoji: "shop:X:" would become a cross.
err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
out = Console(soft_wrap=True, highlight=False, emoji=False)

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the servers' data, logs and evidence.", envvar="FRAMEMESH_DATA"),
]


class NoMesh(FramemeshError):
    """There is no mesh to talk to."""


def run_until(work: Coroutine[Any, Any, Any], ending: Callable[[], bool] = lambda: False) -> Any:
    """Run ``work``; SIGTERM ends it in order, as Ctrl-C does. ``ending`` says whether it has heard."""

    async def guarded() -> Any:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            if not task.done() and not ending():
                task.cancel()
                # A library in the middle of something may swallow the first one.
                loop.call_later(INTERRUPT_AGAIN, interrupt)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        try:
            return await task
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    with runner() as loop:
        return loop.run(guarded())


def data_folder(data: Path | None) -> Path:
    """The folder that the user names, or the usual one."""
    return data or user_data_path("framemesh")


def mesh_environment(folder: Path) -> dict[str, str]:
    """Settings by which the mesh that runs in a folder is found; none when none runs there."""
    state = running(folder)
    return state.environment if state else {}


def unsaid(environment: dict[str, str]) -> dict[str, str]:
    """Those settings of a mesh that the user says nothing of, in ``.env`` or the environment."""
    return {name: value for name, value in environment.items() if not _said(name)}


def joined(data: Path | None) -> dict[str, str]:
    """The addresses of the mesh in the data folder, where the user names none.

    Raises NoMesh at once where there is no mesh, the user names no servers and none has the usual address.
    """
    folder = data_folder(data)
    environment = mesh_environment(folder)
    if not environment and not _said("nats_host") and not _listens(Settings.model_fields["nats_host"].default):
        up = f"framemesh up --data {folder}" if data else "framemesh up"
        raise NoMesh(f"no mesh runs in {folder}; start one with `{up}`, or name its folder with --data")
    return unsaid(environment)


def _said(name: str) -> bool:
    return name in {said.lower() for said, _ in given_names()}


def _listens(address: str) -> bool:
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), LISTEN_SECONDS).close()
    except OSError:
        return False
    return True


def mesh_settings(data: Path | None) -> Settings:
    """Settings of the user, with the addresses of the mesh in the data folder. Raises FramemeshError."""
    os.environ.update(joined(data))
    settings = load(Settings)
    settings.connect_patience = 2
    return settings


async def clients(settings: Settings) -> tuple[Bus, Registry]:
    """Connections to NATS and to Redis. Raises FramemeshError."""
    bus = await Bus.connect(settings.nats_host, "cli", patience=settings.connect_patience)
    try:
        redis = await connect_redis(settings.redis_host, settings.redis_port, patience=settings.connect_patience)
    except FramemeshError:
        await bus.close()
        raise
    return bus, Registry(redis, settings.routing_ttl)


class _Plain(Table):
    """A table whose cells are as they come: what a program said is no markup."""

    def add_row(self, *cells: RenderableType | None, **how: Any) -> None:
        super().add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), **how)


def table(*columns: str, title: str = "") -> Table:
    """A table that needs little room: no lines between columns, and what is too wide goes on in the next line."""
    made = _Plain(
        box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=title or None, title_justify="left"
    )
    for name in columns:
        made.add_column(name, overflow="fold")
    return made


def counted(count: int, noun: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
