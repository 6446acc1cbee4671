"""The step ``calculating-score``."""

from __future__ import annotations

from typing import Any

from framemesh.errors import FramemeshError
from framemesh.steps.context import Context
from framemesh.steps.functions import step
from services.analyst.inputs import PARTS
from services.analyst.score import score


@step("calculating-score", timeout=60)
async def calculating_score(ctx: Context, given: Any) -> dict[str, Any]:
    """Scores from 0 to 100 with the contribution of each input, from the summaries of the other steps."""
    if not isinstance(given, dict):
        raise FramemeshError("input of calculating-score: want an object with face, voice, transcript and gpt")
    for name in PARTS:
        if not isinstance(given.get(name), dict | None):
            raise FramemeshError(f"input {name}: want the output of {PARTS[name]}, an object, or null")
    found = score({name: given.get(name) for name in PARTS})
    for each in found["missing"]:
        ctx.log.info("%s has no %s: %s", each["score"], each["input"], each["reason"])
    return found
