"""Bodies of steps that are run as processes of their own."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from framemesh.steps.context import Context
from framemesh.steps.functions import Skip, StepFailed


def nested(levels: int) -> Any:
    """So many objects in one another."""
    return {"a": nested(levels - 1)} if levels else 1


async def busy(ctx: Context, given: Any) -> Any:
    """Keeps the processor for some seconds, with a child of its own; says by a file that it has begun."""
    child = subprocess.Popen(["sleep", "60"])
    if "pids" in given:
        Path(given["pids"]).write_text(f"{os.getpid()} {child.pid}")
    ends = time.monotonic() + given["seconds"]
    while time.monotonic() < ends:
        pass
    child.kill()
    child.wait()
    return {"pid": os.getpid()}


async def tells(ctx: Context, given: Any) -> Any:
    """All that a step can say."""
    print("this is no part of the wire")
    ctx.log.info("begun with %s", given["word"])
    (ctx.scratch / "file").write_text("here")
    for percent in range(0, 101, 20):
        await ctx.progress(percent, f"{percent} done")
        time.sleep(given.get("pause", 0))
    url = await ctx.put(b"large")
    return {"url": url, "back": (await ctx.get(url)).decode(), "scratch": str(ctx.scratch), "attempt": ctx.attempt}


_tries = itertools.count(1)


async def counts(ctx: Context, given: Any) -> Any:
    """Says which process it is in and for which time; may leave a process behind."""
    left = subprocess.Popen(["sleep", "60"]).pid if given.get("leave") else None
    await asyncio.sleep(given.get("seconds", 0))
    return {"pid": os.getpid(), "try": next(_tries), "left": left, "tasks": len(asyncio.all_tasks())}


async def ends(ctx: Context, given: Any) -> Any:
    """Ends as it is told."""
    match given["how"]:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), 9)
        case "skip":
            raise Skip("no key is set")
        case "fatal":
            raise StepFailed("this will never work", retry=False)
        case "raise":
            raise ValueError("no idea")
        case "long":
            return "x" * 100_000
        case "nan":
            return float("nan")
        case "deep":
            return nested(101)
    return given["how"]
