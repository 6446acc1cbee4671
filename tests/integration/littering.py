"""A step that uses its scratch folder for long."""

from __future__ import annotations

import asyncio
from typing import Any

from framemesh.steps.context import Context
from framemesh.steps.functions import step


@step("litter")
async def litter(ctx: Context, given: Any) -> None:
    """Writes a file, and waits."""
    (ctx.scratch / "litter").write_text("here")
    await asyncio.sleep(60)
