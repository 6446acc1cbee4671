"""Videos from a server that breaks, lies and leads astray, and their sound; through the real stores."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.abc import AbstractResolver, ResolveResult
from redis.asyncio import Redis

from framemesh.blobs import BlobMissing, BlobStore
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.registry import Registry
from framemesh.steps import files
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.functions import Skip, StepFailed
from framemesh.steps.job import Job, JobStatus, StepStatus, StepTask
from framemesh.steps.plan import Plan
from services.media import download as downloading
from services.media.addresses import refusal
from services.media.download import Limits, download
from services.media.settings import MediaSettings
from services.media.worker import Media

Need = Callable[[str], Path]
LIMITS = Limits(max_bytes=8 << 20, seconds=20, allow_private=True)


class Files:
    """A server of one video, as good as a test wants it."""

    def __init__(self, video: bytes) -> None:
        self.video = video
        self.etag = '"one"'
        self.break_after = len(video) // 2
        self.breaks = 1
        self.seen: list[Mapping[str, str]] = []
        self.base = ""

    def routes(self) -> list[web.RouteDef]:
        """What it has."""
        every = {
            "/good.mp4": self.good, "/broken.mp4": self.broken, "/lies.mp4": self.lies,
            "/rubbish.mp4": self.rubbish, "/endless.mp4": self.endless, "/round": self.round, "/away": self.away,
            "/slow.mp4": self.slow, "/careless.mp4": self.careless,
            "/busy.mp4": self.busy, "/changes.mp4": self.changes, "/empty.mp4": self.empty,
        }  # fmt: skip
        return [web.get(path, handler) for path, handler in every.items()]

    async def good(self, request: web.Request) -> web.StreamResponse:
        """It, or a part of it."""
        self.seen.append(dict(request.headers))
        headers = {"ETag": self.etag, "Content-Type": "video/mp4"} if self.etag else {}
        begin = request.http_range.start or 0
        if not begin or request.headers.get("If-Range") != self.etag:
            return web.Response(body=self.video, headers=headers)
        if begin >= len(self.video):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(self.video)}"})
        said = f"bytes {begin}-{len(self.video) - 1}/{len(self.video)}"
        return web.Response(status=206, body=self.video[begin:], headers=headers | {"Content-Range": said})

    async def broken(self, request: web.Request) -> web.StreamResponse:
        """Breaks off some times."""
        whole = await self.good(request)
        assert isinstance(whole, web.Response)
        if self.breaks <= 0:
            return whole
        self.breaks -= 1
        body = whole.body
        assert isinstance(body, bytes)
        return await self._cut(
            request, whole.status, dict(whole.headers), body, min(self.break_after, len(body) - 1)
        )

    async def _cut(
        self, request: web.Request, status: int, headers: dict[str, str], body: bytes, at: int, more: int = 0
    ) -> web.StreamResponse:
        headers["Content-Length"] = str(len(body) + more)
        answer = web.StreamResponse(status=status, headers=headers)
        await answer.prepare(request)
        await answer.write(body[:at])
        await asyncio.sleep(0.05)
        assert request.transport
        request.transport.close()
        return answer

    async def lies(self, request: web.Request) -> web.StreamResponse:
        """Says that it has more than it has, whatever part is asked for."""
        self.seen.append(dict(request.headers))
        return await self._cut(request, 200, {"ETag": self.etag}, self.video, len(self.video), more=1000)

    async def changes(self, request: web.Request) -> web.StreamResponse:
        """Is another file after a break."""
        if self.seen:
            self.etag, self.video = '"two"', self.video[: len(self.video) // 4] * 4
        return await self.broken(request)

    async def careless(self, request: web.Request) -> web.StreamResponse:
        """Is another file of the same length after a break, and gives a part of it, whatever ``If-Range`` says."""
        if not self.seen:
            return await self.broken(request)
        if self.etag == '"one"':
            self.etag, self.video = '"two"', self.video[::-1]
        begin = request.http_range.start or 0
        self.seen.append(dict(request.headers))
        said = f"bytes {begin}-{len(self.video) - 1}/{len(self.video)}"
        headers = {"ETag": self.etag} | ({"Content-Range": said} if begin else {})
        return web.Response(status=206 if begin else 200, body=self.video[begin:], headers=headers)

    async def rubbish(self, request: web.Request) -> web.StreamResponse:
        """A page where a video should be."""
        return web.Response(text="<!doctype html><html>Log in first</html>" * 40, content_type="text/html")

    async def empty(self, request: web.Request) -> web.StreamResponse:
        """Nothing."""
        return web.Response(body=b"", content_type="video/mp4")

    async def endless(self, request: web.Request) -> web.StreamResponse:
        """Does not say how long it is, and never ends."""
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(bytes(1 << 18))

    async def slow(self, request: web.Request) -> web.StreamResponse:
        """A byte now and then."""
        answer = web.StreamResponse(headers={"Content-Length": "1000"})
        await answer.prepare(request)
        for _ in range(100):
            await answer.write(b"x")
            await asyncio.sleep(0.05)
        return answer

    async def busy(self, request: web.Request) -> web.StreamResponse:
        """Wants to be asked later."""
        return web.Response(status=503, headers={"Retry-After": "7"})

    async def round(self, request: web.Request) -> web.StreamResponse:
        """Some redirects to the video."""
        left = int(request.query.get("n", "0"))
        raise web.HTTPFound(f"/round?n={left - 1}" if left > 1 else "good.mp4")

    async def away(self, request: web.Request) -> web.StreamResponse:
        """A redirect to wherever."""
        return web.Response(status=302, headers={"Location": request.query["to"]})


@asynccontextmanager
async def serving(routes: list[web.RouteDef]) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def server(assets: Need) -> AsyncIterator[Files]:
    """A server of the face's video."""
    made = Files(assets("face").read_bytes())
    async with serving(made.routes()) as made.base:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rests between connections are short."""
    monkeypatch.setattr(downloading, "REST_S", 0.01)


async def fetched(server: Files, place: str, path: Path, limits: Limits = LIMITS) -> bytes:
    async def say(have: int, total: int | None) -> None:
        pass

    await download(server.base + place, path, limits, say)
    return path.read_bytes()


# -- a connection that breaks -------------------------------------------------------------------------


async def test_a_download_goes_on_where_it_broke(server: Files, tmp_path: Path) -> None:
    server.breaks = 3
    server.break_after = len(server.video) // 5
    assert await fetched(server, "/broken.mp4", tmp_path / "v") == server.video
    asked = [headers.get("Range") for headers in server.seen]
    assert asked == [None, *(f"bytes={n * server.break_after}-" for n in (1, 2, 3))]
    assert all(headers.get("If-Range") == '"one"' for headers in server.seen[1:])


async def test_without_a_validator_it_begins_anew(server: Files, tmp_path: Path) -> None:
    server.etag = ""
    assert await fetched(server, "/broken.mp4", tmp_path / "v") == server.video
    assert [headers.get("Range") for headers in server.seen] == [None, None]


async def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(server: Files, tmp_path: Path) -> None:
    assert await fetched(server, "/changes.mp4", tmp_path / "v") == server.video
    assert server.etag == '"two"'


async def test_a_part_of_another_file_is_not_taken_though_the_server_gives_it(
    server: Files, tmp_path: Path
) -> None:
    assert await fetched(server, "/careless.mp4", tmp_path / "v") == server.video
    assert server.etag == '"two"'
    assert [headers.get("Range") is None for headers in server.seen] == [True, False, True]


async def test_a_server_that_lies_about_the_length_is_told_of(server: Files, tmp_path: Path) -> None:
    with pytest.raises(
        StepFailed, match=r"breaks again and again, after 208428 of 209428 bytes: check the server"
    ):
        await fetched(server, "/lies.mp4", tmp_path / "v")
    assert len(server.seen) == downloading.MOST_BREAKS + 1


# -- what is not fetched ------------------------------------------------------------------------------


async def test_more_than_allowed_is_refused_before_it_comes_and_while_it_does(
    server: Files, tmp_path: Path
) -> None:
    small = replace(LIMITS, max_bytes=100_000)
    with pytest.raises(FramemeshError, match=r"208428 bytes or more, 0 MiB are allowed: .* raise media_max_mb"):
        await fetched(server, "/good.mp4", tmp_path / "v", small)
    assert not (tmp_path / "v").read_bytes()
    with pytest.raises(FramemeshError, match=r"bytes or more, 8 MiB are allowed"):
        await fetched(server, "/endless.mp4", tmp_path / "v")
    assert (tmp_path / "v").stat().st_size <= 8 << 20


async def test_a_download_has_an_end(server: Files, tmp_path: Path) -> None:
    with pytest.raises(FramemeshError, match=r"/slow.mp4 took longer than 0\.5 s: .*raise download_timeout"):
        await fetched(server, "/slow.mp4", tmp_path / "v", replace(LIMITS, seconds=0.5))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "127.1", "0.0.0.0"]
)
async def test_no_connection_is_made_to_an_address_that_is_not_public(
    server: Files, tmp_path: Path, host: str
) -> None:
    server.base = server.base.replace("127.0.0.1", host)
    with pytest.raises(FramemeshError, match=r"no public address|not a canonical IPv4 address"):
        await fetched(server, "/good.mp4", tmp_path / "v", replace(LIMITS, allow_private=False))
    assert not server.seen


class TwoFaced(AbstractResolver):
    """Says what is asked for once, and something else from then on."""

    def __init__(self) -> None:
        self.asked = 0

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        self.asked += 1
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=2, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def test_what_a_name_resolves_to_when_it_is_connected_to_is_what_counts(
    server: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = TwoFaced()
    monkeypatch.setattr("aiohttp.connector.DefaultResolver", lambda **_: resolver)
    server.base = server.base.replace("127.0.0.1", "public.example")
    assert await fetched(server, "/good.mp4", tmp_path / "v") == server.video
    with pytest.raises(FramemeshError, match=r"127\.0\.0\.1 is no public address \(loopback\)"):
        await fetched(server, "/good.mp4", tmp_path / "v", replace(LIMITS, allow_private=False))
    assert (resolver.asked, len(server.seen)) == (2, 1)


async def test_redirects_are_followed_but_not_for_ever(server: Files, tmp_path: Path) -> None:
    assert await fetched(server, "/round?n=5", tmp_path / "v") == server.video
    with pytest.raises(FramemeshError, match="more than 5 redirects"):
        await fetched(server, "/round?n=6", tmp_path / "v")


@pytest.mark.parametrize("address", ["192.0.0.192", "192.88.99.1", "168.63.129.16", "64:ff9b::c000:c0"])
def test_addresses_that_lead_into_a_network_are_refused_on_every_python(address: str) -> None:
    assert refusal(address)


@pytest.mark.parametrize(
    "to", ["http://127.0.0.2:1/", "http://[::1]:1/", "http://169.254.169.254/latest/meta-data"]
)
async def test_no_redirect_leads_to_an_address_that_is_not_public(
    server: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    # Of all that is not public, the test's own server counts as public.
    monkeypatch.setattr(
        "services.media.addresses.refusal", lambda address: "" if address == "127.0.0.1" else refusal(address)
    )
    strict = replace(LIMITS, allow_private=False)
    assert await fetched(server, "/round?n=1", tmp_path / "v", strict) == server.video
    with pytest.raises(FramemeshError, match="is no public address"):
        await fetched(server, f"/away?to={to}", tmp_path / "v", strict)


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("file:///etc/passwd", "which is not fetched: want http or https"),
        ("ftp://host.example/x", "it leads to ftp://host.example/x, which is not fetched"),
        ("http://ann:secret@[/", "which is not fetched"),
    ],
)
async def test_no_redirect_leads_to_another_kind_of_address(
    server: Files, tmp_path: Path, to: str, said: str
) -> None:
    with pytest.raises(FramemeshError, match=said) as raised:
        await fetched(server, f"/away?to={to}", tmp_path / "v")
    assert "secret" not in str(raised.value)


async def test_what_the_server_says_is_handed_on(server: Files, tmp_path: Path) -> None:
    with pytest.raises(FramemeshError, match=r"/gone.mp4: the server says 404 Not Found: check the address"):
        await fetched(server, "/gone.mp4?token=secret", tmp_path / "v")
    with pytest.raises(StepFailed, match="the server says 503") as raised:
        await fetched(server, "/busy.mp4", tmp_path / "v")
    assert (raised.value.retry, raised.value.delay) == (True, 7)
    with pytest.raises(StepFailed, match=r"http://127.0.0.1:1/x: cannot be connected to"):
        await download("http://ann:secret@127.0.0.1:1/x", tmp_path / "v", LIMITS, _nothing)
    with pytest.raises(FramemeshError, match="want http:// or https:// and a host"):
        await download("ftp://host.example/x", tmp_path / "v", LIMITS, _nothing)


async def _nothing(have: int, total: int | None) -> None:
    pass


# -- files of any size --------------------------------------------------------------------------------


async def test_a_large_file_is_kept_in_parts(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PART_BYTES", 1 << 20)
    data = secrets.token_bytes((5 << 20) + 17)
    (tmp_path / "in").write_bytes(data)
    told: list[float] = []

    async def say(share: float) -> None:
        told.append(share)

    url = await files.put_file(blobs, tmp_path / "in", say)
    assert (await files.get_file(blobs, url, tmp_path / "out")).read_bytes() == data
    assert told == sorted(told)
    assert len(told) == 6
    one = await blobs.put(b"plain")
    assert (await files.get_file(blobs, one, tmp_path / "out")).read_bytes() == b"plain"
    with pytest.raises(BlobMissing, match="no list of parts"):
        await files.get_file(blobs, one + files.MARK, tmp_path / "out")


async def test_a_strangers_list_of_parts_is_only_a_file(blobs: BlobStore, tmp_path: Path) -> None:
    listed = b'{"bytes": 1, "parts": [{"url": "http://127.0.0.1:1/secret", "bytes": 1}]}'
    (tmp_path / "in").write_bytes(listed)
    url = await files.put_file(blobs, tmp_path / "in")
    assert (await files.get_file(blobs, url, tmp_path / "out")).read_bytes() == listed
    url = await blobs.put(listed)
    assert (await files.get_file(blobs, url, tmp_path / "out")).read_bytes() == listed


async def test_what_is_stored_has_its_media_type(blobs: BlobStore, tmp_path: Path) -> None:
    async def say(percent: float, text: str) -> None:
        pass

    ctx = Context("j", "s", None, 1, "j/s", logging.getLogger("step"), blobs, say)
    (tmp_path / "in").write_bytes(b"a file")
    wanted = {
        await ctx.put(b"{}", "report.json"): "application/json",
        await ctx.put(b"\xff\xd8", "face.jpg"): "image/jpeg",
        await ctx.put(b"\0\1"): "application/octet-stream",
        await ctx.put(b"?", content_type="text/plain"): "text/plain",
        await ctx.put_file(tmp_path / "in"): "application/json",  # the list of its parts
    }
    async with ClientSession() as session:
        for url, content_type in wanted.items():
            async with session.get(url) as answer:
                assert answer.content_type == content_type
    assert [await ctx.get(url) for url in wanted] == [b"{}", b"\xff\xd8", b"\0\1", b"?", b"a file"]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"audio": None}, Skip, "there is no audio"),  # of a step before that was skipped
        ({}, FramemeshError, "input.audio: want the address of a stored file, got None"),
        ({"audio": "/etc/passwd"}, FramemeshError, "input.audio: .*no address"),
    ],
)
async def test_what_a_step_is_given_may_be_nothing(
    blobs: BlobStore, given: Any, error: type[Exception], said: str
) -> None:
    task = StepTask(job="j", step="s", attempt=1, function="f")
    context = Context.of(task, logging.getLogger("step"), blobs, _say)
    with pytest.raises(error, match=said):
        await files.named_file(context, given, "audio")
    context.clean_up()


async def _say(percent: float, text: str) -> None:
    pass


# -- the service --------------------------------------------------------------------------------------


@pytest.fixture
async def jobs(
    bus: Bus, redis: Redis, registry: Registry, servers: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Jobs]:
    """The mesh's jobs, with a media service that works them off."""
    monkeypatch.setenv("ALLOW_PRIVATE_ADDRESSES", "true")  # steps are processes that read the settings themselves
    service = Media(MediaSettings(**servers, instance=f"m-{secrets.token_hex(3)}"), bus, registry)  # type: ignore[arg-type]
    await service.prepare()
    task = asyncio.create_task(service.run())
    yield Jobs(bus, redis)
    task.cancel()
    await asyncio.wait([task])
    await service.finish()


MEDIA = Plan.model_validate(
    {
        "name": "media",
        "steps": {
            "fetch": {
                "function": "downloading-video",
                "input": {"url": "$input.url?", "upload": "$input.upload?"},
                "retry": {"attempts": 1},
            },
            "sound": {
                "function": "extracting-audio", "after": ["fetch"], "input": {"video": "$steps.fetch.video"},
                "retry": {"attempts": 1},
            },
        },
        "output": {"video": "$steps.fetch", "audio": "$steps.sound?"},
    }
)  # fmt: skip


async def ended(jobs: Jobs, **given: Any) -> Job:
    job = await jobs.submit(MEDIA, given)
    async with asyncio.timeout(30):
        return await jobs.wait(job.id)


async def test_a_video_is_fetched_and_its_sound_taken_out(
    jobs: Jobs, server: Files, blobs: BlobStore, tmp_path: Path
) -> None:
    job = await ended(jobs, url=f"{server.base}/broken.mp4")
    assert job.status is JobStatus.DONE, job
    video, sound = job.output["video"], job.output["audio"]
    assert video["sha256"] == hashlib.sha256(server.video).hexdigest()
    assert (video["bytes"], video["width"], video["height"], video["fps"]) == (len(server.video), 640, 360, 30)
    assert (video["has_audio"], video["has_video"], video["content_type"]) == (True, True, "video/mp4")
    kept = await files.get_file(blobs, video["video"], tmp_path / "kept")
    assert kept.read_bytes() == server.video
    wav = await files.get_file(blobs, sound["audio"], tmp_path / "wav")
    assert wav.read_bytes().startswith(b"RIFF")
    assert wav.stat().st_size == sound["bytes"] == pytest.approx(44 + sound["duration_s"] * 32_000, abs=32)
    assert sound["duration_s"] == pytest.approx(2.42, abs=0.1)
    again = await ended(jobs, upload=video["video"])
    assert again.output["video"] == video


async def test_what_is_no_video_is_told_in_one_line(jobs: Jobs, server: Files) -> None:
    given: list[tuple[dict[str, Any], str]] = [
        (
            {"url": f"{server.base}/rubbish.mp4?token=secret"},
            r"input.url: http://127.0.0.1:\d+/rubbish.mp4 \(text/html\): ",
        ),
        ({"url": f"{server.base}/empty.mp4"}, r"the file is empty: give a video"),
        ({}, r"input: give either url, the address of a video, or upload"),
        ({"upload": 3}, "input.upload: want the address of a stored file, got 3"),
    ]  # fmt: skip
    found = await asyncio.gather(*(ended(jobs, **each) for each, _ in given))
    for job, (_, said) in zip(found, given, strict=True):
        assert job.status is JobStatus.FAILED
        assert re.search(said, job.error)
        assert "\n" not in job.error
        assert "secret" not in job.error


async def test_a_video_without_sound_is_none_the_worse_for_it(jobs: Jobs, server: Files, assets: Need) -> None:
    server.video = assets("people").read_bytes()
    job = await ended(jobs, url=f"{server.base}/good.mp4")
    assert job.status is JobStatus.DONE, job
    assert (job.steps["sound"].status, job.steps["sound"].error) == (StepStatus.SKIPPED, "the video has no sound")
    assert not job.output["video"]["has_audio"]
