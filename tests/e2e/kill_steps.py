"""Steps that leave a trace of each run, for the test that kills whoever runs them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

from framemesh.steps.context import Context
from framemesh.steps.functions import step


@step("trace")
async def trace(ctx: Context, given: dict[str, Any]) -> dict[str, Any]:
    """Takes a moment, and writes a line for each run into a file."""
    with open(given["file"], "a", encoding="utf-8") as file:  # noqa: PTH123, ASYNC230 - one short line, at once
        file.write(f"{ctx.key} {os.getpid()} {time.time()}\n")
    await asyncio.sleep(random.uniform(0, given["most"]))
    return {"n": given["n"] + 1, "pid": os.getpid()}
