"""``/task`` and ``/tasks``: jobs, under the names that programs with background tasks know."""

from __future__ import annotations

import contextlib
from typing import Any

from aiohttp import web
from pydantic_core import from_json

from framemesh.blobs import BlobMissing
from framemesh.steps import files
from framemesh.steps.job import Job, JobStatus
from framemesh.tokens import Scope
from services.gateway import handlers
from services.gateway.desk import Call
from services.gateway.image_documents import TaskDocument, TaskPage
from services.gateway.route import Route

MOST_ACTIVE = 500


async def show(call: Call) -> web.Response:
    """How a task stands."""
    return handlers.answer(await document(call, await call.job()))


async def document(call: Call, job: Job) -> TaskDocument:
    """A task's document, with all of its failures where they are too many for a job's output."""
    found = TaskDocument.of(job)
    if isinstance(found.result, dict) and "report" in found.result:
        found.result = await _completed(call, dict(found.result))
    return found


async def _completed(call: Call, result: dict[str, Any]) -> dict[str, Any]:
    if report := result.pop("report"):
        with contextlib.suppress(BlobMissing):  # its time may be over: then those that the job knows
            result["failures"] = from_json(await files.get(call.desk.blobs, report))
    return result


async def list_active(call: Call) -> web.Response:
    """Tasks that are not over; of an admin everybody's."""
    owner = call.whose(None, "tasks")
    found: list[Job] = []
    for status in (JobStatus.QUEUED, JobStatus.PROCESSING):
        found += (await call.desk.table.page(status=status, owner=owner, limit=MOST_ACTIVE)).jobs
    found.sort(key=lambda job: (job.created, job.id), reverse=True)
    return handlers.answer(TaskPage(tasks=[TaskDocument.of(job) for job in found]))


async def cancel(call: Call) -> web.Response:
    """End a task; one that was cancelled already stays so."""
    return handlers.answer(await document(call, await handlers.cancelled(call)))


ROUTES = (
    Route(
        "GET", "/task/status/{jobId}", "getTask", "How a task stands, and what came out.",
        Scope.VIEWER, show, TaskDocument, problems=(404,),
    ),
    Route(
        "GET", "/tasks/active", "listActiveTasks",
        "Tasks that are not over, the newest first, 500 that wait and 500 that run; admin sees everybody's.",
        Scope.VIEWER, list_active, TaskPage,
    ),
    Route(
        "POST", "/task/cancel/{jobId}", "cancelTask", "End a task; the same as /jobs/{jobId}/cancel.",
        Scope.OPERATOR, cancel, TaskDocument, problems=(404, 409),
    ),
)  # fmt: skip
