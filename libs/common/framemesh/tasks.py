"""What asyncio lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")


def heed_cancellation() -> None:
    """Raise CancelledError where this task was cancelled and did not hear of it.

    ``asyncio.wait_for``, which the NATS client uses, swallows a cancellation that comes together with its result
    in Python 3.11 (gh-86296, mended in 3.12): a loop that goes on then would do so for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def finished(work: Awaitable[R], within: float) -> R:
    """What comes of it; it goes on where this is cancelled, which is put off until it ends, for some seconds."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if (await asyncio.wait([task], timeout=within))[0] and not task.cancelled():
            task.exception()  # else asyncio says that nobody has looked at it
        raise


async def gathered(works: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """The results of all; where one raises, the others are ended, and what it raised is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]


class Together(Generic[A, R]):
    """Calls that come while one is under way go together in the next: alone at once, many at the price of one.

    ``work`` is given what was called with and returns as many results; what it raises, all of them raise. One that
    is called alone runs in its caller's task and ends with it.
    """

    def __init__(self, work: Callable[[list[A]], Awaitable[list[R]]]) -> None:
        self._work = work
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._busy = False
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._busy

    async def __call__(self, asked: A) -> R:
        """The result for one."""
        if self._busy:
            future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
            self._waiting.append((asked, future))
            return await future
        self._busy = True
        try:
            (found,) = await self._work([asked])
        finally:
            self._next()
        return found

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if self._busy:
            self._task = asyncio.create_task(self._work_off())

    async def _work_off(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            found = await self._work([asked for asked, _ in batch])
        except Exception as error:
            for future in _open(batch):
                future.set_exception(error)
        else:
            for (_, future), result in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(result)
        finally:
            for future in _open(batch):  # the loop is being closed
                future.cancel()
            self._next()


def _open(batch: list[tuple[A, asyncio.Future[R]]]) -> list[asyncio.Future[R]]:
    return [future for _, future in batch if not future.done()]
