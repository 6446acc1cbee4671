"""Runs one try of a step, here or in a process of its own, and ends it when its time is up or nobody wants it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from framemesh.processes import die_with
from framemesh.steps.context import Context
from framemesh.steps.functions import Function, Skip, StepFailed
from framemesh.steps.job import MOST_OUTPUT_BYTES, StepTask

GRACE_S = 2.0
LONGEST_LINE = 8 << 20


@dataclass(frozen=True)
class Where:
    """Where a step's blobs are kept."""

    master_url: str
    ttl: str


async def run(
    function: Function, context: Context, task: StepTask, given: Any, seconds: float, where: Where
) -> Any:
    """The output of a try. Raises StepFailed, Skip, or whatever the step raises; cancel it to end the try."""
    try:
        async with asyncio.timeout(seconds):
            if function.process:
                output = await _in_process(function, context, task, given, where)
            else:
                output = await function.body(context, given)
    except TimeoutError as error:
        raise StepFailed(f"took longer than {seconds:g} s (timeout)") from error
    finally:
        context.clean_up()
    return checked(output)


def checked(output: Any) -> Any:
    """The output, if JSON can say it and it is not too long. Raises StepFailed."""
    try:
        text = json.dumps(output, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StepFailed(
            f"its output is not JSON: {error}: return str, int, float, list, dict or None", retry=False
        ) from error
    if len(text) > MOST_OUTPUT_BYTES:
        raise StepFailed(
            f"its output has {len(text)} bytes, {MOST_OUTPUT_BYTES} are allowed: "
            "store it with ctx.put and return the address",
            retry=False,
        )
    return output


async def _in_process(function: Function, context: Context, task: StepTask, given: Any, where: Where) -> Any:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "framemesh.steps.child",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        preexec_fn=_in_group(die_with(os.getpid(), signal.SIGKILL)), limit=LONGEST_LINE,
    )  # fmt: skip
    try:
        return await _talk(process, function, context, task, given, where)
    finally:
        await _end(process)


async def _talk(
    process: asyncio.subprocess.Process,
    function: Function,
    context: Context,
    task: StepTask,
    given: Any,
    where: Where,
) -> Any:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a child without pipes")
    asked = {
        "spec": function.spec, "task": task.model_dump(mode="json"), "input": given,
        "master_url": where.master_url, "ttl": where.ttl, "scratch": str(context.scratch),
    }  # fmt: skip
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    process.stdin.close()
    while line := await process.stdout.readline():
        said = json.loads(line)
        if "progress" in said:
            await context.progress(*said["progress"])
        elif "log" in said:
            level, text = said["log"]
            context.log.log(logging.getLevelNamesMapping().get(level, logging.INFO), "%s", text)
        else:
            return _outcome(said)
    status = await process.wait()
    raise StepFailed(f"its process ended with {_status(status)} and gave no output")


def _outcome(said: dict[str, Any]) -> Any:
    if "skip" in said:
        raise Skip(said["skip"])
    if "failed" in said:
        raise StepFailed(said["failed"], retry=said["retry"], delay=said["delay"])
    return said["output"]


def _status(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process and all that it has started."""
    if process.returncode is None:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await process.wait()
    _signal(process.pid, signal.SIGKILL)  # its children may be left
    await process.wait()


def _in_group(more: Callable[[], None] | None) -> Callable[[], None]:
    """What the child runs first: a process group of its own, so that all that it starts can be ended with it."""

    def in_child() -> None:
        os.setpgid(0, 0)  # uvloop knows no process_group
        if more:
            more()

    return in_child


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
