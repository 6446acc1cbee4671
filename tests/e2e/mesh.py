"""What the end-to-end tests share."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.mesh import LogFiles, Mesh
from framemesh.messages import SourceState

PRESENCES = [
    (presence["enter_s"], presence["leave_s"])
    for presence in json.loads((Path(__file__).parents[1] / "data" / "people_presence.json").read_text())
]
"""When somebody is to be seen in the clip ``people``, by eye: seconds."""


def environment(**changes: str) -> dict[str, str]:
    """This environment, with changes; an empty value takes a variable out."""
    merged = dict(os.environ) | changes
    return {name: value for name, value in merged.items() if value}


def framemesh(*arguments: str, timeout: float = 120, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the CLI as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "framemesh", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**changes),
        check=False,
    )


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two spans of time."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return max(0.0, shared) / (max(one[1], other[1]) - min(one[0], other[0]))


@asynccontextmanager
async def mesh_of(
    folder: Path, workers: dict[str, dict[str, str]], routes: str = ""
) -> AsyncIterator[tuple[Mesh, Bus]]:
    """Servers, uploader, router and some workers, by spec or as ``label=spec``."""
    async with AsyncExitStack() as stack:
        logs = stack.enter_context(closing(LogFiles(folder / "logs")))
        mesh = await stack.enter_async_context(Mesh(folder, on_line=logs))
        await mesh.start_servers()
        await mesh.start_service("uploader")
        await mesh.start_service("router", {"routes": routes} if routes else {})
        for name, settings in workers.items():
            label, _, spec = name.rpartition("=")
            await mesh.start_service(spec, settings, label=label or spec.rpartition(":")[2])
        bus = await Bus.connect(mesh.environment()["nats_host"], "test")
        stack.push_async_callback(bus.close)
        yield mesh, bus


async def known(folder: Path, *kinds: str) -> None:
    """Wait until the router knows models of these kinds."""
    log = folder / "logs" / "router.log"
    deadline = time.monotonic() + 180  # librosa compiles at its first start
    while not log.exists() or not all(f"{kind} is alive" in log.read_text() for kind in kinds):
        assert time.monotonic() < deadline, kinds
        await asyncio.sleep(0.05)


async def ended(bus: Bus, source: str, within: float = 60) -> SourceState:
    """Wait for the end of a source's run."""
    deadline = time.monotonic() + within
    while True:
        state = await bus.last(subjects.SOURCES.name, subjects.source_state(source), SourceState)
        if state and state.message.state != "started":
            return state.message
        assert time.monotonic() < deadline, source
        await asyncio.sleep(0.05)
