"""One try of a step, from the message that asks for it to its ack; and what follows, where this worker may go on.

A worker that could begin the next step at once does so under the same message: one delivery, one read and one ack
less. Should it die, the message comes again, and what it was at is sent as if it never had been.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framemesh.errors import FramemeshError
from framemesh.pull import Envelope
from framemesh.registry import Registry
from framemesh.steps import advance
from framemesh.steps.advance import Failure, Order
from framemesh.steps.children import Children
from framemesh.steps.context import Blobs, Cancelled, Context
from framemesh.steps.derivations import Derivations
from framemesh.steps.functions import Function, Skip, StepFailed, failure, unexpected
from framemesh.steps.hands import Hands
from framemesh.steps.job import Job, StepTask
from framemesh.steps.joblog import JobLog
from framemesh.steps.mapping import MappingError
from framemesh.steps.runner import run
from framemesh.steps.store import Event, JobMissing, JobStore, Known, Written
from framemesh.steps.text import LONGEST_LINE, writable

log = logging.getLogger(__name__)

ANNOUNCE_S = 0.05
"""A step that is done sooner is never seen to be under way: one state less to write."""
TELL_S = 1.0
"""How often progress is written, and whether the step is still wanted is looked at."""
SUSPECT_DELIVERIES = 2
MOST_DEATHS = 3
"""How often the worker's process may end while it has one try of a step."""
MOST_TOGETHER = 2
"""After so many deaths, not counting the first, tries are made one at a time: of those that were there when a
process ended only one need have been the cause."""
SUSPECT_S = 3600.0


@dataclass(frozen=True)
class Means:
    """What a worker gives to its tries."""

    store: JobStore
    registry: Registry
    blobs: Blobs
    children: Children
    scratch: Path
    """Where the folders of its tries are made."""
    derivations: Derivations
    kept_s: float
    """How long what a function gave may be remembered."""
    worker: str
    suspects: asyncio.Lock
    """Held by a step that may be what ends this process."""
    may_go_on: Callable[[Order, Hands], Doing | None]
    """What does a step here, if it may begin here at once; the hand that asks will be free."""


@dataclass(frozen=True)
class Doing:
    """What does a step, how many seconds it has where the plan says nothing, and the hand that it takes."""

    function: Function
    seconds: float
    hands: Hands


class Attempt:
    """One try of one step, and of those after it that this worker goes on with."""

    def __init__(self, means: Means, doing: Doing, envelope: Envelope[StepTask]) -> None:
        self._means = means
        doing.hands.take()
        self._doing = doing
        self._envelope = envelope
        self._task = envelope.message
        self._told: tuple[float, str] | None = None
        self._running: asyncio.Task[Any] | None = None
        """Of the function's own: what it leaves behind, cancellations too, reaches nothing that is written."""
        self._unwanted = False

    @property
    def job(self) -> str:
        """The job that it is of."""
        return self._task.job

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._unwanted = True
        if self._running:
            self._running.cancel()

    def put_down(self) -> None:
        """Whatever became of it, the hand is free."""
        self._doing.hands.put_down()

    async def make(self) -> None:
        """Do the step, write down what came of it, and ack. Raises BusError when that cannot be written."""
        store = self._means.store
        known = store.carried(self._envelope) or await store.look(self._task.job)
        while known:  # else the job has been put away
            event = await (self._again(known) if self._is_again else self._event(known))
            job, orders, known = await self._record(event, known)
            following = self._following(orders)
            await store.follow_up(job, [order for order in orders if order is not following])
            if following is None:
                break
        await self._envelope.ack()

    async def _record(self, event: Event, known: Known) -> Written:
        store, job = self._means.store, self._task.job
        try:
            return await store.apply(job, event, known)
        except JobMissing:
            raise
        except FramemeshError as error:  # the state has no room for it
            return await store.apply(job, self._failed(Failure(str(error), retry=False)))

    async def hand_back(self) -> None:
        """The worker stops: somebody else will do it, and it has not died of it."""
        await self._means.registry.survived(self._try)
        await self._envelope.nak(0)

    @property
    def _try(self) -> str:
        return f"{self._envelope.message.key}/{self._envelope.message.attempt}"

    def _following(self, orders: list[Order]) -> Order | None:
        """The step that this worker goes on with: the only one that this one has set free."""
        if len(orders) != 1 or orders[0].due is not None or (order := orders[0]).function is None:
            return None
        if self._unwanted or _cancelling():
            return None
        if (doing := self._means.may_go_on(order, self._doing.hands)) is None:
            return None
        if doing.hands is not self._doing.hands:
            doing.hands.take()
            self._doing.hands.put_down()
        self._doing = doing
        self._task = order.task(order.function)
        return order

    # -- what happens to the job --------------------------------------------------------------------

    async def _event(self, known: Known) -> Event:
        """Do the step if it is still to be done, and say what that means for the job."""
        self._began = time.time()
        task, job = self._task, known.job
        if not _wanted(job, task):
            return advance.again
        if deaths := await self._deaths():
            return self._failed(Failure(f"the worker's process ended {deaths} times at this step", retry=False))
        try:
            given, scope = advance.step_input(job, task.step, task.item), advance.scope(job, task.step)
        except MappingError as error:
            return self._failed(Failure(f"input: {error}", retry=False))
        return await self._outcome(given, job.step_of(task.step).timeout or self._doing.seconds, scope)

    async def _outcome(self, given: Any, seconds: float, scope: str | None) -> Event:
        kept = JobLog(self._means.store.bus, self._task)
        try:
            if scope is None:
                output = await self._run(given, seconds, kept)
            else:
                output = await self._remembered(scope, given, seconds, kept)
        except (Cancelled, asyncio.CancelledError):
            if not self._unwanted or _cancelling():
                raise  # the worker stops: somebody else will do it
            return _nothing
        except Skip as reason:
            return self._skipped(str(reason))
        except Exception as error:
            if unexpected(error):
                kept.exception("failed")
            why = failure(error)
            return self._failed(Failure(str(why), why.retry, why.delay))
        else:
            return self._done(output)
        finally:
            await kept.flush_lines()

    def _done(self, output: Any) -> Event:
        task, began, now = self._task, self._began, time.time()
        return lambda job: advance.done(job, task.step, task.item, task.attempt, output, began, now)

    def _skipped(self, reason: str) -> Event:
        task, now = self._task, time.time()
        return lambda job: advance.skipped(job, task.step, task.item, task.attempt, reason, now)

    def _failed(self, failure: Failure) -> Event:
        task, now, chance = self._task, time.time(), random.random()  # noqa: S311
        log.warning("%s: %s", task.key, writable(failure.reason, LONGEST_LINE))
        return lambda job: advance.failed(job, task.step, task.item, task.attempt, failure, now, chance)

    @property
    def _is_again(self) -> bool:
        """Whether somebody has had this try before."""
        return self._envelope.deliveries >= SUSPECT_DELIVERIES and self._task is self._envelope.message

    async def _again(self, known: Known) -> Event:
        """After several deaths wait for others of that kind; who waits is not counted if they end the process."""
        if await self._means.registry.attempts(self._try) < MOST_TOGETHER:
            return await self._event(known)
        async with self._means.suspects:
            return _nothing if self._unwanted else await self._event(known)

    async def _deaths(self) -> int:
        """How often this try ended the process that had it, where that is too often."""
        if not self._is_again:
            return 0
        count = await self._means.registry.attempt(self._try, SUSPECT_S)
        return count - 1 if count > MOST_DEATHS else 0

    # -- meanwhile ----------------------------------------------------------------------------------

    async def _remembered(self, scope: str, given: Any, seconds: float, kept: JobLog) -> Any:
        """What the function gave for this before, else what it gives now."""
        memory, function, job = self._means.derivations, self._doing.function, self._task.job
        known_by = {"input": given, "depends": function.depends()} if function.depends else given
        if found := await memory.recall(scope, function.name, known_by, job):
            kept.info("the same as before: its output is taken again")
            return found.output
        output = await self._run(given, seconds, kept)
        await memory.keep(scope, function.name, known_by, output, job, self._means.kept_s)
        return output

    async def _run(self, given: Any, seconds: float, kept: JobLog) -> Any:
        context = Context.of(self._task, kept, self._means.blobs, self._say, self._means.scratch)
        tellers: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        announcing = loop.call_later(ANNOUNCE_S, self._begin_telling, tellers, context, kept)
        work = run(self._doing.function, context, self._task, given, seconds, self._means.children)
        self._running = loop.create_task(work)
        try:
            return await self._running
        except asyncio.CancelledError as error:
            if self._unwanted or _cancelling():
                raise
            raise StepFailed(f"{type(error).__name__}: {error}") from error  # of its own doing
        finally:
            announcing.cancel()
            await _ended(*tellers, self._running)

    def _begin_telling(self, tellers: list[asyncio.Task[None]], context: Context, kept: JobLog) -> None:
        tellers += [asyncio.create_task(kept.keep()), asyncio.create_task(self._keep_telling(context))]

    async def _say(self, percent: float, text: str) -> None:
        self._told = (percent, text)

    async def _keep_telling(self, context: Context) -> None:
        """Write down that it is under way, and how far; end it when it is not wanted any more."""
        task = self._task
        wanted = await self._write(
            lambda job: advance.started(job, task.step, task.item, task.attempt, self._means.worker, self._began)
        )
        while wanted:
            await asyncio.sleep(TELL_S)
            told, self._told = self._told, None
            wanted = await self._write(_telling(task, told))
        context.cancel()
        self.cancel()

    async def _write(self, change: Callable[[Job], bool]) -> bool:
        """Write a change; whether the step is still wanted."""
        wanted = True

        def event(job: Job) -> list[Order]:
            nonlocal wanted
            wanted = change(job)
            return []

        with contextlib.suppress(Exception):  # told again in a second; what matters is written at the end
            await self._means.store.apply(self._task.job, event)
        return wanted


def _nothing(_: Job) -> list[Order]:
    """What becomes of the job where nobody wants the try any more."""
    return []


def _telling(task: StepTask, told: tuple[float, str] | None) -> Callable[[Job], bool]:
    return lambda job: advance.progressed(job, task.step, task.item, task.attempt, told)


def _wanted(job: Job, task: StepTask) -> bool:
    """Whether the try is still to be made."""
    try:
        work = job.work(task.step, task.item)
    except KeyError:
        return False
    return work.attempt == task.attempt and work.status.active and not job.status.over


def _cancelling() -> bool:
    """Whether the worker stops."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """End these, where they have not ended."""
    if going := [task for task in tasks if not task.done()]:
        for task in going:
            task.cancel()
        await asyncio.wait(going)
