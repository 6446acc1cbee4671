"""Keeps a process running: started again when it dies, the later the sooner it died."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from framemesh.processes import Process
from framemesh.service import EXIT_CONFIG

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.2
MAX_BACKOFF = 10.0


class Supervised:
    """A process that is kept running until it ends by itself, or says that it cannot work as it is set up."""

    def __init__(self, process: Process, changed: Callable[[], None] = lambda: None) -> None:
        """``changed`` is called whenever another process runs."""
        self.process = process
        self.restarts = 0
        self.failed = ""
        """Why it is not started again."""
        self.ended = False
        self._changed = changed
        self._watching: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The process's name."""
        return self.process.name

    async def start(self) -> None:
        """Start it, and start it again whenever it dies."""
        await self.process.start()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self, grace: float) -> None:
        """Stop it, in order, within ``grace`` seconds."""
        self.let_die()
        await self.process.stop(grace)

    def let_die(self) -> None:
        """Do not start it again."""
        if self._watching:
            self._watching.cancel()

    async def wait(self) -> None:
        """Wait until it is not started again any more."""
        if self._watching:
            await self._watching

    async def _watch(self) -> None:
        delay, worked = FIRST_BACKOFF, False
        while True:
            begun = time.monotonic()
            status = await self.process.wait()
            if status == 0:
                self.ended = True
                return
            lived = time.monotonic() - begun
            worked |= lived > MAX_BACKOFF
            if status == EXIT_CONFIG and not worked:  # what has worked finds its servers again
                self.failed = last_error(self.process)
                return
            delay = FIRST_BACKOFF if lived > MAX_BACKOFF else min(MAX_BACKOFF, delay * 2)
            self.restarts += 1
            log.warning("%s ended with status %d; starting it again in %.1f s", self.name, status, delay)
            await self.process.close()
            await asyncio.sleep(delay)
            await self.process.start()
            self._changed()


def last_error(process: Process) -> str:
    """The one line that says what is wrong, without its time, level and service."""
    errors = (line.partition(" ERROR ")[2].strip() for line in process.last_lines)
    lines = [text for error in errors if (text := error.partition(" ")[2])] or list(process.last_lines)
    return lines[-1] if lines else f"{process.name} said nothing"
