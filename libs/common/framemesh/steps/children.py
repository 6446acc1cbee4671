"""Processes that do steps: one try at a time each, and tries of the same function after it.

To start one and to load a model takes longer than most short steps, so what a process has loaded serves the next
try too. A try that is cut short takes its process along; one that nobody has needed for a minute gives its memory
back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from typing import Any

from framemesh.processes import die_with, in_group
from framemesh.steps.context import Context
from framemesh.steps.functions import Function, Skip, StepFailed
from framemesh.steps.job import StepTask
from framemesh.tasks import heed_cancellation

GRACE_S = 2.0
KEPT_S = 60.0
"""How long a process that has nothing to do is kept."""
LOOK_S = 5.0
LONGEST_LINE = 8 << 20


class Child:
    """A process that does one try at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.since = time.monotonic()
        """When it was last put back."""

    @classmethod
    async def start(cls) -> Child:
        """Start one; it does whatever it is asked."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "framemesh.steps.child",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                preexec_fn=in_group(die_with(os.getpid(), signal.SIGKILL)), limit=LONGEST_LINE,
            )
        )  # fmt: skip

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.returncode is None

    async def do(self, asked: dict[str, Any], context: Context) -> dict[str, Any]:
        """What it says of a try at its end. Raises StepFailed when it ends before."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a child without pipes")
        stdin.write(json.dumps(asked).encode() + b"\n")
        while line := await stdout.readline():
            said: dict[str, Any] = json.loads(line)
            if "progress" in said:
                await context.progress(*said["progress"])
            elif "log" in said:
                level, text = said["log"]
                context.log.log(logging.getLevelNamesMapping().get(level, logging.INFO), "%s", text)
            else:
                return said
        status = await self._process.wait()
        raise StepFailed(f"its process ended with {_status(status)} and gave no output")

    async def end(self, grace: float = GRACE_S) -> None:
        """End it and all that it has started."""
        try:
            if self.alive and grace:
                _signal(self._process.pid, signal.SIGTERM)
                await asyncio.wait([asyncio.ensure_future(self._process.wait())], timeout=grace)
        finally:
            _signal(self._process.pid, signal.SIGKILL)  # its children may be left
        await self._process.wait()


class Children:
    """The processes of one worker, and where the blobs of their steps are kept."""

    def __init__(self, master_url: str, ttl: str) -> None:
        self._blobs = {"master_url": master_url, "ttl": ttl}
        self._idle: dict[str, list[Child]] = {}

    async def do(self, function: Function, context: Context, task: StepTask, given: Any) -> Any:
        """The output of a try. Raises StepFailed or Skip; cancel it to end the try and its process."""
        asked = {
            "spec": function.spec, "task": task.model_dump(mode="json"), "input": given,
            "scratch": str(context.scratch), **self._blobs,
        }  # fmt: skip
        child = self._take(function.spec) or await Child.start()
        good = False
        try:
            said = await child.do(asked, context)
            good = said["again"]
        finally:
            if good:
                self._put_back(function.spec, child)
            else:
                await child.end()
        return _outcome(said)

    async def tidy(self) -> None:
        """End those that have had nothing to do for ``KEPT_S``, until cancelled."""
        while True:
            heed_cancellation()
            await asyncio.sleep(LOOK_S)
            await self._end_idle(time.monotonic() - KEPT_S)

    async def close(self) -> None:
        """End those that have nothing to do."""
        await self._end_idle(time.monotonic())

    def _take(self, spec: str) -> Child | None:
        """One that has done this function before: the one that was busy last, so that the others can end."""
        idle = self._idle.get(spec, [])
        while idle:
            if (child := idle.pop()).alive:
                return child
        return None

    def _put_back(self, spec: str, child: Child) -> None:
        child.since = time.monotonic()
        self._idle.setdefault(spec, []).append(child)

    async def _end_idle(self, before: float) -> None:
        old = [child for idle in self._idle.values() for child in idle if child.since <= before]
        for idle in self._idle.values():
            idle[:] = [child for child in idle if child not in old]
        await asyncio.gather(*(child.end(grace=0) for child in old))


def _outcome(said: dict[str, Any]) -> Any:
    if "skip" in said:
        raise Skip(said["skip"])
    if "failed" in said:
        raise StepFailed(said["failed"], retry=said["retry"], delay=said["delay"])
    return said["output"]


def _status(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
