"""Child processes that never outlive their parent, with their logs passed on."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_LONGEST_LINE = 1 << 20

OnLine = Callable[[str, str], None]
"""Called with a process's name and one line of its output."""


class Process:
    """One child process.

    On Linux the kernel sends it ``death_signal`` when this process dies, however it dies.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        on_line: OnLine | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.last_lines: deque[str] = deque(maxlen=20)
        self._argv = [str(part) for part in argv]
        self._env = dict(os.environ) | dict(env or {})
        self._on_line = on_line
        self._death_signal = death_signal
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def returncode(self) -> int | None:
        """Exit status, None while it runs."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        """Start it in a process group of its own, so that Ctrl-C reaches only the parent, who stops it in order.

        Not in a session of its own: the kernel shares out the processor by session first, and a thread that
        gives way would give way to nobody.
        """
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            preexec_fn=in_group(die_with(os.getpid(), self._death_signal)),
            limit=_LONGEST_LINE,
        )
        self._reader = asyncio.create_task(self._pass_on())

    async def wait(self) -> int:
        """Wait for its end and for the end of its output; returns the exit status."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        status = await self._process.wait()
        if self._reader:
            # A grandchild may hold the pipe open: its output is not waited for.
            await asyncio.wait([self._reader], timeout=0.5)
        return status

    async def stop(self, grace: float = 2.0) -> None:
        """Ask it to stop; end it after ``grace`` seconds."""
        if self._process is None or self.returncode is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
        await self.wait()
        await self.close()

    async def close(self) -> None:
        """Let go of the output of a process that has ended."""
        if self._reader:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self._process and self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _pass_on(self) -> None:
        stream = self._process.stdout if self._process else None
        while stream and (line := await _read_line(stream)):
            text = line.decode(errors="replace").rstrip()
            self.last_lines.append(text)
            if self._on_line:
                with contextlib.suppress(OSError):  # a full disk: who is not read from stands still
                    self._on_line(self.name, text)


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than any line should be: the reader has dropped it
        return b"(a line too long to pass on)\n"


def die_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """What a child process runs first, so that the kernel sends it ``number`` when ``parent`` dies."""
    if _LIBC is None:
        return None
    libc = _LIBC

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)

    return in_child


def in_group(more: Callable[[], None] | None) -> Callable[[], None]:
    """What the child runs first: a process group of its own, so that all that it starts can be ended with it."""

    def in_child() -> None:
        os.setpgid(0, 0)  # uvloop knows no process_group
        if more:
            more()

    return in_child
