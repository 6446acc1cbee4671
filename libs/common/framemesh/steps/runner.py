"""Runs one try of a step, here or in a process of its own, and ends it when its time is up or nobody wants it."""

from __future__ import annotations

import asyncio
from typing import Any

from framemesh.steps.children import Children
from framemesh.steps.context import Context
from framemesh.steps.depth import MOST_DEPTH, json_bytes, too_deep
from framemesh.steps.functions import Function, StepFailed
from framemesh.steps.job import MOST_OUTPUT_BYTES, StepTask


async def run(
    function: Function, context: Context, task: StepTask, given: Any, seconds: float, children: Children
) -> Any:
    """The output of a try. Raises StepFailed, Skip, or whatever the step raises; cancel it to end the try.

    To be run in a task of its own: a task group that failed in the step leaves it looking like a cancelled one, so
    that its time is up may come as a CancelledError.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            if function.process:
                output = await children.do(function, context, task, given)
            else:
                output = await function.body(context, given)
    except (TimeoutError, asyncio.CancelledError) as error:
        if not limit.expired():
            raise  # of something that the step waited for, or of whoever ends it
        raise StepFailed(f"took longer than {seconds:g} s (timeout)") from error
    except SystemExit as error:
        raise StepFailed(f"SystemExit: {error}") from error
    finally:
        context.clean_up()
    return checked(output)


def checked(output: Any) -> Any:
    """The output, if JSON can say it and it is neither too long nor too deep. Raises StepFailed."""
    try:
        text = json_bytes(output)
    except (TypeError, ValueError, RecursionError) as error:
        raise StepFailed(
            f"its output is not JSON: {error}: return str, int, float, list, dict or None", retry=False
        ) from error
    if len(text) > MOST_OUTPUT_BYTES:
        raise StepFailed(
            f"its output has {len(text)} bytes, {MOST_OUTPUT_BYTES} are allowed: "
            "store it with ctx.put and return the address",
            retry=False,
        )
    if text.count(b"[") + text.count(b"{") > MOST_DEPTH and too_deep(output):
        raise StepFailed(
            f"its output is nested deeper than {MOST_DEPTH} levels: make it flatter, or store it with ctx.put",
            retry=False,
        )
    return output
