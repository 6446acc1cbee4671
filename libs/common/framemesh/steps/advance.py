"""What happens to a job when something happens to it. Pure: no clock, no chance, no network of its own.

Every function changes the job that it is given, in place, and returns what has to be sent out because of it. It
may be called again for the same event, after a crash: what is known already changes nothing, and returns what may
not have been sent yet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from framemesh.steps.job import (
    LONGEST_TEXT,
    Job,
    JobStatus,
    Priority,
    StepState,
    StepStatus,
    StepTask,
    Work,
    place,
)
from framemesh.steps.mapping import MappingError, copied, resolve
from framemesh.steps.plan import MOST_ITEMS, ON_FAILURE, Step, ended_before
from framemesh.steps.text import writable

SCOPE_PATTERN = r"[A-Za-z0-9_-]{1,64}"
LONGEST_ERROR = 4096
LEAST_ERROR = 96
ITEMS_ERRORS = 192 * 1024
"""Bytes of an error that is kept; those of all items share so much, as the state has a bound."""
LONGEST_REST_S = 86400.0


@dataclass(frozen=True)
class Order:
    """Something to be sent: a try of a step, now or when it is ``due``. Of a sub-job, ``function`` is None."""

    job: str
    step: str
    item: int | None
    attempt: int
    function: str | None
    priority: Priority
    due: float | None = None

    @property
    def place(self) -> str:
        """The step or its item as a subject token."""
        return place(self.step, self.item)

    def task(self, function: str) -> StepTask:
        """What a worker is given."""
        return StepTask(job=self.job, step=self.step, item=self.item, attempt=self.attempt, function=function)


@dataclass(frozen=True)
class Failure:
    """Why a try failed, and whether another may help. ``delay`` is the rest before it, None for the plan's own."""

    reason: str
    retry: bool = True
    delay: float | None = None

    @property
    def rest(self) -> float | None:
        """Seconds before the next try, a day at most; None for the plan's own."""
        if self.delay is None or not math.isfinite(self.delay):
            return None
        return min(LONGEST_REST_S, max(0.0, self.delay))


def begin(job: Job, now: float) -> list[Order]:
    """A job has been accepted."""
    job.steps = {name: job.steps.get(name) or StepState() for name in job.plan.steps}
    return [] if job.parked else _unlock(job, now)


def skip_absent(job: Job, functions: Collection[str]) -> None:
    """A new job goes on without its optional steps whose functions there are not."""
    for name, step in job.plan.steps.items():
        if step.optional and step.function and step.function not in functions:
            why = f"no worker has ever had a function {step.function!r}"
            job.steps[name] = StepState(status=StepStatus.SKIPPED, error=why, ended=job.created)


def admitted(job: Job, now: float) -> list[Order]:
    """It is the turn of a job that was parked."""
    if job.status.over:
        return []
    if not job.parked:
        return orders(job)
    job.parked = False
    return _unlock(job, now)


def started(job: Job, step: str, item: int | None, attempt: int, worker: str, now: float) -> bool:
    """A worker has begun a try; whether it may go on."""
    if job.status.over or (work := _work(job, step, item, attempt)) is None or not work.status.active:
        return False
    _run(job, step, now)
    work.status, work.started, work.worker, work.due = StepStatus.RUNNING, work.started or now, worker, None
    return True


def progressed(job: Job, step: str, item: int | None, attempt: int, told: tuple[float, str] | None) -> bool:
    """A worker says how far it is, percent and a text, or nothing new; whether it may go on."""
    if job.status.over or (work := _work(job, step, item, attempt)) is None or not work.status.active:
        return False
    if told:
        work.progress, work.text = min(100.0, max(0.0, told[0])), _kept(told[1], LONGEST_TEXT)
        _sum_up(job.steps[step])
    return True


def done(
    job: Job, step: str, item: int | None, attempt: int, output: Any, began: float, now: float
) -> list[Order]:
    """A try gave its output. Without effect when the step has an end already, or the job."""
    if (work := _work(job, step, item, attempt)) is None or job.status.over or work.status.over:
        return again(job)
    _run(job, step, began)
    work.status, work.output, work.ended, work.progress = StepStatus.DONE, output, now, 100
    work.started, work.text, work.error, work.due = work.started or began, "", "", None
    return _went_on(job, step, item, now)


def failed(
    job: Job, step: str, item: int | None, attempt: int, failure: Failure, now: float, chance: float = 0.0
) -> list[Order]:
    """A try failed: another one later, or the end of the step."""
    work = _work(job, step, item, attempt)
    if work is None or job.status.over or work.status.over:
        return again(job)
    _run(job, step, now)
    work.error, work.started = _kept(failure.reason, _room(job.steps[step], item)), work.started or now
    retry, tried = job.step_of(step).retry, work.attempt - work.spent
    if failure.retry and tried < retry.attempts:
        work.attempt += 1
        rest = retry.rest(tried, chance) if failure.rest is None else failure.rest
        work.status, work.due = StepStatus.RETRYING, now + rest
        return [_order(job, step, item)]
    work.status, work.ended, work.due = StepStatus.FAILED, now, None
    return _went_on(job, step, item, now)


def skipped(job: Job, step: str, item: int | None, attempt: int, reason: str, now: float) -> list[Order]:
    """A step says that there is nothing for it to do here, and why: it has no output, and the job goes on."""
    work = _work(job, step, item, attempt)
    if work is None or job.status.over or work.status.over:
        return again(job)
    _run(job, step, now)
    work.error = _kept(reason, _room(job.steps[step], item))
    work.status, work.ended, work.due = StepStatus.SKIPPED, now, None
    return _went_on(job, step, item, now)


def cancel(job: Job, now: float, reason: str = "cancelled") -> bool:
    """Somebody wants the job no more; whether that changed anything."""
    if job.status.over:
        return False
    _give_up(job, now)
    job.status, job.ended, job.error = JobStatus.CANCELLED, now, _kept(reason)
    return True


def retry(job: Job, now: float) -> list[Order]:
    """Somebody wants a job that failed, or was cancelled, to go on from where it failed.

    What it went on without stays as it is: the steps after it have been done.
    """
    if job.status not in {JobStatus.FAILED, JobStatus.CANCELLED}:
        return []
    if last := job.steps.pop(ON_FAILURE, None):
        job.last_words = last.attempt
    ended = {StepStatus.DONE, StepStatus.SKIPPED}
    before = ended_before(job.plan)
    settled = set[str]().union(*(before[name] for name, state in job.steps.items() if state.status in ended))
    for name, state in job.steps.items():
        if name not in settled:
            _wait_again(state)
    job.status, job.error, job.ended, job.failed_step = JobStatus.PROCESSING, "", None, ""
    job.started, job.parked = job.started or now, False
    return _unlock(job, now)


def orders(job: Job) -> list[Order]:
    """All that is to be done of a job now, for who suspects that some of it was never sent."""
    return _orders(job, {StepStatus.READY, StepStatus.RETRYING})


def again(job: Job) -> list[Order]:
    """All that somebody may be at, for who does not know what became of what it set free.

    Also what is said to run: its worker may have been going on with it under the message that came again.
    """
    return _orders(job, {StepStatus.READY, StepStatus.RETRYING, StepStatus.RUNNING})


def sub_jobs(job: Job, *wanted: StepStatus) -> list[str]:
    """The sub-jobs of steps that stand so; by default those that are under way."""
    return [
        work.worker
        for name, state in job.steps.items()
        if job.step_of(name).plan
        for _, work in _works(state)
        if work.worker and work.status in (wanted or {StepStatus.RUNNING})
    ]


# -- inside ---------------------------------------------------------------------------------------------


def _kept(text: str, most: int = LONGEST_ERROR) -> str:
    return writable(text, most)


def _room(state: StepState, item: int | None) -> int:
    """Bytes that the error of a step or an item may have."""
    count = 1 if item is None else len(state.items or [])
    return min(LONGEST_ERROR, max(LEAST_ERROR, ITEMS_ERRORS // max(1, count)))


def _works(state: StepState) -> list[tuple[int | None, Work]]:
    """What of a step a worker can be given."""
    return [(None, state)] if state.items is None else list(enumerate(state.items))


def _work(job: Job, step: str, item: int | None, attempt: int) -> Work | None:
    """What a try is about; None when it is not the one that counts."""
    try:
        work = job.work(step, item)
    except KeyError:
        return None
    return work if work.attempt == attempt else None


def _order(job: Job, step: str, item: int | None) -> Order:
    work = job.work(step, item)
    return Order(job.id, step, item, work.attempt, job.step_of(step).function, job.priority, work.due)


def _run(job: Job, step: str, now: float) -> None:
    """The job and the step are under way."""
    if job.status is JobStatus.QUEUED:
        job.status, job.started = JobStatus.PROCESSING, now
    state = job.steps[step]
    if state.items is not None and state.started is None:
        state.started = now
    if state.items is not None and state.status is StepStatus.READY:
        state.status = StepStatus.RUNNING


def _went_on(job: Job, step: str, item: int | None, now: float) -> list[Order]:
    """A step or an item has ended: what follows from it."""
    state, found = job.steps[step], list[Order]()
    if item is not None:
        _shorten(job.step_of(step), job.work(step, item))
        found = _next_items(job, step, now)
        _sum_up(state)
    if not state.status.over:
        return found
    if step == ON_FAILURE:
        _end(job, JobStatus.FAILED, now)
        return []
    if state.status is StepStatus.FAILED and not job.plan.steps[step].optional:
        return _fail(job, step, state.error, now)
    return found + _unlock(job, now)


def _unlock(job: Job, now: float) -> list[Order]:
    """Make the steps ready whose turn it is, and end the job when there is nothing left."""
    found: list[Order] = []
    moved = True
    while moved and not job.status.over and ON_FAILURE not in job.steps:
        moved = False
        for name, step in job.plan.steps.items():
            state = job.steps[name]
            if state.status is StepStatus.WAITING and all(job.steps[other].status.over for other in step.after):
                found += _ready(job, name, step, now)
                moved = moved or state.status.over
            if ON_FAILURE in job.steps or job.status.over:
                return [order for order in found if order.step == ON_FAILURE]
    if not job.status.over and all(state.status.over for state in job.steps.values()):
        _finish(job, now)
    return found


def _ready(job: Job, name: str, step: Step, now: float) -> list[Order]:
    state = job.steps[name]
    if step.over is None:
        return [_make_ready(job, name, None)]
    if state.items is None:
        try:
            state.items = [Work() for _ in _listed(job, step.over)]
        except MappingError as error:
            state.status, state.error, state.ended = StepStatus.FAILED, _kept(str(error)), now
            return [] if step.optional else _fail(job, name, state.error, now)
    state.status = StepStatus.READY
    if all(item.status.over for item in state.items):
        _settle_items(job, name, now)
        if state.status is StepStatus.FAILED and not step.optional:
            return _fail(job, name, state.error, now)
        return []
    return _fill(job, name)


def _orders(job: Job, wanted: set[StepStatus]) -> list[Order]:
    found = [
        _order(job, name, number)
        for name, state in job.steps.items()
        for number, work in _works(state)
        if work.status in wanted and not (job.step_of(name).plan and work.status is StepStatus.RUNNING)
    ]
    return [] if job.status.over else found


def _make_ready(job: Job, name: str, item: int | None) -> Order:
    work = job.work(name, item)
    work.status = StepStatus.READY
    work.attempt += 1
    return _order(job, name, item)


def _listed(job: Job, over: str) -> list[Any]:
    found = resolve(over, known(job))
    if not isinstance(found, list):
        raise MappingError(f"over: {over} is no list but {type(found).__name__}")
    if len(found) > MOST_ITEMS:
        raise MappingError(f"over: {over} has {len(found)} items, at most {MOST_ITEMS} are worked off: split it")
    return found


def _fill(job: Job, name: str) -> list[Order]:
    """Make as many items ready as may run at a time."""
    items = job.steps[name].items or []
    free = job.plan.steps[name].parallel - sum(item.status.active for item in items)
    waiting = [number for number, item in enumerate(items) if item.status is StepStatus.WAITING]
    return [_make_ready(job, name, number) for number in waiting[: max(0, free)]]


def _next_items(job: Job, name: str, now: float) -> list[Order]:
    """An item has ended: the next ones, or the end of the step."""
    items, tolerate = job.steps[name].items or [], job.plan.steps[name].tolerate
    failures = sum(item.status is StepStatus.FAILED for item in items)
    if failures > tolerate or all(item.status.over for item in items):
        _settle_items(job, name, now)
        return []
    return _fill(job, name)


def _settle_items(job: Job, name: str, now: float) -> None:
    """All items have ended, or too many have failed: the step ends too."""
    state = job.steps[name]
    items = state.items or []
    bad = [number for number, item in enumerate(items) if item.status is StepStatus.FAILED]
    if len(bad) > job.plan.steps[name].tolerate:
        for item in items:
            _cancel(item, now)
        first = f"item {bad[0]}: {items[bad[0]].error}"
        state.status = StepStatus.FAILED
        state.error = _kept(f"{len(bad)} of {len(items)} items failed; {first}")
    else:
        state.status, state.error, state.progress = StepStatus.DONE, "", 100
        _gather(state, items)
    state.ended = now


def _shorten(step: Step, item: Work) -> None:
    """There may be thousands of items, and the state has a bound: what nobody asks for any more is left out."""
    item.text = ""
    if step.function:
        item.worker = ""


def _gather(state: StepState, items: list[Work]) -> None:
    """The items' outputs become the step's; one that was done before a retry has given it already."""
    before = state.output or [None] * len(items)
    state.output = [was if item.output is None else item.output for item, was in zip(items, before, strict=True)]
    for item in items:
        item.output = None


def _sum_up(state: StepState) -> None:
    """The progress of a step with items is that of its items."""
    if state.items and not state.status.over:
        state.progress = sum(100 if item.status.over else item.progress for item in state.items) / len(state.items)


def _wait_again(state: StepState) -> None:
    for work in (state, *(state.items or [])):
        if work.status in {StepStatus.FAILED, StepStatus.CANCELLED}:
            work.status, work.spent, work.ended, work.error = StepStatus.WAITING, work.attempt, None, ""
            work.started, work.progress, work.text = None, 0, ""
    if state.status is StepStatus.DONE and any(not item.status.over for item in state.items or []):
        state.status, state.ended = StepStatus.WAITING, None  # of a step that tolerated some


def _cancel(work: Work, now: float) -> None:
    if not work.status.over:
        work.status, work.ended, work.due = StepStatus.CANCELLED, now, None


def _give_up(job: Job, now: float) -> None:
    """Whatever has not ended will not be done."""
    for state in job.steps.values():
        for work in (state, *(state.items or [])):
            _cancel(work, now)


def _fail(job: Job, step: str, reason: str, now: float) -> list[Order]:
    """A step that the job needs has failed: the rest is given up, and the plan's last word is run."""
    _give_up(job, now)
    job.failed_step, job.error = step, _kept(f"{step}: {reason}")
    if job.plan.on_failure is None:
        _end(job, JobStatus.FAILED, now)
        return []
    job.steps[ON_FAILURE] = StepState(attempt=job.last_words, spent=job.last_words)
    return [_make_ready(job, ON_FAILURE, None)]


def _finish(job: Job, now: float) -> None:
    """Every step has ended well enough."""
    wanted = job.plan.output
    try:
        if wanted is None:
            job.output = {name: job.steps[name].output for name in job.plan.last()}
        else:
            job.output = resolve(wanted, known(job))
    except MappingError as error:
        job.error = _kept(f"output: {error}")
        _end(job, JobStatus.FAILED, now)
    else:
        _end(job, JobStatus.DONE, now)


def _end(job: Job, status: JobStatus, now: float) -> None:
    job.status, job.ended = status, now
    job.started = job.started or now


def known(job: Job) -> dict[str, Any]:
    """What the references of a plan can refer to."""
    return {
        "input": job.input,
        "steps": {name: state.output for name, state in job.steps.items()},
        "error": job.error,
    }


def scope(job: Job, step: str) -> str | None:
    """In which scope what a step gives is remembered; None where it is not. Raises MappingError."""
    wanted = job.step_of(step).remember
    if wanted is None or (found := resolve(wanted, known(job))) is None:
        return None
    if not re.fullmatch(SCOPE_PATTERN, str(found)):
        raise MappingError(f"remember: {str(found)[:80]!r} is no name of a scope: want letters, digits, - and _")
    return str(found)


def step_input(job: Job, step: str, item: int | None) -> dict[str, Any]:
    """The input of a step, with its references filled in. Raises MappingError."""
    plan, values = job.step_of(step), known(job)
    if item is not None and plan.over is not None:
        values |= {"item": _listed(job, plan.over)[item], "index": item}
    found: dict[str, Any] = copied(
        resolve(plan.input, values)
    )  # what a step changes in it must not change the job
    return found
