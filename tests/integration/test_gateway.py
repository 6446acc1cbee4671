"""The API as its clients see it: a gateway on real servers, steps that do next to nothing."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from framemesh import subjects
from framemesh.analysis import AnalysisStatus, analysis_plan, legal
from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.registry import Registry
from framemesh.steps import files
from framemesh.steps.client import Jobs
from framemesh.steps.job import Job
from framemesh.tokens import Scope
from services.gateway.gateway import Gateway
from services.gateway.routes import ROUTES
from services.jobs.jobs import JobsService
from tests.integration.gateways import (
    STEPS,
    URL,
    Client,
    Pipeline,
    Sent,
    Site,
    ann,
    bob,
    events,
    projecting,
    site,
    working,
)
from tests.integration.stepping import Begin, one
from tests.samples import OwnServer, until

__all__ = ["ann", "bob", "site"]

PART = files.PART_BYTES


@pytest.fixture
async def projected(
    site: Site, bus: Bus, registry: Registry, servers: Mapping[str, str]
) -> AsyncIterator[JobsService]:
    async with projecting(site, bus, registry, servers) as made:
        yield made


@pytest.fixture
async def pipeline(begin: Begin, jobs: Jobs, bus: Bus) -> AsyncIterator[Pipeline]:
    async with working(begin, jobs, bus) as made:
        yield made


@pytest.fixture
async def root(site: Site) -> Client:
    """An admin."""
    return await site.client(f"root-{secrets.token_hex(3)}", Scope.ADMIN)


# -- analyses -----------------------------------------------------------------------------------------


async def test_a_video_is_taken_in_at_once_and_its_results_are_there_in_the_end(
    ann: Client, pipeline: Pipeline
) -> None:
    answer = await ann.post("/analysis", json={"videoURL": URL, "metadata": {"speaker": "é"}, "priority": "high"})
    assert answer.status == 202
    job_id = answer.body["jobId"]
    assert answer.headers["Location"] == f"/analysis/{job_id}"
    assert (answer.body["status"], answer.body["owner"], answer.body["priority"]) == ("queued", ann.name, "high")
    assert "result" not in answer.body
    document = await ann.ended(job_id)
    assert (document["status"], document["progress"], document["error"]) == ("done", 100, "")
    assert document["result"]["report"]["of"] == "saving-results"
    assert document["metadata"] == {"speaker": "é"}
    assert [step["status"] for step in document["steps"]] == ["done"] * 8
    assert {"created", "started", "done", "gpt-analysisStarted", "gpt-analysisEnded"} <= set(
        document["timestamps"]
    )
    assert pipeline.given["downloading-video"] == {"url": URL, "upload": None}
    assert pipeline.given["gpt-analysis"] == {"transcript": "t", "metadata": {"speaker": "é"}}
    status = await ann.get(f"/analysis/status/{job_id}")
    assert status.body == {name: value for name, value in document.items() if name != "result"}


async def test_a_skipped_or_failed_part_is_named_and_the_analysis_goes_on(ann: Client, pipeline: Pipeline) -> None:
    pipeline.failing, pipeline.skipping = {"voice-analysis"}, {"gpt-analysis"}
    document = await ann.ended(await ann.submit())
    assert document["status"] == "done"
    assert (document["result"]["voice"], document["result"]["gpt"]) == (None, None)
    errors = {step["name"]: step["error"] for step in document["steps"] if step["error"]}
    assert errors == {
        "voice-analysis": "voice-analysis will never work",
        "gpt-analysis": "nothing for gpt-analysis",
    }


async def test_the_place_in_the_queue_is_told_and_falls(
    ann: Client, pipeline: Pipeline, projected: JobsService, jobs: Jobs
) -> None:
    await jobs.functions.change("downloading-video", paused=True)
    try:
        await asyncio.sleep(2.5)  # workers look that often
        low = await ann.submit(priority="low")
        others = [await ann.submit() for _ in range(3)]

        async def places() -> list[int]:
            found = [(await ann.get(f"/analysis/status/{each}")).body["position"] for each in (*others, low)]
            return found if None not in found and len(set(found)) == 4 else []

        found = await until(places)
        assert found == sorted(found)
        assert found[0] >= 1
        assert (await ann.get(f"/analysis/status/{low}")).body["waiting"] >= 4
        counts = (await ann.get("/queues")).body
        downloads = next(each for each in counts["functions"] if each["name"] == "downloading-video")
        assert (downloads["paused"], downloads["waiting"] >= 4) == (True, True)
        assert counts["jobs"]["queued"] >= 4
    finally:
        await jobs.functions.change("downloading-video", paused=False)
    for each in (*others, low):
        document = await ann.ended(each)
        assert (document["status"], document["position"]) == ("done", 0)


async def test_queues_tell_what_runs(ann: Client, pipeline: Pipeline, projected: JobsService) -> None:
    pipeline.gate.clear()
    await ann.submit()

    async def running() -> bool:
        found = {each["name"]: each for each in (await ann.get("/queues")).body["functions"]}
        assert set(STEPS) <= set(found)
        return bool(found["downloading-video"]["running"]) and not found["transcribing"]["running"]

    await until(running)


async def test_without_workers_the_reason_is_told(site: Site, own_nats: OwnServer, registry: Registry) -> None:
    bus = await Bus.connect(own_nats.environment["nats_host"], "test")
    await bus.declare(subjects.JOBS)
    site.gateway.desk.jobs = Jobs(bus, registry.redis)
    ann = await site.client("ann", Scope.OPERATOR)
    answer = await ann.post("/analysis", json={"videoURL": URL})
    assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
    assert "no worker has ever had a function" in answer.body["detail"]
    await bus.close()


# -- keys ---------------------------------------------------------------------------------------------


async def test_the_same_key_is_the_same_job(ann: Client, bob: Client, pipeline: Pipeline) -> None:
    key = secrets.token_hex(8)
    sent = {"videoURL": URL, "metadata": {"n": 1}}
    answers = await asyncio.gather(
        *(ann.post("/analysis", json=sent, headers={"Idempotency-Key": key}) for _ in range(5)),
        *(ann.post("/analysis", json=sent | {"key": key}) for _ in range(5)),
    )
    assert {answer.status for answer in answers} <= {200, 202}
    assert len({answer.body["jobId"] for answer in answers}) == 1
    job_id = answers[0].body["jobId"]
    assert (await bob.post("/analysis", json=sent | {"key": key})).body["jobId"] != job_id
    other = await ann.post("/analysis", json={"videoURL": URL + "?other", "key": key})
    assert (other.status, other.body["field"]) == (409, "key")
    assert job_id in other.body["detail"]
    await ann.ended(job_id)
    assert (await ann.post("/analysis", json=sent | {"key": key})).status == 200
    both = await ann.post("/analysis", json=sent | {"key": key}, headers={"Idempotency-Key": "another"})
    assert (both.status, both.body["field"]) == (400, "key")


async def test_a_key_outlives_the_stream(ann: Client, pipeline: Pipeline, projected: JobsService) -> None:
    key = secrets.token_hex(8)
    job_id = await ann.submit(key=key)
    await ann.ended(job_id)
    await put_away(projected, job_id)
    again = await ann.post("/analysis", json={"videoURL": URL, "key": key})
    assert (again.status, again.body["jobId"], again.body["status"]) == (200, job_id, "done")
    assert (await ann.get(f"/analysis/{job_id}")).body["result"]["score"]
    for action, said in (("cancel", f"job {job_id} is done"), ("retry", "has been put away: submit it anew")):
        answer = await ann.post(f"/jobs/{job_id}/{action}")
        assert answer.status == 409
        assert said in answer.body["detail"]


async def put_away(service: JobsService, job_id: str) -> None:
    """Let a job lie in the database only."""

    async def there() -> bool:
        job = await service._table.find(job_id)
        return job is not None and job.status.over

    await until(there)
    await service.bus.purge(subjects.JOBS.name, subjects.job_state(job_id))


# -- uploads ------------------------------------------------------------------------------------------


def form(size: int, **values: str) -> aiohttp.FormData:
    """A form with zeros, which are made as they are sent."""

    async def zeros() -> AsyncIterator[bytes]:
        block = bytes(1 << 20)
        for begin in range(0, size, len(block)):
            yield block[: size - begin]

    made = aiohttp.FormData()
    for name, value in values.items():
        made.add_field(name, value)
    made.add_field("video", zeros(), filename="talk.mp4", content_type="video/mp4")
    return made


@pytest.mark.parametrize("size", [1, PART - 1, PART, PART + 1, 40 << 20])
async def test_an_upload_of_any_size_is_stored_whole(
    ann: Client, pipeline: Pipeline, blobs: BlobStore, tmp_path: Path, size: int
) -> None:
    answer = await ann.post("/analysis", data=form(size, metadata='{"a": [1]}', priority="low"))
    assert (answer.status, answer.body["priority"], answer.body["metadata"]) == (202, "low", {"a": [1]})
    await ann.ended(answer.body["jobId"])
    given = pipeline.given["downloading-video"]
    assert given["url"] is None
    stored = await files.get_file(blobs, given["upload"], tmp_path / "video")
    assert stored.stat().st_size == size
    assert not any(stored.read_bytes())


async def test_an_upload_with_a_known_key_is_the_same_job_and_stores_nothing(
    ann: Client, pipeline: Pipeline, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    first = await ann.post("/analysis", data=form(1000), headers=headers)
    assert first.status == 202
    put = count_calls(site, "put_patiently", monkeypatch)
    again = await ann.post("/analysis", data=form(PART + 1), headers=headers)
    assert (again.status, again.body["jobId"]) == (200, first.body["jobId"])
    assert put == []
    deleted = count_calls(site, "delete", monkeypatch)
    late = await ann.post("/analysis", data=form(1000, key=headers["Idempotency-Key"]))  # known when all is stored
    assert (late.status, late.body["jobId"]) == (200, first.body["jobId"])
    assert len(deleted) == len(put) == 2


def count_calls(site: Site, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a method of the gateway's store is called with from now on."""
    store, calls = site.gateway.desk.blobs, list[Any]()
    method = getattr(store, name)

    async def counted(*args: Any, **values: Any) -> Any:
        calls.append(args[0])
        return await method(*args, **values)

    monkeypatch.setattr(store, name, counted)
    return calls


async def test_what_becomes_no_job_is_deleted(
    ann: Client, pipeline: Pipeline, site: Site, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, deleted = count_calls(site, "put_patiently", monkeypatch), count_calls(site, "delete", monkeypatch)
    answer = await ann.post("/analysis", data=form(PART + 1, priority="soon"))
    assert (answer.status, answer.body["field"]) == (400, "priority")
    assert len(put) == len(deleted) == 3
    too_large = await ann.post("/analysis", data=form((64 << 20) + 1))
    assert (too_large.status, too_large.body["field"]) == (413, "video")
    assert "64 MiB" in too_large.body["detail"]
    assert len(deleted) == len(put)


async def test_a_client_that_goes_away_leaves_nothing(
    ann: Client, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, deleted = count_calls(site, "put_patiently", monkeypatch), count_calls(site, "delete", monkeypatch)

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(PART + (1 << 20))
        await until(lambda: _true(put))
        raise ConnectionAbortedError("gone")

    made = aiohttp.FormData()
    made.add_field("video", broken(), filename="talk.mp4")
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await ann.post("/analysis", data=made)
    await until(lambda: _true(len(deleted) == len(put) == 1))


async def _true(value: Any) -> Any:
    return value


async def test_more_uploads_than_there_is_room_for_come_again(ann: Client, pipeline: Pipeline, site: Site) -> None:
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"begun"
        await go_on.wait()

    def slow_form() -> aiohttp.FormData:
        made = aiohttp.FormData()
        made.add_field("video", slow(), filename="talk.mp4")
        return made

    under_way = [asyncio.create_task(ann.post("/analysis", data=slow_form())) for _ in range(2)]
    await until(lambda: _true(site.gateway.desk.uploads.inside == 2))
    answer = await ann.post("/analysis", data=form(10))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    go_on.set()
    assert [each.status for each in await asyncio.gather(*under_way)] == [202, 202]
    assert (await ann.post("/analysis", data=form(10))).status == 202


# -- events -------------------------------------------------------------------------------------------


async def take(stream: AsyncIterator[Sent], until_status: str | None = None) -> list[Sent]:
    found = []
    async for sent in stream:
        found.append(sent)
        if sent.document["status"] == until_status:
            break
    return found


async def test_events_tell_of_every_change_until_the_job_is_over(ann: Client, pipeline: Pipeline) -> None:
    pipeline.gate.clear()
    job_id = await ann.submit()
    async with asyncio.timeout(20), aclosing(events(ann, job_id)) as stream:
        found = await take(stream, "downloading-video")
        pipeline.gate.set()
        found += await take(stream)
    assert found[0].document["status"] in {"queued", "downloading-video"}
    assert found[-1].document["status"] == "done"
    assert found[-1].document["result"]["report"]
    numbers = [sent.id for sent in found]
    assert None not in numbers
    assert numbers == sorted(numbers)  # type: ignore[type-var]
    statuses = [AnalysisStatus(sent.document["status"]) for sent in found]
    assert all(legal(before, after) for before, after in itertools.pairwise(statuses))
    assert all(before.document != after.document for before, after in itertools.pairwise(found))


async def test_who_was_cut_off_hears_what_is_new_and_nothing_twice(ann: Client, pipeline: Pipeline) -> None:
    pipeline.gate.clear()
    job_id = await ann.submit()
    async with asyncio.timeout(20):
        async with aclosing(events(ann, job_id)) as stream:
            last = (await take(stream, "downloading-video"))[-1]
        async with aclosing(events(ann, job_id, last.id)) as stream:
            following = asyncio.create_task(take(stream))
            await asyncio.sleep(1.5)
            pipeline.gate.set()
            found = await following
        assert all(sent.id and last.id and sent.id > last.id for sent in found)
        assert found[-1].document["status"] == "done"
        assert await take(events(ann, job_id, 1)) == found[-1:]  # long away: the newest alone
        assert await take(events(ann, job_id)) == found[-1:]
    over = await ann.get(f"/analysis/{job_id}/events", headers={"Last-Event-ID": str(found[-1].id)})
    assert (over.status, over.body) == (204, None)


async def test_events_of_a_job_that_was_put_away(ann: Client, pipeline: Pipeline, projected: JobsService) -> None:
    job_id = await ann.submit()
    await ann.ended(job_id)
    await put_away(projected, job_id)
    (sent,) = await take(events(ann, job_id))
    assert (sent.id, sent.document["status"]) == (None, "done")
    over = await ann.get(f"/analysis/{job_id}/events", headers={"Last-Event-ID": "7"})
    assert over.status == 204


async def test_a_silent_stream_shows_that_it_lives_and_ends_with_its_token(
    site: Site, ann: Client, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.events.HEARTBEAT_S", 0.3)
    pipeline.gate.clear()
    job_id = await ann.submit()
    async with (
        asyncio.timeout(20),
        ann.session.get(f"{ann.base}/analysis/{job_id}/events", headers=ann.headers) as answer,
    ):
        while b": still there\n" not in await answer.content.readline():
            pass
        await site.gateway.desk.tokens.revoke(ann.name)
        await answer.content.read()  # ends
    assert site.gateway.desk.streams.inside == 0


# -- jobs ---------------------------------------------------------------------------------------------


async def test_a_job_is_cancelled_and_goes_on_when_asked(ann: Client, pipeline: Pipeline) -> None:
    pipeline.gate.clear()
    job_id = await ann.submit()
    answer = await ann.post(f"/jobs/{job_id}/cancel")
    assert (answer.status, answer.body["status"]) == (200, "cancelled")
    assert answer.body["error"] == f"cancelled by {ann.name}"
    assert (await ann.post(f"/jobs/{job_id}/cancel")).status == 200
    pipeline.gate.set()
    assert (await ann.post(f"/jobs/{job_id}/retry")).status == 200
    assert (await ann.ended(job_id))["status"] == "done"
    for action in ("cancel", "retry"):
        answer = await ann.post(f"/jobs/{job_id}/{action}")
        assert (answer.status, f"job {job_id} is done" in answer.body["detail"]) == (409, True)


async def test_a_failed_job_goes_on_from_where_it_failed(ann: Client, pipeline: Pipeline) -> None:
    pipeline.failing = {"calculating-score"}
    job_id = await ann.submit()
    failed = await ann.ended(job_id)
    assert (failed["status"], failed["step"]) == ("failed", "calculating-score")
    assert failed["error"] == "calculating-score: calculating-score will never work"
    pipeline.failing, pipeline.given = set(), {}
    assert (await ann.post(f"/jobs/{job_id}/retry")).status == 200
    assert (await ann.ended(job_id))["status"] == "done"
    assert set(pipeline.given) == {"calculating-score", "saving-results"}


async def test_logs_come_in_pages_and_go_on(ann: Client, pipeline: Pipeline) -> None:
    job_id = await ann.submit()
    await ann.ended(job_id)
    found, cursor = list[Any](), 0
    while page := (await ann.get(f"/jobs/{job_id}/logs?limit=3&cursor={cursor}")).body["lines"]:
        found += page
        cursor = (await ann.get(f"/jobs/{job_id}/logs?limit=3&cursor={cursor}")).body["cursor"]
    assert sorted(line["text"] for line in found) == sorted(f"{name} has begun" for name in STEPS)
    assert {line["level"] for line in found} == {"INFO"}
    assert (await ann.get(f"/jobs/{job_id}/logs")).body["lines"] == found
    assert (await ann.get(f"/jobs/{job_id}/logs?cursor={cursor}")).body["cursor"] == cursor


async def test_jobs_are_listed_in_pages_the_newest_first(
    ann: Client, bob: Client, root: Client, pipeline: Pipeline, projected: JobsService
) -> None:
    mine = [await ann.submit() for _ in range(5)]
    other = await bob.submit()
    for job_id in mine:
        await ann.ended(job_id)

    async def listed() -> bool:
        return len((await ann.get("/jobs?status=done")).body["jobs"]) == 5

    await until(listed)
    first = (await ann.get("/jobs?limit=3")).body
    rest = (await ann.get(f"/jobs?limit=3&cursor={first['cursor']}")).body
    assert [job["jobId"] for job in first["jobs"] + rest["jobs"]] == mine[::-1]
    assert rest["cursor"] == ""
    assert (await ann.get("/jobs?status=failed")).body["jobs"] == []
    assert [job["jobId"] for job in (await root.get(f"/jobs?owner={bob.name}")).body["jobs"]] == [other]
    assert {mine[0], other} <= {job["jobId"] for job in (await root.get("/jobs?limit=500")).body["jobs"]}
    refused = await ann.get(f"/jobs?owner={bob.name}")
    assert (refused.status, refused.body["field"]) == (403, "owner")
    wrong = await ann.get("/jobs?cursor=rubbish")
    assert (wrong.status, wrong.body["field"]) == (400, "cursor")


# -- who may what -------------------------------------------------------------------------------------

PATHS = [
    ("POST", "/analysis"), ("GET", "/analysis/status/{}"), ("GET", "/analysis/{}"), ("GET", "/analysis/{}/events"),
    ("GET", "/jobs"), ("POST", "/jobs/{}/cancel"), ("POST", "/jobs/{}/retry"), ("GET", "/jobs/{}/logs"),
    ("GET", "/queues"), ("GET", "/task/status/{}"), ("GET", "/tasks/active"), ("POST", "/task/cancel/{}"),
]  # fmt: skip


async def test_without_a_token_only_health_answers(site: Site) -> None:
    assert (await site.nobody.get("/healthz")).body == {"status": "alive"}
    wrong = [
        {}, {"Authorization": "Bearer fm_wrong"}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"},
        {"Authorization": "Bearer a b"},
    ]  # fmt: skip
    for method, path in [*PATHS, ("GET", "/"), ("GET", "/nothing"), ("PUT", "/jobs"), ("GET", "/healthz/")]:
        for headers in wrong:
            answer = await site.nobody.ask(method, path.format("x"), headers=headers)
            assert answer.status == 401, (method, path)
            assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="framemesh"')


async def test_a_token_whose_time_is_over_is_none(site: Site) -> None:
    late = await site.client("late", Scope.ADMIN, 0.0)
    answer = await late.get("/queues")
    assert (answer.status, 'error="invalid_token"' in answer.headers["WWW-Authenticate"]) == (401, True)


async def test_a_viewer_sees_and_does_not_do(site: Site, ann: Client, pipeline: Pipeline) -> None:
    await site.gateway.desk.tokens.revoke(ann.name)
    viewer = await site.client(ann.name, Scope.VIEWER)
    for method, path in PATHS:
        answer = await viewer.ask(method, path.format("x"))
        assert answer.status == (403 if method == "POST" else 404 if "{}" in path else 200), (method, path)
        if method == "POST":
            assert 'scope="operator"' in answer.headers["WWW-Authenticate"]
    for route in ROUTES:
        path = re.sub(r"{\w+}", "x", route.path)
        if route.method != "GET" and route.name != "createTicket":  # which gives nobody more than they have
            assert (await viewer.ask(route.method, path)).status == 403, route
        if not route.by_ticket:
            assert (await site.nobody.ask(route.method, path)).status == 401, route


async def test_others_jobs_are_not_there_but_for_an_admin(
    ann: Client, bob: Client, root: Client, pipeline: Pipeline
) -> None:
    job_id = await ann.submit()
    await ann.ended(job_id)
    for method, path in PATHS:
        if "{}" not in path:
            continue
        answer, unknown = await bob.ask(method, path.format(job_id)), await bob.ask(method, path.format("a" * 23))
        assert answer.status == 404, (method, path)
        assert answer.body["detail"].replace(job_id, "x") == unknown.body["detail"].replace("a" * 23, "x")
    assert (await root.get(f"/analysis/{job_id}")).body["owner"] == ann.name
    assert (await root.get(f"/jobs/{job_id}/logs")).status == 200


# -- what is wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "videoURL"),
        ({"videoURL": 1}, "videoURL"),
        ({"videoURL": ""}, "videoURL"),
        ({"videoURL": "talk.mp4"}, "videoURL"),
        ({"videoURL": "ftp://example.org/a"}, "videoURL"),
        ({"videoURL": "file:///etc/passwd"}, "videoURL"),
        ({"videoURL": "http://"}, "videoURL"),
        ({"videoURL": "https://user:secret@example.org/a"}, "videoURL"),
        ({"videoURL": "https://example.org/a b"}, "videoURL"),
        ({"videoURL": "https://example.org:99999/a"}, "videoURL"),
        ({"videoURL": "https://example.org/a\n"}, "videoURL"),
        ({"videoURL": "https://example.org/" + "a" * 3000}, "videoURL"),
        ({"videoURL": URL, "priority": "soon"}, "priority"),
        ({"videoURL": URL, "metadata": [1]}, "metadata"),
        ({"videoURL": URL, "metadata": {"a": "x" * 70_000}}, "metadata"),
        ({"videoURL": URL, "key": ""}, "key"),
        ({"videoURL": URL, "key": "a b"}, "key"),
        ({"videoURL": URL, "key": "a\n"}, "key"),
        ({"videoURL": URL, "upload": "http://volume/1,2#parts"}, "upload"),
        ({"videoURL": URL, "callback": "https://example.org"}, "callback"),
    ],
)
async def test_a_wrong_field_is_named(ann: Client, body: dict[str, Any], field: str) -> None:
    answer = await ann.post("/analysis", json=body)
    assert (answer.status, answer.body["field"]) == (400, field), answer
    assert answer.body["detail"].startswith(f"{field}: ")
    assert "secret" not in answer.body["detail"]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b'"a"', b"\xff\xfe", b'{"videoURL": NaN}', b"[" * 100_000, b'{"a": "\\ud800"}',
     b'{"videoURL": "https://e.org", "metadata": {"a": 1e999}}',
     b'{"videoURL": "https://e.org", "key": "\\u0000"}'],
)  # fmt: skip
async def test_what_is_no_json_or_no_object_is_refused(ann: Client, data: bytes) -> None:
    answer = await ann.post("/analysis", data=data, headers={"Content-Type": "application/json"})
    assert answer.status == 400, answer


def part(name: str, data: str) -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{data}'.encode()


@pytest.mark.parametrize(
    ("boundary", "data"),
    [
        ("", b"x"),
        ("; boundary=x", b""),
        ("; boundary=x", b"--x--\r\n"),
        ("; boundary=x", b"--x\r\n\r\nno name\r\n--x--\r\n"),
        ("; boundary=x", part("video", "\r\n--x--\r\n")),
        ("; boundary=x", part("video", "not to its end")),
        ("; boundary=x", part("url", "a\r\n--x--\r\n")),
        ("; boundary=x", b"\x00\xff" * 1000),
        ("; boundary=" + "x" * 100, b"--x"),
        ("; boundary=x", b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y--\r\n--x--"),
    ],
)
async def test_a_broken_form_is_refused(ann: Client, boundary: str, data: bytes) -> None:
    headers = {"Content-Type": f"multipart/form-data{boundary}"}
    answer = await ann.post("/analysis", data=data, headers=headers)
    assert answer.status == 400, answer


async def test_a_form_says_each_thing_once(ann: Client) -> None:
    made = form(10, priority="low")
    made.add_field("priority", "high")
    answer = await ann.post("/analysis", data=made)
    assert (answer.status, answer.body["field"]) == (400, "priority")
    for values, field in (
        ({"metadata": "{"}, "metadata"),
        ({"metadata": "[]"}, "metadata"),
        ({"key": "a b"}, "key"),
    ):
        answer = await ann.post("/analysis", data=form(10, **values))
        assert (answer.status, answer.body.get("field")) == (400, field)


async def test_other_media_types_methods_and_paths(ann: Client) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "video/mp4"):
        answer = await ann.post("/analysis", data=b"x", headers={"Content-Type": content_type})
        assert (answer.status, answer.headers["Accept-Post"]) == (415, "application/json, multipart/form-data")
    wrong = await ann.ask("DELETE", "/jobs")
    assert (wrong.status, "GET" in wrong.headers["Allow"]) == (405, True)
    assert (await ann.get("/nothing")).status == 404
    assert (await ann.ask("HEAD", "/queues")).status == 200
    large = await ann.post("/analysis", data=b" " * 300_000, headers={"Content-Type": "application/json"})
    assert large.status == 413


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/jobs?limit=0", "limit"),
        ("/jobs?limit=501", "limit"),
        ("/jobs?limit=many", "limit"),
        ("/jobs?status=running", "status"),
        ("/jobs?stauts=done", "stauts"),
        ("/jobs?status=done&status=failed", "status"),
        ("/jobs?owner=a.b", "owner"),
        ("/jobs?cursor=%00", "cursor"),
        ("/queues?verbose=1", "verbose"),
    ],
)
async def test_a_wrong_parameter_is_named(ann: Client, path: str, field: str) -> None:
    answer = await ann.get(path)
    assert (answer.status, answer.body["field"]) == (400, field)


@pytest.mark.parametrize("name", ["a.b", "*", "%3E", "%00", "a%0A", "é", "x" * 121, "..%2F", "%2A"])
async def test_a_job_id_that_is_none_finds_nothing(root: Client, name: str) -> None:
    for method, path in PATHS:
        if "{}" in path:
            assert (await root.ask(method, path.format(name))).status in {404, 405}


async def test_a_job_of_another_plan_is_no_analysis(
    ann: Client, jobs: Jobs, begin: Begin, name: str, pipeline: Pipeline
) -> None:
    from framemesh.steps.functions import Function

    async def body(ctx: Any, given: Any) -> str:
        return "done"

    async with begin(Function(name, body)):
        job = await jobs.submit(one(name), owner=ann.name)
        answer = await ann.get(f"/analysis/{job.id}")
        assert (answer.status, "is no analysis but test" in answer.body["detail"]) == (404, True)
        assert (await ann.get(f"/jobs/{job.id}/logs")).status == 200
        wrong = await ann.get(f"/analysis/{job.id}/events", headers={"Last-Event-ID": "x"})
        assert wrong.status == 404


async def test_a_last_event_id_is_a_number(ann: Client, pipeline: Pipeline) -> None:
    job_id = await ann.submit()
    for wrong in ("x", "-1", "1" * 30):
        answer = await ann.get(f"/analysis/{job_id}/events", headers={"Last-Event-ID": wrong})
        assert (answer.status, answer.body["field"]) == (400, "Last-Event-ID")


async def test_a_port_that_is_taken_is_named(site: Site, bus: Bus, registry: Registry) -> None:
    second = Gateway(site.gateway.settings, bus, registry)
    with pytest.raises(FramemeshError, match=r"setting gateway_port: 127\.0\.0\.1:.* is not to be had"):
        await second.prepare()
    await second.finish()


# -- what is sent in bad faith ------------------------------------------------------------------------


async def sent_raw(site: Site, *pieces: bytes) -> bytes:
    """The answer to bytes that are sent one after another."""
    host, _, port = site.base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.1)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 100 "):
                head += await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            return head + await reader.readexactly(int(length[1]) if length else 0)
    finally:
        writer.close()


def head_of(client: Client, path: str, *lines: str) -> bytes:
    """The head of a POST."""
    own = [f"{name}: {value}" for name, value in client.headers.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", "Connection: close", *own, *lines, "", ""]).encode()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "rot13", "gzip, identity"])
@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x"])
async def test_a_body_in_a_content_coding_is_not_taken(ann: Client, coding: str, content_type: str) -> None:
    headers = {"Content-Type": content_type, "Content-Encoding": coding}
    answer = await ann.post("/analysis", data=b"rubbish", headers=headers)
    assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "identity")
    assert "Content-Encoding" in answer.body["detail"]


@pytest.mark.parametrize(
    ("line", "pieces"),
    [("Content-Length: 9", [b"{"]), ("Transfer-Encoding: chunked", [b"1\r\n{\r\n", b"no chunk\r\n"])],
)
async def test_a_body_that_does_not_come_is_not_waited_for(
    ann: Client, site: Site, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, line: str, pieces: list[bytes]
) -> None:
    monkeypatch.setattr("services.gateway.patience.MOST_S", 0.5)
    answer = await sent_raw(site, head_of(ann, "/analysis", "Content-Type: application/json", line), *pieces)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"4 KiB a second" in answer


async def test_what_is_no_http_does_not_fill_the_log(
    site: Site, ann: Client, caplog: pytest.LogCaptureFixture
) -> None:
    for wrong in (
        b"GET / HTTP/9.9\r\n\r\n",
        head_of(ann, "/analysis", "X: " + "a" * 10_000),
        b"POST / HTTP/1.1\r\nx\r\n\r\n",
    ):
        assert (await sent_raw(site, wrong)).startswith(b"HTTP/1.0 400 ")
    assert [record for record in caplog.records if record.name.startswith("aiohttp")] == []


async def test_an_upload_by_drops_does_not_keep_its_room(
    ann: Client, site: Site, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.patience.MOST_S", 0.6)
    drops = [b"a"] * 20  # one each 0.1 s: never silent for long
    head = head_of(ann, "/analysis", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 999999")
    answer = await sent_raw(site, head + part("video", ""), *drops)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"4 KiB a second" in answer
    assert site.gateway.desk.uploads.inside == 0


async def test_a_client_that_asks_first_is_refused_before_it_sends(
    ann: Client, site: Site, pipeline: Pipeline
) -> None:
    asking = ["Content-Type: multipart/form-data; boundary=x", "Expect: 100-continue"]
    too_large = await sent_raw(site, head_of(ann, "/analysis", *asking, f"Content-Length: {1 << 40}"))
    assert too_large.startswith(b"HTTP/1.1 413 ")
    unknown = await sent_raw(site, head_of(site.nobody, "/analysis", *asking, "Content-Length: 999"))
    assert unknown.startswith(b"HTTP/1.1 401 ")
    whole = part("video", "a video\r\n--x--\r\n")
    taken = await sent_raw(site, head_of(ann, "/analysis", *asking, f"Content-Length: {len(whole)}"), whole)
    assert taken.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 ")


@pytest.mark.parametrize("sent_as", ["json", "form"])
async def test_metadata_that_is_nested_too_deep_is_refused(ann: Client, pipeline: Pipeline, sent_as: str) -> None:
    def nested(levels: int) -> str:
        return '{"a": ' * levels + "1" + "}" * levels

    async def post(metadata: str) -> Any:
        if sent_as == "form":
            return await ann.post("/analysis", data=form(10, metadata=metadata))
        body = f'{{"videoURL": "{URL}", "metadata": {metadata}}}'.encode()
        return await ann.post("/analysis", data=body, headers={"Content-Type": "application/json"})

    answer = await post(nested(65))
    assert (answer.status, answer.body["field"]) == (400, "metadata")
    assert "64 levels" in answer.body["detail"]
    taken = await post(nested(64))
    assert (await ann.ended(taken.body["jobId"]))["status"] == "done"
    far = await post(nested(300))
    assert (far.status, far.body.get("field")) == (400, "metadata" if sent_as == "form" else None)


async def test_the_same_key_for_other_videos_at_once_is_refused(ann: Client, pipeline: Pipeline) -> None:
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    answers = await asyncio.gather(
        *(ann.post("/analysis", json={"videoURL": f"{URL}?{n}"}, headers=headers) for n in range(8))
    )
    assert sorted(answer.status for answer in answers) == [202] + [409] * 7


async def test_two_idempotency_keys_are_none(ann: Client, site: Site, pipeline: Pipeline) -> None:
    keys = ["Idempotency-Key: a", "Idempotency-Key: b"]
    body = f'{{"videoURL": "{URL}"}}'.encode()
    lines = ["Content-Type: application/json", *keys, f"Content-Length: {len(body)}"]
    answer = await sent_raw(site, head_of(ann, "/analysis", *lines), body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Idempotency-Key: given more than once" in answer


@pytest.mark.parametrize(
    "made",
    [
        '[1.5, "\\ud800"]',
        '[1.5, "a\\u0000"]',
        '[NaN, "a"]',
        '[Infinity, "a"]',
        "[1.5, 7]",
        '[true, "a"]',
        "[" * 300,
    ],
)
async def test_a_forged_cursor_is_refused(ann: Client, made: str) -> None:
    cursor = base64.urlsafe_b64encode(made.encode())[:300].decode().rstrip("=")
    answer = await ann.get(f"/jobs?cursor={cursor}")
    assert (answer.status, answer.body["field"]) == (400, "cursor"), answer


async def test_events_end_when_nats_is_away_for_long(
    site: Site, ann: Client, own_nats: OwnServer, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framemesh.bus.READ_PATIENCE", 0.5)
    monkeypatch.setattr("services.gateway.events.LOOK_S", 0.2)
    bus = await Bus.connect(own_nats.environment["nats_host"], "test")
    await bus.declare(subjects.JOBS)
    desk = site.gateway.desk
    desk.bus, desk.jobs = bus, Jobs(bus, registry.redis)
    job = Job(id=secrets.token_hex(8), plan=analysis_plan(), owner=ann.name, input={"url": URL}, created=1.0)
    await desk.jobs.store.create(job)
    async with ann.session.get(f"{ann.base}/analysis/{job.id}/events", headers=ann.headers) as answer:
        while not (await answer.content.readline()).startswith(b"data: "):
            pass
        await own_nats.kill()
        async with asyncio.timeout(20):
            rest = await answer.content.read()
    assert b"problem" not in rest
    assert b"HTTP/" not in rest
    assert (await ann.get(f"/analysis/status/{job.id}")).status == 503
    await own_nats.start()
    await bus.close()
