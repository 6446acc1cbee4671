"""A pool of processes that answer calls for this one, and can be ended in the middle of a call.

For what reads the files of strangers and keeps the processor busy: a call that hangs, or that nobody wants any
more, ends its process, and what a decoder breaks it breaks there. A function that is called so is
``def work(given, data) -> (output, blobs)``: ``given`` and ``output`` are what JSON can say, ``data`` and
``blobs`` bytes. Nothing that comes back is ever unpickled, and no setting is in their environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, BinaryIO, NamedTuple

from framemesh.errors import FramemeshError
from framemesh.processes import die_with

_BUFFER = 4 << 20
_LONGEST_HEAD = 1 << 20
_MOST_BYTES = 256 << 20
"""Of an answer: a decoder that was taken over must not fill this process."""
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
"""There are as many processes as the processor has work for; 180 MiB of address space a thread less."""


class ChildEnded(Exception):
    """The process ended, or was ended, before it gave an answer."""


class CallFailed(Exception):
    """The function raised what it did not mean to."""


class Answer(NamedTuple):
    """What a call gave."""

    output: Any
    blobs: list[bytes]


class Pool:
    """At most ``count`` processes of ``memory`` bytes each; they are started when they are needed."""

    def __init__(self, count: int, memory: int, seconds: float) -> None:
        """``seconds`` is what a call may take."""
        self._free = asyncio.Semaphore(count)
        self._idle: list[asyncio.subprocess.Process] = []
        self._memory, self._seconds = memory, seconds

    async def call(self, function: str, given: Any, data: bytes = b"") -> Answer:
        """Call ``package.module:function`` in a process; one that is cancelled ends its process.

        Raises FramemeshError as the function does, ChildEnded when its time is up or its process died, and
        CallFailed for whatever else it raises.
        """
        async with self._one() as child:
            try:
                async with asyncio.timeout(self._seconds):
                    said, blobs = await _ask(child, {"call": function, "given": given}, data)
            except TimeoutError:
                raise ChildEnded(f"took longer than {self._seconds:g} s") from None
            except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
                raise ChildEnded(await _end(child) or f"its process broke off: {error!r}") from error
        if "refused" in said:
            raise FramemeshError(said["refused"])
        if "failed" in said:
            raise CallFailed(said["failed"])
        return Answer(said["output"], blobs)

    async def close(self) -> None:
        """End all that are idle."""
        while self._idle:
            await _end(self._idle.pop())

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process for one call; it is kept when the call has been answered."""
        async with self._free:
            child = self._idle.pop() if self._idle else await self._start()
            try:
                yield child
            except BaseException:
                await asyncio.shield(_end(child))
                raise
            self._idle.append(child)

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "framemesh.pool", str(self._memory),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=_environment(),
            preexec_fn=die_with(os.getpid(), signal.SIGKILL), limit=_BUFFER,
        )  # fmt: skip


def _environment() -> dict[str, str]:
    """What a process needs to start: settings, with their keys and addresses, are no business of a decoder."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | _ONE_THREAD


async def _ask(child: asyncio.subprocess.Process, head: Any, data: bytes) -> tuple[Any, list[bytes]]:
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("a child without pipes")
    child.stdin.writelines(_written(head, [data]))
    await child.stdin.drain()
    size = int.from_bytes(await child.stdout.readexactly(4))
    if size > _LONGEST_HEAD:
        raise ValueError(f"a head of {size} bytes")
    said = json.loads(await child.stdout.readexactly(size))
    lengths = said.pop("blobs")
    if sum(lengths) > _MOST_BYTES:
        raise ValueError(f"an answer of {sum(lengths)} bytes")
    return said, [await child.stdout.readexactly(length) for length in lengths]


def _written(head: dict[str, Any], blobs: Sequence[bytes]) -> list[bytes]:
    """A message: the length of its head in four bytes, the head as JSON, and the blobs."""
    text = json.dumps(head | {"blobs": [len(blob) for blob in blobs]}).encode()
    return [len(text).to_bytes(4), text, *blobs]


async def _end(child: asyncio.subprocess.Process) -> str:
    """End a process; by which signal it had died before, or empty."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1 if child.returncode is None else 0):
            await child.wait()
    died = child.returncode
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.communicate()  # wait() alone would wait for ever where more has come than was read (gh-119710)
    if died is None or died == 0:
        return ""
    return f"its process ended by {signal.Signals(-died).name}" if died < 0 else f"its process ended with {died}"


# -- in the child -------------------------------------------------------------------------------------


def main() -> None:
    """Answer calls until the parent closes the pipe."""
    memory = int(sys.argv[1])
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    source, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a call prints must not break the wire
    while size := source.read(4):
        asked = json.loads(source.read(int.from_bytes(size)))
        _answer(asked, source.read(asked["blobs"][0]), out)


def _answer(asked: dict[str, Any], data: bytes, out: BinaryIO) -> None:
    said: dict[str, Any]
    blobs: Sequence[bytes] = ()
    try:
        output, blobs = _function(asked["call"])(asked["given"], data)
        said = {"output": output}
    except FramemeshError as error:
        said = {"refused": str(error)}
    except Exception as error:
        said = {"failed": f"{type(error).__name__}: {error}"}
    out.writelines(_written(said, blobs))
    out.flush()


def _function(spec: str) -> Any:
    module, _, name = spec.partition(":")
    return getattr(import_module(module), name)


if __name__ == "__main__":
    main()
