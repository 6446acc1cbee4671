"""What each path answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any, cast

from aiohttp import web
from pydantic import BaseModel

from framemesh import subjects
from framemesh.analysis import AnalysisDocument, AnalysisState, JobSummary, analysis_plan
from framemesh.errors import FramemeshError
from framemesh.steps.job import Job, JobStatus, Priority, StepStatus, new_id
from framemesh.steps.joblog import LogLines
from framemesh.steps.plan import Plan, PlanError
from framemesh.steps.store import JobMissing
from framemesh.steps.switchboard import FunctionState
from services.gateway import bodies, uploads
from services.gateway.bodies import checked
from services.gateway.desk import Call, Desk
from services.gateway.documents import (
    Alive,
    JobPage,
    JobsQuery,
    LogEntry,
    LogPage,
    LogsQuery,
    NewAnalysis,
    QueueDocument,
    Queues,
    Submission,
)
from services.gateway.problems import Problem, away
from services.gateway.uploads import Bounds, Shape

KEY_HEADER = "Idempotency-Key"
PAGE = 200
WORKERS = "media, face.steps, voice.steps, transcribe.steps and analyst"
JSON, FORM = "application/json", "multipart/form-data"
VIDEO_FORM = Shape("video", Submission, "a video", "gateway_upload_mb")


def answer(document: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A document as JSON."""
    body = document.model_dump_json(by_alias=True).encode()
    return web.Response(status=status, body=body, content_type=JSON, headers=headers)


async def alive(request: web.Request) -> web.Response:
    """Health: without a token."""
    return answer(Alive())


# -- analyses -----------------------------------------------------------------------------------------


async def submit(call: Call) -> web.Response:
    """Take in a video, by its address or as it is."""
    await check_workers(call.desk, analysis_plan(), f"{WORKERS} do the analysis")
    match call.request.content_type:
        case "application/json":
            return await _submit_url(call)
        case "multipart/form-data":
            with call.desk.uploads.entered(call.token.name):
                return await _submit_upload(call)
        case other:
            raise Problem(
                415, f"{other} is not taken: send {JSON} or {FORM}", headers={"Accept-Post": f"{JSON}, {FORM}"}
            )


async def _submit_url(call: Call) -> web.Response:
    new = checked(NewAnalysis, await bodies.read_json(call.request))
    given = {"url": new.video_url} | _metadata(new)
    key = _key(call, new.key)
    if key is not None and (known := await _known(call, key)):
        return await _accepted(call, _checked_same(known, given), 200)
    return await _accepted(call, _checked_same(await _submitted(call, given, new, key), given), 202)


async def _submit_upload(call: Call) -> web.Response:
    desk, key = call.desk, _key(call, None)
    keep = key is None or await _known(call, key) is None  # one that is there already is only read over
    most = desk.settings.upload_bytes
    form = await uploads.receive(call.request, desk.blobs, VIDEO_FORM, Bounds(most, most), keep=keep)
    taken = False
    try:
        new = checked(Submission, form.values)
        key = _key(call, new.key)
        given = {"upload": form.file.address if form.file else ""} | _metadata(new)
        if key is not None and (known := await _known(call, key)):
            return await _accepted(call, _checked_same(known, given), 200)
        if form.file is None:  # it was there a moment ago
            raise away("the job of this key is going: send the upload again", 1)
        made = await _submitted(call, given, new, key)
        taken = made.input.get("upload") == given["upload"]  # else another of the same key was quicker
        return await _accepted(call, _checked_same(made, given), 202)
    finally:
        if form.file and not taken:
            await asyncio.shield(form.file.delete())


def _metadata(new: Submission) -> dict[str, Any]:
    return {} if new.metadata is None else {"metadata": new.metadata}


def _key(call: Call, in_body: str | None) -> str | None:
    """The client's key, from the header or the body. Raises Problem."""
    given = call.request.headers.getall(KEY_HEADER, [])
    if len(given) > 1:
        raise Problem(400, f"{KEY_HEADER}: given more than once: give it once", field=KEY_HEADER)
    if not given:
        return in_body
    (in_header,) = given
    if in_body is not None and in_body != in_header:
        raise Problem(400, f"key: another one than {KEY_HEADER} says: give one of the two", field="key")
    try:
        return checked(Submission, {"key": in_header}).key
    except Problem as problem:
        raise Problem(400, f"{KEY_HEADER}: {str(problem).partition(': ')[2]}", field=KEY_HEADER) from None


async def _known(call: Call, key: str) -> Job | None:
    return await call.desk.find(new_id(call.token.name, key))


def _checked_same(job: Job, given: dict[str, Any]) -> Job:
    """The job, if it is of what was given: another of the same key may have been quicker. Raises Problem."""
    if _compared(job.input) != _compared(given):
        raise Problem(
            409, f"key: job {job.id} was made with it from another video or metadata: take a new key", field="key"
        )
    return job


def _compared(given: dict[str, Any]) -> dict[str, Any]:
    """What two submissions of one key must have in common; the bytes of an upload are not compared."""
    return given | ({"upload": ""} if "upload" in given else {})


async def _submitted(call: Call, given: dict[str, Any], new: Submission, key: str | None) -> Job:
    return await call.desk.jobs.submit(
        analysis_plan(), given, owner=call.token.name, priority=Priority(new.priority), key=key
    )


async def check_workers(desk: Desk, plan: Plan, who: str) -> None:
    """Say before an upload, not after it, that nobody can work it off. Raises Problem."""
    try:
        await desk.jobs.check(plan, None)
    except PlanError as error:  # the plan is known to be one: what it lacks are workers
        raise away(f"{error}; {who}", 30) from error


async def _accepted(call: Call, job: Job, status: int) -> web.Response:
    state = AnalysisState.of(job, await call.desk.place(job))
    return answer(state, status, {"Location": f"/analysis/{job.id}"})


async def show_status(call: Call) -> web.Response:
    """How an analysis stands."""
    job = await call.analysis()
    return answer(AnalysisState.of(job, await call.desk.place(job)))


async def show(call: Call) -> web.Response:
    """How an analysis stands, with its results."""
    job = await call.analysis()
    return answer(AnalysisDocument.of(job, await call.desk.place(job)))


# -- jobs ---------------------------------------------------------------------------------------------


async def list_jobs(call: Call) -> web.Response:
    """Jobs from the database, the newest first."""
    query = cast(JobsQuery, call.query)
    owner = call.whose(query.owner, "jobs")
    try:
        page = await call.desk.table.page(
            status=query.status, owner=owner, limit=query.limit, cursor=query.cursor or ""
        )
    except FramemeshError as error:
        raise Problem(400, str(error), field="cursor") from error
    return answer(JobPage(jobs=[JobSummary.of(job) for job in page.jobs], cursor=page.cursor))


async def cancel(call: Call) -> web.Response:
    """End a job; one that was cancelled already stays so."""
    return answer(AnalysisState.of(await cancelled(call)))


async def cancelled(call: Call) -> Job:
    """The job that the path names, ended. Raises Problem for one that is over otherwise."""
    job = await call.job()
    with contextlib.suppress(JobMissing):  # put away, so it is over
        job = await call.desk.jobs.cancel(job.id, f"cancelled by {call.token.name}")
    if job.status is not JobStatus.CANCELLED:
        raise Problem(409, f"job {job.id} is {job.status}: only one that is not over can be cancelled")
    return job


async def retry(call: Call) -> web.Response:
    """Let a job go on from where it failed."""
    job = await call.job()
    try:
        job = await call.desk.jobs.retry(job.id)
    except JobMissing:
        raise Problem(409, f"job {job.id} has been put away: submit it anew") from None
    except FramemeshError as error:
        raise Problem(409, str(error)) from error
    return answer(AnalysisState.of(job, await call.desk.place(job)))


async def logs(call: Call) -> web.Response:
    """What a job's steps logged."""
    job, query = await call.job(), cast(LogsQuery, call.query)
    lines: list[LogEntry] = []
    after = query.cursor
    read = call.desk.bus.read(subjects.JOBLOGS.name, subjects.job_log(job.id), after + 1, LogLines, batch=32)
    async for stored in read:
        said, after = stored.message, stored.seq
        lines += [
            LogEntry(
                time=line.time,
                level=line.level,
                step=said.step,
                item=said.item,
                attempt=said.attempt,
                text=line.text,
            )
            for line in said.lines
        ]
        if len(lines) >= query.limit:
            break
    return answer(LogPage(job_id=job.id, lines=lines, cursor=after))


async def queues(call: Call) -> web.Response:
    """How much there is to do, of each function, and how many jobs there are."""
    desk = call.desk
    known = await desk.jobs.functions.all()
    lying = await desk.jobs.functions.waiting()
    running = await _running(desk)
    counts = {JobStatus(status): count for status, count in (await desk.table.counts()).items()}
    found = [_queue(state, lying.get(name, 0), running[name]) for name, state in sorted(known.items())]
    return answer(Queues(functions=found, jobs={status: counts.get(status, 0) for status in JobStatus}))


async def _running(desk: Desk) -> Counter[str]:
    """How many steps of each function workers have, as the jobs say: a consumer counts those handed back, too."""
    found: Counter[str] = Counter()
    cursor = ""
    while True:
        page = await desk.table.page(status=JobStatus.PROCESSING, limit=PAGE, cursor=cursor)
        for job in page.jobs:
            for name, state in job.steps.items():
                works = [state] if state.items is None else state.items
                count = sum(work.status is StepStatus.RUNNING for work in works)
                found[job.step_of(name).function or ""] += count
        if not (cursor := page.cursor):
            return found


def _queue(state: FunctionState, lying: int, running: int) -> QueueDocument:
    return QueueDocument(
        name=state.name, description=state.description, waiting=max(0, lying - running), running=running,
        paused=state.paused, concurrency=state.concurrency, rate=state.rate,
    )  # fmt: skip
