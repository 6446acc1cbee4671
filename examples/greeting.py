"""Functions for jobs: ``framemesh worker examples.greeting`` does their steps, ``greeting.yaml`` is a plan."""

from __future__ import annotations

from typing import Any

from framemesh.steps.context import Context
from framemesh.steps.functions import step


@step("greet", timeout=10)
async def greet(ctx: Context, given: dict[str, Any]) -> dict[str, Any]:
    """Greets somebody."""
    ctx.log.info("greeting %s", given["name"])
    return {"text": f"Hello, {given['name']}!"}


@step("shout", timeout=10)
async def shout(ctx: Context, given: dict[str, Any]) -> dict[str, Any]:
    """Says it louder."""
    await ctx.progress(50, "breathing in")
    return {"text": given["text"].upper()}
