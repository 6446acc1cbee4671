"""Pictures come in: one, or many at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from aiohttp import web

from framemesh.errors import FramemeshError
from framemesh.images import HEAD_BYTES, bulk_plan, sniffed, upload_plan
from framemesh.labels import checked_label
from framemesh.steps import files
from framemesh.steps.job import Job, JobStatus
from framemesh.steps.plan import Plan
from framemesh.steps.text import writable
from framemesh.tokens import Scope
from services.gateway import handlers, tasks, uploads
from services.gateway.bodies import checked
from services.gateway.desk import Call, Desk
from services.gateway.image_documents import NewImage, NewImages, TaskDocument
from services.gateway.image_problems import of_images
from services.gateway.problems import Problem, away
from services.gateway.route import Route
from services.gateway.uploads import Bounds, Form, Shape, Stored

MOST_FILES = 10_000
ONE_FORM = Shape("file", NewImage, "a picture", "images_max_mb")
MANY_FORM = Shape("files[]", NewImages, "a picture", "images_max_mb or gateway_upload_mb", many=MOST_FILES)
_MIB = 1 << 20
_LONGEST_NAME = 800
"""Bytes of a name that is only told again."""


async def upload(call: Call) -> web.Response:
    """Take in one picture; without ``async`` answer when it is processed."""
    form = await _received(call, upload_plan(), ONE_FORM)
    async with _kept(form):
        new = checked(NewImage, form.values)
        (file,) = form.files
        name = _label(new.name if new.name is not None else file.name)
        await _check_free(call.desk, new.collection, name)
        given = {"upload": file.address, "collection": new.collection, "name": name, "owner": call.token.name}
        job = await call.desk.jobs.submit(upload_plan(), given, owner=call.token.name)
    if not new.later:
        job = await _processed(call.desk, job)
    return await _answered(call, job)


async def upload_many(call: Call) -> web.Response:
    """Take in many pictures; each that cannot be taken is listed in the end."""
    form = await _received(call, bulk_plan(), MANY_FORM)
    async with _kept(form):
        new = checked(NewImages, form.values)
        with of_images():
            await call.desk.images.collection(new.collection)
        items = [await _item(file) for file in form.files]
        listed = await files.put(call.desk.blobs, json.dumps(items).encode())
        given = {"files": listed, "collection": new.collection, "owner": call.token.name}
        job = await call.desk.jobs.submit(bulk_plan(), given, owner=call.token.name)
    return await _answered(call, job)


async def _received(call: Call, plan: Plan, shape: Shape) -> Form:
    if call.request.content_type != handlers.FORM:
        raise Problem(
            415, f"{call.request.content_type} is not taken: send {handlers.FORM}",
            headers={"Accept-Post": handlers.FORM},
        )  # fmt: skip
    desk = call.desk
    await handlers.check_workers(desk, plan, "the images service has it")
    one = desk.settings.images_max_mb * _MIB
    bounds = Bounds(one, one if shape.many == 1 else desk.settings.upload_bytes)
    with desk.uploads.entered(call.token.name):
        return await uploads.receive(call.request, desk.blobs, shape, bounds, look=_looker(shape.file))


def _looker(field: str) -> uploads.Look:
    def look(name: str, head: bytes) -> None:
        if sniffed(head[:HEAD_BYTES]) is None:
            raise Problem(
                415, f"{field}: neither JPEG, PNG, WebP nor GIF, whatever its name says: send one of these",
                field=field,
            )  # fmt: skip

    return look


@contextlib.asynccontextmanager
async def _kept(form: Form) -> AsyncIterator[None]:
    """Files that become no task's are deleted again."""
    try:
        yield
    except BaseException:
        await asyncio.shield(form.delete())
        raise


def _label(name: str) -> str:
    with of_images():
        return checked_label(name, "name")


async def _check_free(desk: Desk, collection: str, name: str) -> None:
    """Say at once what the task would fail at later. Raises Problem."""
    with of_images():
        await desk.images.collection(collection)
    if await desk.images.find(collection, name):
        raise Problem(
            409, f"name: {collection} has an image {name}: choose another name, or delete that one", field="name"
        )


async def _item(file: Stored) -> dict[str, str]:
    """A file as the task is told of it."""
    if file.refused:
        return {"name": writable(file.name, _LONGEST_NAME), "refused": f"file: {file.refused}"}
    try:
        return {"name": checked_label(file.name, "name"), "upload": file.address}
    except FramemeshError as error:
        await file.delete()
        return {"name": writable(file.name, _LONGEST_NAME), "refused": str(error)}


async def _processed(desk: Desk, job: Job) -> Job:
    """The job when it is over, or as it stands after ``images_wait`` seconds. Raises Problem when it failed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(desk.settings.images_wait):
            job = await desk.jobs.wait(job.id)
    if job.status is JobStatus.CANCELLED:
        raise Problem(409, f"task {job.id} was cancelled before it was done")
    if job.status is JobStatus.FAILED:
        raise _of_failed(job)
    return job


def _of_failed(job: Job) -> Problem:
    reason = job.error.removeprefix(f"{job.failed_step}: ")
    field = reason.partition(":")[0]
    status = {"name": 409, "collection": 404, "file": 400}.get(field)
    if status is None:
        return away(f"task {job.id} {job.status}: {job.error}", 30)
    return Problem(status, reason, field=field)


async def _answered(call: Call, job: Job) -> web.Response:
    status = 201 if job.status is JobStatus.DONE else 202
    found = await tasks.document(call, job)
    return handlers.answer(found, status, {"Location": f"/task/status/{job.id}"})


ROUTES = (
    Route(
        "POST", "/file_upload", "uploadImage",
        "Take in a picture. 201: it is processed; 202: it will be, with async=true, or where it takes long.",
        Scope.OPERATOR, upload, TaskDocument, form=ONE_FORM, statuses=(201, 202), problems=(404, 409, 413, 415),
    ),
    Route(
        "POST", "/bulk_upload", "uploadImages",
        "Take in many pictures as one task, which lists those that it could not take.",
        Scope.OPERATOR, upload_many, TaskDocument, form=MANY_FORM, statuses=(202,), problems=(404, 413, 415),
    ),
)  # fmt: skip
