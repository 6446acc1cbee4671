"""A process that does tries of steps: ``python -m framemesh.steps.child``, started by ``children``.

A line of JSON on stdin says what to do. JSON lines go out: progress, log lines, and last the outcome, with whether
the process is good for another try. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from importlib import import_module
from typing import Any, TextIO

from framemesh.blobs import BlobStore
from framemesh.steps import text
from framemesh.steps.context import Context
from framemesh.steps.files import COLLECTION
from framemesh.steps.functions import Skip, failure, unexpected
from framemesh.steps.job import StepTask
from framemesh.steps.runner import checked


class _Lines(logging.Handler):
    """Log records as lines of the wire."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        tell(self._out, log=[record.levelname, text.line(record)])


MOST_TRIES = 100
"""Then a fresh process does it: what a library has leaked is given back."""


def tell(out: TextIO, **what: Any) -> None:
    """One line to the parent."""
    out.write(json.dumps(what) + "\n")
    out.flush()


async def _do(asked: dict[str, Any], out: TextIO) -> dict[str, Any]:
    """Do one try; what came of it."""
    module, _, name = asked["spec"].partition(":")
    body = getattr(import_module(module), name)
    log = logging.Logger("step", logging.INFO)
    log.addHandler(_Lines(out))

    async def say(percent: float, text: str) -> None:
        tell(out, progress=[percent, text])

    async with BlobStore(asked["master_url"], collection=COLLECTION, ttl=asked["ttl"]) as blobs:
        context = Context.of(StepTask.model_validate(asked["task"]), log, blobs, say)
        context.use(asked["scratch"])
        try:
            return {"output": checked(await body(context, asked["input"]))}
        except Skip as reason:
            return {"skip": str(reason)}
        except Exception as error:
            if unexpected(error):
                log.exception("failed")
            why = failure(error)
            return {"failed": str(why), "retry": why.retry, "delay": why.delay}


def _has_children() -> bool:
    """Whether a step has left processes behind, which end with this one."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def main() -> None:
    """Do what stdin says, line by line."""
    # What a step prints must not break the wire.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for number, line in enumerate(sys.stdin.buffer, 1):
        outcome = asyncio.run(_do(json.loads(line), out))
        tell(out, **outcome, again=number < MOST_TRIES and not _has_children())


if __name__ == "__main__":
    main()
