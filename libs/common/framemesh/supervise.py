"""Keeps a process running: started again when it dies, the later the sooner it died."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable

from framemesh.errors import FramemeshError
from framemesh.processes import Process
from framemesh.service import EXIT_CONFIG
from framemesh.settings import given

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.2
MAX_BACKOFF = 10.0


class Supervised:
    """A process that is kept running, unless it says that it cannot work as it is set up.

    One that ``ends`` may also have nothing left to do, which it says by status 0.
    """

    def __init__(
        self, process: Process, changed: Callable[[], None] = lambda: None, *, ends: bool = False
    ) -> None:
        """``changed`` is called whenever another process runs."""
        self.process = process
        self._ends = ends
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
            if status == 0 and self._ends:
                self.ended = True
                log.info("%s has ended", self.name)
                return
            lived = time.monotonic() - begun
            worked |= lived > MAX_BACKOFF
            if status == EXIT_CONFIG and not worked:  # what has worked finds its servers again
                self.failed = last_error(self.process)
                return
            delay = FIRST_BACKOFF if lived > MAX_BACKOFF else min(MAX_BACKOFF, delay * 2)
            self.restarts += 1
            log.warning("%s ended %s; starting it again in %.1f s", self.name, how(status), delay)
            await self.process.close()
            await asyncio.sleep(delay)
            await insist(self.name, self.process.start)
            self._changed()


async def insist(name: str, start: Callable[[], Awaitable[None]]) -> None:
    """Start a process, and try again when that fails: for a while there may be no memory, or no process id."""
    delay = FIRST_BACKOFF
    while True:
        try:
            return await start()
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no thread to be had that waits for it
            delay = min(MAX_BACKOFF, delay * 2)
            log.error("%s cannot be started (%s); trying again in %.1f s", name, error, delay)
        await asyncio.sleep(delay)


def how(status: int) -> str:
    """How a process ended, in words."""
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def refuse_shared_port(processes: int) -> None:
    """Raise FramemeshError where the setting ``health_port`` would be that of more than one process."""
    port = given("health_port")
    if processes > 1 and port not in {"", "0"}:
        raise FramemeshError(
            f"setting health_port: {processes} processes cannot share port {port}; leave it out, "
            "or start them one by one, each with a port of its own"
        )


def last_error(process: Process) -> str:
    """The one line that says what is wrong, without its time, level and service."""
    errors = (line.partition(" ERROR ")[2].strip() for line in process.last_lines)
    lines = [text for error in errors if (text := error.partition(" ")[2])] or list(process.last_lines)
    return lines[-1] if lines else f"{process.name} said nothing"
