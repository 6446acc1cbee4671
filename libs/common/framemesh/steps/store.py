"""Jobs on JetStream: the newest state of each under compare-and-set, and the steps that are to be done.

Whoever changes a job writes the new state first, then sends what follows from it, then acks what made it do so.
Between any two of these it may be killed: the message that was not acked comes again, finds the change made, and
sends what is missing. A step is sent only where none lies on its subject, so sending twice does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from framemesh import subjects
from framemesh.bus import Bus, BusError, Conflict
from framemesh.errors import FramemeshError
from framemesh.headers import CARRIED_JOB, EXPECTED, FOLLOWS, MSG_ID
from framemesh.pull import Envelope
from framemesh.steps import advance
from framemesh.steps.admission import Admission
from framemesh.steps.advance import Failure, Order
from framemesh.steps.job import MOST_STATE_BYTES, Job, JobStatus, Parent, StepTask, is_id, place
from framemesh.steps.mapping import MappingError
from framemesh.tasks import Together

Event = Callable[[Job], list[Order]]
"""Something that happens to a job; it may be tried on several states until one of them is the newest."""

TRIES = 100
LATE_S = 2.0
"""A try that was due longer ago was never sent by the server."""
MOST_CARRIED_BYTES = 8 * 1024
"""A first step brings its job along where that is no longer, so that whoever does it need not read it."""
FRESH_S = 1.0
"""For so long a job is believed to be as its first step brought it along: it may have been cancelled since."""


@dataclass
class Known:
    """A state of a job as it lies in the stream."""

    seq: int
    data: bytes
    _job: Job | None = None

    @property
    def job(self) -> Job:
        """The job, to look at."""
        if self._job is None:
            self._job = Job.from_bytes(self.data)
        return self._job

    def take(self) -> Job:
        """The job, to be changed; the next one who asks gets another."""
        job, self._job = self.job, None
        return job


Asked = tuple[Event, Known | None]
Written = tuple[Job, list[Order], Known]


class JobMissing(FramemeshError):
    """There is no such job."""


class JobStore:
    """The jobs of one mesh."""

    def __init__(self, bus: Bus, admission: Admission | None = None) -> None:
        self.bus = bus
        self._admission = admission
        self._writers: dict[str, Together[Asked, Written | Exception]] = {}

    async def declare(self) -> None:
        """Create the stream."""
        await self.bus.declare(subjects.JOBS)

    async def look(self, job_id: str) -> Known | None:
        """A job's newest state; None where there is none, or it has been put away."""
        if not is_id(job_id):  # a pattern, say
            return None
        stored = await self.bus.newest(subjects.JOBS.name, subjects.job_state(job_id))
        return Known(*stored) if stored else None

    async def find(self, job_id: str) -> Job | None:
        """A job as it stands; None where there is none, or it has been put away."""
        known = await self.look(job_id)
        return known.take() if known else None

    async def get(self, job_id: str) -> Job:
        """A job as it stands. Raises JobMissing."""
        if (job := await self.find(job_id)) is None:
            raise JobMissing(f"job {job_id}: there is none of that id: `framemesh jobs list` shows them")
        return job

    async def create(self, job: Job) -> bool:
        """Put a new job down and send its first steps; False where one of that id is there already.

        Of one that has not begun, what may not have been sent is sent again: whoever put it down may have died.
        """
        if self._admission and job.parent is None and self._admission.take_room(job):
            putting = asyncio.ensure_future(self._put_down(job))
            may = await self._admission.enter(job)  # asked before anybody else here asks
            is_new = await putting
            if not may:  # others took the room meanwhile
                await self._admission.begun(job)
            return is_new
        job.parked = not await self._may_begin(job)
        is_new = await self._put_down(job)
        if is_new and job.parked and await self._may_begin(job):  # its turn came while it was being put down
            await self.admit(job.id)
        return is_new

    async def _put_down(self, job: Job) -> bool:
        """Write the first state and send what it begins with; False where there is one already."""
        first = advance.begin(job, job.created)
        try:
            await self._write_and_send(job, first)
        except Conflict:
            found = await self.get(job.id)
            # Where it has begun somebody may be at what seems to wait; the jobs service mends what nobody is at.
            await self.follow_up(found, advance.orders(found) if found.status is JobStatus.QUEUED else ())
            return False
        return True

    async def _write_and_send(self, job: Job, orders: list[Order]) -> None:
        data = _state(job)
        if len(orders) == 1 and orders[0].function and len(data) <= MOST_CARRIED_BYTES:
            await self._put_together(job, data, orders[0], orders[0].function)
        else:
            await self._put(job, data, 0)
            await self.send(orders, job)

    async def _put_together(self, job: Job, data: bytes, order: Order, function: str) -> None:
        """In one round trip: the server takes the step only right after this state."""
        mark = secrets.token_hex(8)
        along = {EXPECTED: "0", FOLLOWS: mark, CARRIED_JOB: data.decode()}
        written, sent = await asyncio.gather(
            self._put(job, data, 0, {MSG_ID: mark}),
            self.bus.publish_raw(*_message(order, function), along),
            return_exceptions=True,
        )
        if isinstance(written, BaseException):
            raise written
        if isinstance(sent, Conflict):  # something else came between
            await self._send_now(order, function)
        elif isinstance(sent, BaseException):
            raise sent

    def carried(self, step: Envelope[StepTask]) -> Known | None:
        """The job that a step brought along, where it was put down right before it and only now; else None.

        Should it have changed since, what is written on top of it is refused.
        """
        headers = step.raw.headers or {}
        is_fresh = step.deliveries == 1 and time.time() - step.meta.stored_at < FRESH_S
        if not is_fresh or FOLLOWS not in headers or CARRIED_JOB not in headers:
            return None
        return Known(step.meta.stream_seq - 1, headers[CARRIED_JOB].encode())

    async def admit(self, job_id: str) -> None:
        """Let a parked job begin; one that is gone is no error."""
        with contextlib.suppress(JobMissing):
            await self.change(job_id, lambda job: advance.admitted(job, time.time()))

    async def _may_begin(self, job: Job) -> bool:
        return job.parent is not None or self._admission is None or await self._admission.enter(job)

    async def change(self, job_id: str, event: Event, known: Known | None = None) -> Job:
        """Let something happen to a job, and send what follows from it; ``known`` may be its newest state.

        Raises JobMissing or BusError.
        """
        job, sent, _ = await self.apply(job_id, event, known)
        await self.follow_up(job, sent)
        return job

    async def follow_up(self, job: Job, sent: Iterable[Order] = ()) -> None:
        """Send what follows from a state that is written."""
        await self.send(sent, job)
        if not job.status.over:
            return
        await self._tell_parent(job)
        if self._admission and job.parent is None:
            for other in await self._admission.leave(job):
                await self.admit(other)

    async def apply(self, job_id: str, event: Event, known: Known | None = None) -> Written:
        """The new state, written; what is still to be sent; and the state as it was written.

        What happens to a job while another thing is being written is written together: a thousand items that end
        would else wait for each other.
        """
        writer = self._writers.setdefault(job_id, Together(partial(self._apply_all, job_id)))
        try:
            found = await writer((event, known))
        finally:
            if not writer.busy:
                self._writers.pop(job_id, None)
        if isinstance(found, Exception):
            raise found
        return found

    async def _apply_all(self, job_id: str, asked: Sequence[Asked]) -> list[Written | Exception]:
        """All at once, or one by one where one of them cannot be written."""
        try:
            return list(await self._apply(job_id, asked))
        except Exception as error:
            if len(asked) == 1:
                return [error]
        return [each for one in asked for each in await self._apply_all(job_id, [one])]

    async def _apply(self, job_id: str, asked: Sequence[Asked]) -> list[Written]:
        known = asked[0][1]
        for number in range(TRIES):
            known = known or await self.look(job_id)
            if known is None:
                raise JobMissing(f"job {job_id}: there is none of that id")
            job = known.take()
            orders = [event(job) for event, _ in asked]
            try:
                written = await self._write(job, known.seq, before=known.data)
            except Conflict:  # somebody else was first; all who were late must not meet again
                known = None
                await asyncio.sleep(random.uniform(0, 0.002 * min(number, 10)))  # noqa: S311
                continue
            if len(asked) == 1:
                return [(job, orders[0], written)]
            return [(job, each, Known(written.seq, written.data)) for each in orders]
        raise BusError(f"job {job_id}: others changed it {TRIES} times meanwhile")

    async def cancel(self, job_id: str, reason: str) -> Job:
        """End a job and its sub-jobs, and take back what waits. One that is over stays as it is."""
        event = _Cancel(reason)
        job = await self.change(job_id, event)
        for child in event.children:
            with contextlib.suppress(FramemeshError):
                await self.cancel(child, f"{reason}, with {job_id}")
        await self.bus.client.publish(subjects.job_cancelled(job_id))
        await self.take_back(job)
        return job

    async def fail(self, work: Order | StepTask, reason: str) -> None:
        """Fail a step that nobody can do. A job that is gone is no error."""
        failure = Failure(reason, retry=False)
        with contextlib.suppress(JobMissing):
            await self.change(
                work.job,
                lambda job: advance.failed(job, work.step, work.item, work.attempt, failure, time.time()),
            )

    async def take_back(self, job: Job) -> None:
        """Take back the steps of a job that is over."""
        await self.bus.purge(subjects.JOBS.name, subjects.job_step("*", "*", job.id, "*"))
        await self.bus.purge(subjects.JOBS.name, subjects.job_retry(job.id, "*"))

    async def send(self, orders: Iterable[Order], job: Job) -> None:
        """Send steps to whoever does them, and put sub-jobs down."""
        await asyncio.gather(*(self._send(order, job) for order in orders))

    async def _send(self, order: Order, job: Job) -> None:
        if order.function is None:
            await self._begin_sub_job(order, job)
        elif order.due is not None and order.due > time.time() - LATE_S:
            await self._send_later(order, order.function, order.due)
        else:
            await self._send_now(order, order.function)

    async def _send_now(self, order: Order, function: str) -> None:
        subject, data = _message(order, function)
        after = 0
        while True:
            try:
                await self.bus.publish_raw(subject, data, {EXPECTED: str(after)})
            except Conflict:
                older = await self._older(subject, order)
                if older is None:
                    return  # it lies there
                after = older
            else:
                return

    async def _older(self, subject: str, order: Order) -> int | None:
        """Where an earlier try lies, which is not acked yet and gives way; 0 where nothing lies any more."""
        stored = await self.bus.newest(subjects.JOBS.name, subject)
        if stored is None:
            return 0
        lies = StepTask.model_validate_json(stored[1])
        return stored[0] if lies.attempt < order.attempt else None

    async def _send_later(self, order: Order, function: str, due: float) -> None:
        """The server publishes it when it is due; it takes the place of the try that is not acked yet."""
        target = subjects.job_step(function, order.priority, order.job, order.place)
        at = datetime.fromtimestamp(max(due, time.time() + 0.05), UTC).isoformat().replace("+00:00", "Z")
        await self.bus.publish_raw(
            subjects.job_retry(order.job, order.place),
            order.task(function).model_dump_json().encode(),
            {
                MSG_ID: f"{order.job}/{order.place}/{order.attempt}/later",
                "Nats-Schedule": f"@at {at}",
                "Nats-Schedule-Target": target,
            },
        )

    # -- jobs of jobs -------------------------------------------------------------------------------

    async def _begin_sub_job(self, order: Order, job: Job) -> None:
        plan = job.step_of(order.step).plan
        if plan is None:
            return
        try:
            given = advance.step_input(job, order.step, order.item)
        except MappingError as error:
            await self.fail(order, str(error))
            return
        parent = Parent(job=job.id, step=order.step, item=order.item, attempt=order.attempt)
        child = Job(
            id=child_id(job.id, order.step, order.item, order.attempt),
            plan=plan, owner=job.owner, priority=job.priority, input=given, parent=parent, created=time.time(),
        )  # fmt: skip
        await self.create(child)
        begun = _Begun(order, child.id)
        await self.change(job.id, begun)
        if not begun.wanted:
            await self.cancel(child.id, f"cancelled, with {job.id}")

    async def _tell_parent(self, job: Job) -> None:
        """A sub-job has come to its end: so has the step that it is of."""
        if job.parent is None:
            return
        up, now = job.parent, job.ended or time.time()

        def ended(parent: Job) -> list[Order]:
            if job.status is JobStatus.DONE:
                return advance.done(parent, up.step, up.item, up.attempt, job.output, job.created, now)
            reason = f"sub-job {job.id} {job.status}: {job.error}"
            return advance.failed(parent, up.step, up.item, up.attempt, Failure(reason), now)

        with contextlib.suppress(JobMissing):
            await self.change(up.job, ended)

    # -- wire ---------------------------------------------------------------------------------------

    async def _write(self, job: Job, seq: int, before: bytes = b"") -> Known:
        data = _state(job)
        return Known(seq, data, job) if data == before else await self._put(job, data, seq)

    async def _put(self, job: Job, data: bytes, seq: int, along: dict[str, str] | None = None) -> Known:
        headers = {EXPECTED: str(seq), **(along or {})}
        return Known(await self.bus.publish_raw(subjects.job_state(job.id), data, headers), data, job)


def _message(order: Order, function: str) -> tuple[str, bytes]:
    """A step's subject and what lies there."""
    subject = subjects.job_step(function, order.priority, order.job, order.place)
    return subject, order.task(function).model_dump_json().encode()


def _state(job: Job) -> bytes:
    """The job as it is kept. Raises FramemeshError for one that is too long."""
    data = job.json_bytes()
    if len(data) > MOST_STATE_BYTES:
        raise FramemeshError(
            f"job {job.id}: its state has {len(data)} bytes, {MOST_STATE_BYTES} are allowed: "
            "store large outputs with ctx.put and return their address"
        )
    return data


def child_id(job: str, step: str, item: int | None, attempt: int) -> str:
    """Id of a step's sub-job: always the same, so that a crash makes no second one."""
    return f"{job}-{hashlib.sha256(f'{place(step, item)}/{attempt}'.encode()).hexdigest()[:12]}"


class _Begun:
    """A sub-job has begun, and whether its job still wants it."""

    def __init__(self, order: Order, child: str) -> None:
        self._order, self._child = order, child
        self.wanted = True

    def __call__(self, job: Job) -> list[Order]:
        order = self._order
        self.wanted = advance.started(job, order.step, order.item, order.attempt, self._child, time.time())
        return []


class _Cancel:
    """Cancels a job, and tells which sub-jobs are under way."""

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self.children: list[str] = []

    def __call__(self, job: Job) -> list[Order]:
        self.children = list(advance.sub_jobs(job))
        advance.cancel(job, time.time(), self._reason)
        return []
