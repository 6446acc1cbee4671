"""A try of a step as a process of its own: ``python -m framemesh.steps.child``, started by ``runner``.

One JSON object comes on stdin: what to do. JSON lines go out: progress, log lines, and last the outcome.
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
from framemesh.steps.context import Context
from framemesh.steps.files import COLLECTION
from framemesh.steps.functions import Skip, failure, unexpected
from framemesh.steps.job import StepTask


class _Lines(logging.Handler):
    """Log records as lines of the wire."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        tell(self._out, log=[record.levelname, self.format(record)])


def tell(out: TextIO, **what: Any) -> None:
    """One line to the parent."""
    out.write(json.dumps(what) + "\n")
    out.flush()


async def _do(asked: dict[str, Any], out: TextIO) -> None:
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
            output = await body(context, asked["input"])
            tell(out, output=output)
        except Skip as reason:
            tell(out, skip=str(reason))
        except Exception as error:
            if unexpected(error):
                log.exception("failed")
            why = failure(error)
            tell(out, failed=str(why), retry=why.retry, delay=why.delay)


def main() -> None:
    """Do what stdin says."""
    asked = json.loads(sys.stdin.buffer.readline())
    # What the step prints must not break the wire.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asyncio.run(_do(asked, out))


if __name__ == "__main__":
    main()
