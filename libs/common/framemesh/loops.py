"""The event loop of every process: uvloop's where there is one, half as dear a message."""

from __future__ import annotations

import asyncio
import gc

OBJECTS = 20_000
"""That are made before cycles are looked for, instead of 700: what a message makes is gone without."""


def runner() -> asyncio.Runner:
    """Runs coroutines on the fastest loop of this platform."""
    gc.set_threshold(OBJECTS, *gc.get_threshold()[1:])
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)
