"""Every path of the API, once: the server, the scopes and ``proto/openapi.yaml`` are made from this table."""

from __future__ import annotations

from framemesh.analysis import AnalysisDocument, AnalysisState
from framemesh.tokens import Scope
from services.gateway import events, handlers, image_uploads, images, media, searching, tasks
from services.gateway.documents import JobPage, JobsQuery, LogPage, LogsQuery, NewAnalysis, Queues
from services.gateway.route import Route

V, O = Scope.VIEWER, Scope.OPERATOR  # noqa: E741 - as the table is read
_JOBS = (
    Route(
        "POST", "/analysis", "submitAnalysis",
        "Take in a video, by its address or as an upload; answers at once. 200: the key had made this job before.",
        O, handlers.submit, AnalysisState, body=NewAnalysis, form=handlers.VIDEO_FORM, statuses=(202, 200),
        problems=(409, 413, 415), headers={handlers.KEY_HEADER: "The same as key"},
    ),
    Route(
        "GET", "/analysis/status/{jobId}", "getAnalysisStatus", "How an analysis stands, step by step.",
        V, handlers.show_status, AnalysisState, problems=(404,),
    ),
    Route(
        "GET", "/analysis/{jobId}", "getAnalysis", "How an analysis stands, with the results that there are.",
        V, handlers.show, AnalysisDocument, problems=(404,),
    ),
    Route(
        "GET", "/analysis/{jobId}/events", "streamAnalysis",
        "Server-sent events: the document each time that it has changed, until the job is over. "
        "204: nothing follows what Last-Event-ID names.",
        V, events.stream, AnalysisDocument, statuses=(200, 204), problems=(404,), is_stream=True,
        headers={events.SEEN_HEADER: "The last that was seen"},
    ),
    Route(
        "GET", "/jobs", "listJobs", "Jobs, the newest first; admin sees everybody's.",
        V, handlers.list_jobs, JobPage, JobsQuery,
    ),
    Route(
        "POST", "/jobs/{jobId}/cancel", "cancelJob", "End a job: what runs is ended, what waits is taken back.",
        O, handlers.cancel, AnalysisState, problems=(404, 409),
    ),
    Route(
        "POST", "/jobs/{jobId}/retry", "retryJob",
        "Let a job that failed, or was cancelled, go on from the step that failed.",
        O, handlers.retry, AnalysisState, problems=(404, 409),
    ),
    Route(
        "GET", "/jobs/{jobId}/logs", "getJobLogs", "What the job's steps logged, the oldest first.",
        V, handlers.logs, LogPage, LogsQuery, problems=(404,),
    ),
    Route(
        "GET", "/queues", "getQueues", "How many steps of each function wait and run, and how jobs stand.",
        V, handlers.queues, Queues,
    ),
)  # fmt: skip
ROUTES: tuple[Route, ...] = (
    *_JOBS,
    *tasks.ROUTES,
    *image_uploads.ROUTES,
    *images.ROUTES,
    *media.ROUTES,
    *searching.ROUTES,
)
HEALTH = "/healthz"
