"""What keeps a model from harming others: a limit of memory, and an end for a process that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
from collections.abc import AsyncIterator
from pathlib import Path

WATCH_SECONDS = 0.25
STARVED_SECONDS = 30.0
"""How long the event loop may stand still, because a model holds the interpreter, before the process ends."""
OOM_SCORE = 500

_STATM = Path("/proc/self/statm")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory() -> int:
    """Bytes of memory that this process has in use; 0 where the system does not say."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process runs in."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            found.append(int(path.read_text()))
    return min(found)


def offer_to_the_kernel() -> None:
    """When the machine runs out of memory, let this process go before a server that others need."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


async def until_over(limit: int) -> int:
    """Wait until this process uses more than ``limit`` bytes; returns how many."""
    while (used := memory()) <= limit:
        await asyncio.sleep(WATCH_SECONDS)
    return used


@contextlib.asynccontextmanager
async def against_starving(seconds: float = STARVED_SECONDS) -> AsyncIterator[None]:
    """End the process, with every thread's stack on stderr, when its event loop stands still for that long.

    A timer in C: it also ends a model that never lets go of the interpreter.
    """

    async def breathe() -> None:
        while True:
            faulthandler.dump_traceback_later(seconds, exit=True)
            await asyncio.sleep(seconds / 6)

    breathing = asyncio.create_task(breathe())
    try:
        yield
    finally:
        breathing.cancel()
        faulthandler.cancel_dump_traceback_later()
