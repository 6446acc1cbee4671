"""Media from their upload to what a player gets, on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pyloudnorm import Meter

from benchmarks.material import talk
from framemesh import subjects
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.events import EventStore
from framemesh.media import edition_of, key
from framemesh.messages import MediaEvent
from framemesh.registry import Registry
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.derivations import Derivation
from framemesh.steps.functions import Skip
from framemesh.steps.job import StepTask
from framemesh.steps.triggers import TriggerEvent, Triggers
from framemesh.tokens import Scope
from services.gateway import tickets
from services.media.library import Library
from tests.integration.gateways import Client, serving
from tests.integration.medias import Studio, form
from tests.samples import dead_letters, until

Need = Callable[[str], Path]


@pytest.fixture
def name() -> str:
    return f"m-{secrets.token_hex(4)}"


async def ended(client: Client, media: str, within: float = 60) -> dict[str, Any]:
    async def over() -> dict[str, Any] | None:
        found = await client.get(f"/media/{media}")
        assert found.status == 200, found
        return found.body if found.body["status"] in {"done", "failed", "cancelled"} else None

    document: dict[str, Any] = await until(over, within=within)
    return document


async def text(client: Client, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    async with client.session.get(client.base + path, headers=client.headers | headers) as answer:
        return answer.status, answer.headers, await answer.read()


async def told(bus: Bus, media: str) -> list[MediaEvent]:
    found = [m async for m in bus.raw("EVENTS", "events.media")]
    events = [MediaEvent.model_validate_json(each) for each in found if b'"kind":"media"' in each]
    return [each for each in events if each.media == media]


async def keys(at: Studio, media: str) -> list[str]:
    bucket = at.site.gateway.desk.media_bucket
    return [each.key async for page in bucket.pages(within=f"{media}/") for each in page]


async def test_a_video_becomes_hls_that_decodes_with_its_transcript_and_an_event(
    at: Studio, ann: Client, assets: Need, name: str, bus: Bus, redis: Any, tmp_path: Path
) -> None:
    answer = await ann.ask("PUT", f"/media/{name}", data=form(assets("face"), title="A face", source="show"))
    assert (answer.status, answer.headers["Location"]) == (202, f"/media/{name}"), answer
    assert answer.body["version"] == 1
    document = await ended(ann, name)
    assert document["status"] == "done", document
    steps = {each["name"]: (each["status"], each["error"]) for each in document["steps"]}
    assert steps["embed"] == ("skipped", "no worker has ever had a function 'embed'")
    assert steps["index"] == ("skipped", "no worker has ever had a function 'index'")
    published = document["published"]
    assert (published["width"], published["height"], published["hasAudio"]) == (640, 360, True)
    assert [each["name"] for each in published["renditions"]] == ["v360", "v240", "a128", "a48"]
    assert published["transcript"]["text"] == "hello world"
    assert published["loudness"]["target"] == -23
    assert (document["title"], document["source"]) == ("A face", "show")

    status, headers, master = await text(ann, f"/media/{name}/index.m3u8")
    assert (status, headers["Content-Type"]) == (200, "application/vnd.apple.mpegurl")
    assert headers["Cache-Control"] == "private, no-cache"
    paths = re.findall(r"^hls/\S+", master.decode(), re.M)
    assert len(paths) == 4
    film = await whole(ann, f"/media/{name}/{paths[0]}")
    (tmp_path / "film.mp4").write_bytes(film)
    with av.open(str(tmp_path / "film.mp4")) as container:
        frames = list(container.decode(video=0))
    assert (frames[0].width, frames[0].height) == (640, 360)
    assert len(frames) == pytest.approx(2.42 * 30, abs=3)
    status, _, spoken = await text(ann, f"/media/{name}/transcript")
    assert (status, b"hello world" in spoken) == (200, True)

    (event,) = await until(lambda: told(bus, name))
    assert (event.state, event.version, event.playlist) == ("ready", 1, f"/media/{name}/index.m3u8")
    letters = len(await dead_letters(bus, "EVENTS", "events.media"))
    await EventStore(redis).rebuild(bus)  # which reads events of sources, and is not disturbed
    assert len(await dead_letters(bus, "EVENTS", "events.media")) == letters


async def whole(client: Client, path: str) -> bytes:
    """A rendition, all of it."""
    _, _, playlist = await text(client, path)
    folder = path.rpartition("/")[0]
    names = [*re.findall(r'URI="(.*?)"', playlist.decode()), *re.findall(r"^\d+\.m4s", playlist.decode(), re.M)]
    return b"".join([(await text(client, f"{folder}/{each}"))[2] for each in names])


async def test_sound_is_brought_to_the_loudness_that_is_set(
    at: Studio, ann: Client, assets: Need, name: str, tmp_path: Path
) -> None:
    await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk")))
    document = await ended(ann, name)
    assert document["status"] == "done", document
    published = document["published"]
    assert (published["hasVideo"], published["width"], document["title"]) == (False, 0, "jfk")
    assert [each["kind"] for each in published["renditions"]] == ["audio", "audio"]
    _, _, master = await text(ann, f"/media/{name}/index.m3u8")
    assert "RESOLUTION" not in master.decode()
    path = re.findall(r"^hls/\S+", master.decode(), re.M)[0]
    (tmp_path / "sound.mp4").write_bytes(await whole(ann, f"/media/{name}/{path}"))
    with av.open(str(tmp_path / "sound.mp4")) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    samples = np.concatenate(parts, 1).T.astype(float)
    assert len(samples) / 48_000 == pytest.approx(11.0, abs=0.1)
    assert Meter(48_000).integrated_loudness(samples) == pytest.approx(-23, abs=0.5)
    assert np.abs(samples).max() < 1
    assert published["loudness"]["lufs"] == pytest.approx(-12.5, abs=0.2)


async def test_a_video_without_sound_has_none(at: Studio, ann: Client, name: str, tmp_path: Path) -> None:
    talk(tmp_path / "silent.mkv", seconds=1)
    await ann.ask("PUT", f"/media/{name}", data=form(tmp_path / "silent.mkv"))
    document = await ended(ann, name)
    assert document["status"] == "done", document
    published = document["published"]
    assert {each["kind"] for each in published["renditions"]} == {"video"}
    assert (published["hasAudio"], published["loudness"], published["transcript"]) == (False, None, None)
    steps = {each["name"]: each["error"] for each in document["steps"]}
    assert steps["extracting-audio"] == "the video has no sound"


async def test_the_same_bytes_are_not_worked_on_again_and_others_leave_nothing_stale(
    at: Studio, ann: Client, assets: Need, name: str, bus: Bus
) -> None:
    await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk"), title="one"))
    first = await ended(ann, name)
    before = await keys(at, name)
    edition = before[0].split("/")[1]
    await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk"), title="two"))
    second = await ended(ann, name)
    assert (second["version"], second["title"], second["status"]) == (2, "two", "done")
    assert second["published"]["version"] == 2
    assert at.speech.asked == 1
    assert await keys(at, name) == before
    logs = (await ann.get(f"/jobs/{second['jobId']}/logs")).body["lines"]
    again = {line["step"] for line in logs if "taken again" in line["text"]}
    assert again == {"transcoding", "extracting-audio", "transcribing"}

    await ann.post("/media", data=form(assets("face"), mediaId=name))
    third = await ended(ann, name)
    assert (third["status"], third["version"], third["title"]) == ("done", 3, "two")
    assert at.speech.asked == 2
    after = await keys(at, name)
    assert after
    assert not any(edition in each for each in after)
    kept = [m async for m in bus.read("DERIVATIONS", f"derived.{name}.*.*", 1, Derivation)]
    assert {each.message.job for each in kept} == {third["jobId"]}
    assert len(kept) == 3
    gone = re.findall(r"hls/\S+", (await text(ann, f"/media/{name}/index.m3u8"))[2].decode())
    assert not any(edition in each for each in gone)
    assert first["published"]["sha256"] != third["published"]["sha256"]


async def test_what_is_deleted_is_gone_at_once_and_its_files_soon(
    at: Studio, ann: Client, assets: Need, name: str, bus: Bus
) -> None:
    await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk")))
    await ended(ann, name)
    answer = await ann.ask("DELETE", f"/media/{name}")
    assert (answer.status, answer.body["mediaId"]) == (202, name)
    assert (await ann.get(f"/media/{name}")).status == 404
    assert (await text(ann, f"/media/{name}/index.m3u8"))[0] == 404

    async def gone() -> bool:
        row = await at.site.gateway.desk.media.find(name)
        return row is None and not await keys(at, name)

    await until(gone)
    events = await until(lambda: told(bus, name))
    assert [each.state for each in events][-1] == "deleted"
    assert [m async for m in bus.read("DERIVATIONS", f"derived.{name}.*.*", 1, Derivation)] == []
    await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk")))
    assert (await ended(ann, name))["status"] == "done"


async def test_what_is_deleted_while_it_is_made_leaves_nothing(
    at: Studio, ann: Client, assets: Need, name: str, bus: Bus
) -> None:
    made = await ann.ask("PUT", f"/media/{name}", data=form(assets("people")))

    async def at_it() -> bool:
        steps = {each["name"]: each for each in (await ann.get(f"/media/{name}")).body["steps"]}
        return "transcoding" in steps and bool(steps["transcoding"]["progress"])

    await until(at_it, within=30)
    assert (await ann.ask("DELETE", f"/media/{name}")).status == 202
    (event,) = await until(lambda: told(bus, name), within=30)
    assert event.state == "deleted"
    job = await at.site.gateway.desk.find(made.body["jobId"])
    assert job
    assert (job.status, job.steps["transcoding"].status) == ("cancelled", "cancelled")
    assert await keys(at, name) == []
    assert await at.site.gateway.desk.media.find(name) is None


async def test_of_those_who_put_the_same_at_once_each_has_a_version_or_is_told(
    at: Studio, ann: Client, name: str
) -> None:
    answers = await asyncio.gather(
        *(ann.ask("PUT", f"/media/{name}", json={"mediaURL": "http://127.0.0.1:1/a"}) for _ in range(6))
    )
    taken = [each.body["version"] for each in answers if each.status == 202]
    assert {each.status for each in answers} <= {202, 409}
    assert set(taken) <= set(range(1, len(taken) + 1))
    assert (await ann.get(f"/media/{name}")).body["version"] == len(taken)
    await ann.ask("DELETE", f"/media/{name}")


async def test_an_event_that_says_nonsense_fails_with_the_field_and_is_kept(
    at: Studio, bus: Bus, name: str
) -> None:
    said: dict[str, dict[str, Any]] = {
        "input.media": {"media": "../x"},
        "media is not in": {},
        "input.version": {"media": name, "version": "1"},
        "input.title": {"media": name, "title": "a\nb"},
        "input.owner": {"media": name, "owner": "a b"},
        "input.source": {"media": name, "source": "/"},
    }
    for given in said.values():
        await Triggers(bus).fire("media.uploaded", TriggerEvent(input=given, owner=name))

    async def buried() -> bool:
        letters = await dead_letters(bus, "TRIGGERS", "triggers.media.uploaded")
        found = [(each.reason, TriggerEvent.model_validate_json(each.payload)) for each in letters]
        ours = [(reason, event.input) for reason, event in found if event.owner == name]
        return {each: given for each in said for reason, given in ours if each in reason} == said

    await until(buried)
    assert await at.site.gateway.desk.media.find(name) is None


async def test_an_event_of_anybody_starts_the_same(at: Studio, bus: Bus, assets: Need, name: str) -> None:
    root = await at.client(Scope.ADMIN)
    event = TriggerEvent(input={"media": name, "url": "http://127.0.0.1:1/x.mp4", "title": "t"})
    await Triggers(bus).fire("media.uploaded", event)

    async def there() -> bool:
        return (await root.get(f"/media/{name}")).status == 200

    await until(there)
    document = (await root.get(f"/media/{name}")).body
    assert (document["owner"], document["title"], document["version"]) == ("nobody", "t", 1)
    await root.ask("DELETE", f"/media/{name}")


@pytest.mark.parametrize("what", ["noise", "playlist", "cut"])
async def test_what_cannot_be_played_is_told_in_one_line_and_leaves_nothing(
    at: Studio, ann: Client, assets: Need, name: str, bus: Bus, tmp_path: Path, what: str
) -> None:
    data = {
        "noise": np.random.default_rng(1).bytes(50_000),
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "cut": assets("people").read_bytes()[:1000],
    }[what]
    path = tmp_path / "talk.mp4"
    path.write_bytes(data)
    await ann.ask("PUT", f"/media/{name}", data=form(path))
    document = await ended(ann, name)
    assert (document["status"], document["published"]) == ("failed", None)
    assert document["error"].startswith("fetching-media: input.upload: ")
    assert "\n" not in document["error"]
    assert await keys(at, name) == []
    (event,) = await until(lambda: told(bus, name))
    assert (event.state, event.reason) == ("failed", document["error"])
    playlist = await text(ann, f"/media/{name}/index.m3u8")
    assert playlist[0] == 404


async def test_a_version_that_fails_leaves_the_one_that_is_published(
    at: Studio, ann: Client, assets: Need, name: str, tmp_path: Path
) -> None:
    await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk")))
    await ended(ann, name)
    path = tmp_path / "bad.mp4"
    path.write_bytes(b"no media " * 1000)
    await ann.ask("PUT", f"/media/{name}", data=form(path))
    document = await ended(ann, name)
    assert (document["status"], document["version"], document["published"]["version"]) == ("failed", 2, 1)
    assert (await text(ann, f"/media/{name}/index.m3u8"))[0] == 200


async def test_what_failed_is_made_when_its_event_is_replayed(
    at: Studio, ann: Client, assets: Need, name: str, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIA_MAX_MINUTES", "0.1")
    await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk")))
    failed = await ended(ann, name)
    assert "raise media_max_minutes" in failed["error"]
    monkeypatch.delenv("MEDIA_MAX_MINUTES")
    await at.media._children.close()  # they have read their settings

    async def buried() -> str | None:
        letters = await dead_letters(bus, "TRIGGERS", "triggers.media.uploaded")
        return next((each.payload for each in letters if f'"media":"{name}"' in each.payload), None)

    await bus.publish_raw("triggers.media.uploaded", (await until(buried)).encode(), {})
    events = await until(lambda: both(bus, name), within=30)
    assert [(each.state, each.version) for each in events] == [("failed", 1), ("ready", 1)]
    document = await ended(ann, name)
    assert (document["status"], document["published"]["version"]) == ("done", 1)
    assert document["jobId"] != failed["jobId"]


async def both(bus: Bus, media: str) -> list[MediaEvent]:
    found = await told(bus, media)
    return found if len(found) > 1 else []


async def test_a_newer_version_ends_the_older_one(at: Studio, ann: Client, assets: Need, name: str) -> None:
    first = await ann.ask("PUT", f"/media/{name}", data=form(assets("people")))
    second = await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk")))
    assert second.body["version"] == 2
    document = await ended(ann, name)
    assert (document["status"], document["published"]["hasVideo"]) == ("done", False)

    async def old() -> Any:
        found = await ann.get(f"/jobs/{first.body['jobId']}/logs")
        job = await at.site.gateway.desk.find(first.body["jobId"])
        return found.status == 404 or (job and job.status.over and job)

    job = await until(old)
    assert job is True or job.status in {"cancelled", "done"}
    assert {each.split("/")[1] for each in await keys(at, name)} == {
        (await at.site.gateway.desk.media.find(name)).published["edition"]  # type: ignore[union-attr, index]
    }


async def test_an_older_version_that_comes_late_leaves_what_a_newer_one_has_written(at: Studio, name: str) -> None:
    """Its event may have come without the gateway, or that was killed before it could cancel the job."""
    desk = at.site.gateway.desk
    for version, job in ((1, "older"), (2, "newer")):
        assert await desk.media.ask(name, owner="a", title="", source=name, job=job, version=version)
        await desk.media_bucket.put(key(name, edition_of(job), "init.mp4"), b"x", "video/mp4")
    spoken = await desk.blobs.put(b"{}")

    async def published(job: str, version: int) -> Any:
        hls = {"edition": edition_of(job), "duration_s": 1.0, "renditions": []}
        given = {"media": name, "file": {"version": version}, "hls": hls, "transcript": {"transcript": spoken}}
        return await library.publishing(context(job), given)

    def context(job: str) -> Context:
        task = StepTask(job=job, step="publishing", attempt=1, function="publishing")
        return Context.of(task, logging.getLogger(), desk.blobs, said)

    async def said(percent: float, text: str) -> None: ...

    library, newer = Library(at.bus, desk.media, desk.media_bucket), edition_of("newer")
    for job, said_of in (("older", 1), ("odd", "1"), ("nobodys", None), ("newer", None)):
        await library.notifying(context(job), {"media": name, "version": said_of, "failed": "why"})
    assert [each.version for each in await told(at.bus, name)] == [1, 0, 0, 2]
    with pytest.raises(Skip, match="a newer version"):
        await published("older", 1)
    assert await keys(at, name) == [key(name, newer, "init.mp4")]
    for _ in range(2):  # it was killed before its ack
        assert (await published("newer", 2))["transcript"] == spoken
    assert await keys(at, name) == [key(name, newer, "init.mp4"), key(name, newer, "transcript.json")]


# -- the API ------------------------------------------------------------------------------------------


async def test_segments_are_given_in_parts_and_kept_for_ever(
    at: Studio, ann: Client, assets: Need, name: str
) -> None:
    await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk")))
    await ended(ann, name)
    _, _, master = await text(ann, f"/media/{name}/index.m3u8")
    folder = re.findall(r"^(hls/\S+)/index", master.decode(), re.M)[0]
    path = f"/media/{name}/{folder}/00000.m4s"
    status, headers, data = await text(ann, path)
    assert (status, headers["Accept-Ranges"], headers["Content-Type"]) == (200, "bytes", "video/iso.segment")
    assert headers["Cache-Control"] == "private, max-age=31536000, immutable"
    tag, size = headers["ETag"], len(data)
    assert size > 1000
    parts: list[tuple[dict[str, str], int, bytes, str | None]] = [
        ({"Range": "bytes=0-99"}, 206, data[:100], f"bytes 0-99/{size}"),
        ({"Range": f"bytes={size - 10}-"}, 206, data[-10:], f"bytes {size - 10}-{size - 1}/{size}"),
        ({"Range": "bytes=-10"}, 206, data[-10:], f"bytes {size - 10}-{size - 1}/{size}"),
        ({"Range": f"bytes=5-{size * 9}"}, 206, data[5:], f"bytes 5-{size - 1}/{size}"),
        ({"Range": "bytes=0-9", "If-Range": tag}, 206, data[:10], f"bytes 0-9/{size}"),
        ({"Range": "bytes=0-9", "If-Range": '"other"'}, 200, data, None),
        ({"Range": "bytes=0-1,5-6"}, 200, data, None),
        ({"Range": "lines=1-2"}, 200, data, None),
        ({"Range": "bytes=9-1"}, 200, data, None),
        ({"If-None-Match": tag}, 304, b"", None),
    ]
    for given, wanted, body, said in parts:
        status, headers, found = await text(ann, path, **given)
        assert (status, found, headers.get("Content-Range")) == (wanted, body, said), given
    async with ann.session.head(ann.base + path, headers=ann.headers | {"Range": "bytes=0-9"}) as head:
        assert (head.status, head.headers["Content-Length"], head.headers["ETag"]) == (200, str(size), tag)
    for given in ({"Range": f"bytes={size}-"}, {"Range": "bytes=-0"}):
        answer = await ann.get(path, headers=given)
        assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{size}")
    for bad in (
        "hls/../../x/index.m3u8",
        f"{folder}/..%2F..%2Findex.m3u8",
        f"{folder}/99999.m4s",
        f"{folder}/x.m4s",
    ):
        assert (await ann.get(f"/media/{name}/{bad}")).status == 404, bad


async def test_media_are_their_owners_and_are_listed(at: Studio, ann: Client, assets: Need, name: str) -> None:
    bob, root = await at.client(), await at.client(Scope.ADMIN)
    for number in range(3):
        await ann.ask("PUT", f"/media/{name}-{number}", json={"mediaURL": "http://127.0.0.1:1/a", "source": name})
    for path in ("", "/index.m3u8", "/events", "/transcript"):
        assert (await bob.get(f"/media/{name}-1{path}")).status == 404
    assert (await bob.ask("DELETE", f"/media/{name}-1")).status == 404
    taken = await bob.ask("PUT", f"/media/{name}-1", json={"mediaURL": "http://127.0.0.1:1/a"})
    assert (taken.status, taken.body["field"]) == (409, "mediaId")
    assert (await bob.get("/media")).body["media"] == []
    page = (await ann.get(f"/media?source={name}&limit=2")).body
    assert [each["mediaId"] for each in page["media"]] == [f"{name}-2", f"{name}-1"]
    rest = (await ann.get(f"/media?source={name}&limit=2&cursor={page['cursor']}")).body
    assert ([each["mediaId"] for each in rest["media"]], rest["cursor"]) == ([f"{name}-0"], "")
    assert len((await root.get(f"/media?source={name}")).body["media"]) == 3
    assert (await ann.get("/media?cursor=nothing-there")).status == 400
    assert (await ann.get("/media/..%2Fetc")).status == 404


@pytest.mark.parametrize(
    ("sent", "status", "field"),
    [
        ({"json": {"mediaURL": "file:///etc/passwd"}}, 400, "mediaURL"),
        ({"json": {}}, 400, "mediaURL"),
        ({"json": {"mediaURL": "http://a/b", "mediaId": "../x"}}, 400, "mediaId"),
        ({"json": {"mediaURL": "http://a/b", "title": "a" * 201}}, 400, "title"),
        ({"json": {"mediaURL": "http://a/b", "source": "a b"}}, 400, "source"),
        ({"json": {"mediaURL": "http://a/b", "wrong": 1}}, 400, "wrong"),
        ({"data": b"x", "headers": {"Content-Type": "video/mp4"}}, 415, None),
        ({"data": {"file": io.BytesIO(b"")}}, 400, "file"),
    ],
)
async def test_a_wrong_request_is_refused(
    at: Studio, ann: Client, sent: dict[str, Any], status: int, field: str | None
) -> None:
    answer = await ann.post("/media", **sent)
    assert (answer.status, answer.body.get("field")) == (status, field), answer
    assert (await ann.get("/media")).body["media"] == []


async def test_an_upload_that_is_too_large_is_refused(at: Studio, ann: Client, name: str) -> None:
    data = b"\0" * (65 << 20)
    answer = await ann.ask("PUT", f"/media/{name}", data={"file": io.BytesIO(data)})
    assert (answer.status, answer.body["field"]) == (413, "file")
    assert (await ann.get(f"/media/{name}")).status == 404


async def test_a_ticket_opens_one_medium_for_a_player(at: Studio, ann: Client, assets: Need, name: str) -> None:
    await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk")))
    await ended(ann, name)
    made = await ann.post(f"/media/{name}/tickets")
    assert made.status == 201
    nobody, path = at.site.nobody, made.body["path"]
    status, _, master = await text(nobody, path)
    assert status == 200
    inner = re.findall(r"^hls/\S+", master.decode(), re.M)[0]
    assert len(await whole(nobody, f"{path.rpartition('/')[0]}/{inner}")) > 10_000
    ticket = path.split("/")[2]
    for bad in (ticket[:-1] + ("A" if ticket[-1] != "A" else "B"), ticket.replace(".1", ".2", 1), "x.1.y"):
        assert (await text(nobody, f"/play/{bad}/{name}/index.m3u8"))[0] == 401, bad
    assert (await text(nobody, f"/play/{ticket}/other/index.m3u8"))[0] == 401
    tokens = at.site.gateway.desk.tokens
    token, _ = await tokens.named(ann.name) or pytest.fail("it is there")
    old, _ = await tickets.make(tokens, token, name, -1)
    assert (await text(nobody, f"/play/{old}/{name}/index.m3u8"))[0] == 401
    await at.site.gateway.desk.tokens.revoke(ann.name)
    assert (await text(nobody, path))[0] == 401


async def test_a_medium_is_followed_until_it_is_there(at: Studio, ann: Client, assets: Need, name: str) -> None:
    await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk")))
    seen: list[str] = []
    async with (
        asyncio.timeout(60),
        ann.session.get(f"{ann.base}/media/{name}/events", headers=ann.headers) as answer,
    ):
        assert answer.headers["Content-Type"] == "text/event-stream"
        async for line in answer.content:
            if found := re.search(rb'"status":"(accepted|queued|processing|done|failed)","progress"', line):
                seen.append(found[1].decode())
    assert seen[-1] == "done"
    assert seen == sorted(seen, key=["accepted", "queued", "processing", "done"].index)


async def test_where_no_media_service_has_ever_run_nothing_is_taken(
    bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path, jobs: Jobs, name: str
) -> None:
    with contextlib.suppress(FramemeshError):  # it is not known already
        await jobs.forget("transcoding")
    async with serving(bus, registry, servers, tmp_path) as site:
        client = await site.client(name, Scope.OPERATOR)
        answer = await client.ask("PUT", f"/media/{name}", json={"mediaURL": "http://127.0.0.1:1/a"})
        assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
        assert "'transcoding'" in answer.body["detail"]
        assert (await client.get(f"/media/{name}")).status == 404


async def test_without_a_stream_nothing_is_taken(at: Studio, ann: Client, name: str, bus: Bus) -> None:
    """What is answered with 202 is durable, so what is not durable is not."""
    desk = at.site.gateway.desk
    await bus.jetstream.delete_stream(subjects.TRIGGERS.name)
    bus._streams.pop(subjects.TRIGGERS.name)
    original = Triggers.fire

    async def impatient(self: Triggers, trigger: str, event: TriggerEvent, headers: Any = None) -> int:
        payload = event.model_dump_json().encode()
        return await self._bus.publish_raw(subjects.trigger(trigger), payload, {}, patience=0.2)

    Triggers.fire = impatient  # type: ignore[method-assign]
    try:
        answer = await ann.ask("PUT", f"/media/{name}", json={"mediaURL": "http://127.0.0.1:1/a"})
    finally:
        Triggers.fire = original  # type: ignore[method-assign]
        await bus.declare(subjects.TRIGGERS)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert await desk.media.find(name) is None
