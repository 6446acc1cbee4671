"""What the benchmarks share: a mesh that leaves nothing behind, and the processor's time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from framemesh.mesh import LogFiles, Mesh


@asynccontextmanager
async def temporary_mesh() -> AsyncIterator[Mesh]:
    """A mesh in a folder of its own, stopped and removed at the end; nothing is started yet."""
    data = Path(tempfile.mkdtemp(prefix="framemesh-bench-"))
    logs = LogFiles(data / "logs")
    try:
        async with Mesh(data, on_line=logs) as mesh:
            yield mesh
    finally:
        logs.close()
        shutil.rmtree(data, ignore_errors=True)


def cpu_seconds(process: psutil.Process) -> float:
    """What a process has used so far. Raises psutil.Error when it is gone."""
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def others_cpu_seconds() -> float:
    """What this machine has spent so far, outside this process and its children: the noise of a measurement."""
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + times.irq + times.softirq + times.steal
    return float(busy) - _ours()


def _ours() -> float:
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            spent = process.cpu_times()
        except psutil.Error:  # it ended: its parent has its time now
            continue
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total
