"""A step that does nothing: ``framemesh worker benchmarks.noop``."""

from __future__ import annotations

from typing import Any

from framemesh.steps.context import Context
from framemesh.steps.functions import step


@step("noop")
async def noop(ctx: Context, given: Any) -> Any:
    """Gives back what it is given."""
    return given
