"""The analyst's service on real servers: its steps as parts of jobs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from framemesh import __version__
from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.registry import Registry
from framemesh.steps.client import Jobs
from framemesh.steps.job import Job, JobStatus, StepStatus
from framemesh.steps.plan import Plan
from services.analyst.analyst import Analyst
from services.analyst.report import encoded, report
from services.analyst.settings import AnalystSettings
from tests.integration.model_server import MODEL, fails, says, serving
from tests.integration.stepping import at_work
from tests.integration.test_analyst_gpt import KEY, SPEECH, answer
from tests.unit.test_analyst_score import whole

PLAN = Plan.model_validate({
    "name": "analysis",
    "steps": {
        "gpt-analysis": {
            "function": "gpt-analysis",
            "input": {"transcript": "$input.url", "metadata": {"title": "A speech"}},
            "retry": {"attempts": 2, "delay": 60},
            "optional": True,
        },
        "calculating-score": {
            "function": "calculating-score",
            "after": ["gpt-analysis"],
            "input": {
                "face": "$input.face", "voice": "$input.voice", "transcript": "$input.transcript",
                "gpt": "$steps.gpt-analysis?",
            },
        },
        "saving-results": {
            "function": "saving-results",
            "after": ["calculating-score"],
            "input": {
                "voice": "$input.voice", "gpt": "$steps.gpt-analysis?", "score": "$steps.calculating-score",
            },
        },
    },
})  # fmt: skip

Begin = Callable[..., AbstractAsyncContextManager[Analyst]]


@pytest.fixture
def begin(bus: Bus, registry: Registry, servers: Mapping[str, str]) -> Begin:
    """Runs an analyst for the length of a block."""

    @asynccontextmanager
    async def running(**settings: Any) -> AsyncIterator[Analyst]:
        given = {**servers, "instance": f"a-{secrets.token_hex(3)}", "gpt_model": MODEL, **settings}
        analyst = Analyst(AnalystSettings.model_validate(given), bus, registry)
        async with at_work(analyst):
            yield analyst

    return running


async def ended(jobs: Jobs, blobs: BlobStore) -> Job:
    """A job that has been worked off."""
    segments = [{"text": text, "start": 4.0 * at, "end": 4.0 * at + 3} for at, text in enumerate(SPEECH)]
    url = await blobs.put(json.dumps({"language": "en", "segments": segments}).encode())
    given = {"url": url, **{name: part for name, part in whole().items() if name != "gpt"}}
    job = await jobs.submit(PLAN, given)
    async with asyncio.timeout(15):
        return await jobs.wait(job.id)


async def test_a_job_is_analysed_scored_and_reported(begin: Begin, jobs: Jobs, blobs: BlobStore) -> None:
    async with serving() as server:
        server.replies = [says(answer())]
        async with begin(gpt_base_url=server.url, gpt_api_key=KEY):
            job = await ended(jobs, blobs)
    assert job.status is JobStatus.DONE, job
    gpt, score = (job.steps[name].output for name in ("gpt-analysis", "calculating-score"))
    assert gpt["summary"] == "A call to serve the country."
    assert score["missing"] == []
    assert score["scores"]["content"]["score"] == 70
    saved = job.steps["saving-results"].output
    data = await blobs.get(saved["report"])
    assert (len(data), hashlib.sha256(data).hexdigest()) == (saved["bytes"], saved["sha256"])
    document = json.loads(data)
    assert document["parts"]["gpt"] == gpt
    assert document["parts"]["score"] == score
    assert (document["job"], document["framemesh"], document["absent"]) == (job.id, __version__, [])
    assert document["versions"]["score"] == {"version": "1"}
    assert document["versions"]["gpt"]["prompt"]["version"] == "v1"
    assert KEY not in job.model_dump_json() + data.decode()


async def test_without_a_language_model_the_step_is_skipped_and_the_score_is_less_sure(
    begin: Begin, jobs: Jobs, blobs: BlobStore
) -> None:
    async with begin(gpt_model=""):
        job = await ended(jobs, blobs)
    assert job.status is JobStatus.DONE, job
    step = job.steps["gpt-analysis"]
    assert (step.status, step.error) == (
        StepStatus.SKIPPED, "gpt_base_url and gpt_api_key are not set: no language model was asked",
    )  # fmt: skip
    score = job.steps["calculating-score"].output
    assert score["scores"]["content"]["score"] is None
    assert score["overall"]["confidence"] < 0.9
    assert score["overall"]["missing"][0]["name"] == "content"
    document = json.loads(await blobs.get(job.steps["saving-results"].output["report"]))
    assert document["absent"] == ["gpt"]


async def test_a_busy_server_is_asked_again_when_it_said(begin: Begin, jobs: Jobs, blobs: BlobStore) -> None:
    async with serving() as server:
        server.replies = [fails(429, "slow down", {"Retry-After": "1"}), says(answer())]
        began = time.monotonic()
        async with begin(gpt_base_url=server.url, gpt_api_key=KEY):
            job = await ended(jobs, blobs)
        took = time.monotonic() - began
    assert job.steps["gpt-analysis"].status is StepStatus.DONE, job
    assert job.steps["gpt-analysis"].attempt == 2
    assert 1 <= took < 10  # not the plan's 60 s


async def test_a_wrong_key_is_not_tried_again(begin: Begin, jobs: Jobs, blobs: BlobStore) -> None:
    async with serving() as server:
        server.replies = [fails(401, f"Incorrect API key provided: {KEY}")]
        async with begin(gpt_base_url=server.url, gpt_api_key=KEY):
            job = await ended(jobs, blobs)
    step = job.steps["gpt-analysis"]
    assert (step.status, step.attempt) == (StepStatus.FAILED, 1)
    assert step.error.startswith("setting gpt_api_key: the server does not take it")
    assert KEY not in job.model_dump_json()
    assert job.status is JobStatus.DONE  # the plan says that the step is optional


async def test_a_key_without_a_model_ends_the_service(begin: Begin) -> None:
    with pytest.raises(FramemeshError, match=r"^setting gpt_model: not set"):
        async with begin(gpt_base_url="http://127.0.0.1:1/v1", gpt_api_key=KEY, gpt_model=""):
            pass


async def test_wrong_inputs_name_the_step_that_they_come_from(begin: Begin, jobs: Jobs) -> None:
    plan = {"name": "p", "steps": {"s": {"function": "calculating-score", "input": {"face": 5}}}}
    async with begin():
        job = await jobs.submit(Plan.model_validate(plan))
        async with asyncio.timeout(10):
            job = await jobs.wait(job.id)
    assert job.error == "s: input face: want the output of face-analysis, an object, or null"


def test_the_same_results_give_the_same_report() -> None:
    one, other = {"a": 1, "b": {"version": "2"}, "c": None}, {"c": None, "b": {"version": "2"}, "a": 1}
    assert encoded(report("j", one)) == encoded(report("j", other))
    assert report("j", one)["versions"] == {"b": {"version": "2"}}
    for wrong in (float("nan"), "\ud800"):
        with pytest.raises(FramemeshError, match="cannot be written as JSON"):
            encoded(report("j", {"a": wrong}))
