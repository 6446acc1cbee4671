"""Pictures as clients see them: the images service and a gateway on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import FormData
from aiohttp.payload import BytesIOPayload
from sqlalchemy import update

from framemesh import subjects
from framemesh.blobs import BlobMissing
from framemesh.buckets import Bucket
from framemesh.bus import Bus
from framemesh.database.images import Image
from framemesh.database.tables import StatisticsRow
from framemesh.images import image_of, new_image_id, new_key, task_plan, thumbnail_keys
from framemesh.registry import Registry
from framemesh.steps import files
from framemesh.steps.client import Jobs
from framemesh.steps.job import Job, JobStatus
from framemesh.steps.schedules import Schedule, Schedules
from services.images import means as opened_means
from services.images.means import Means
from services.images.settings import ImagesSettings
from services.images.worker import Images
from tests.integration.gateways import Answer, Client, Site, ann, bob, projecting, site
from tests.integration.stepping import at_work, one, over
from tests.pictures import encoded, gps, opened, png_bomb, scene
from tests.samples import until
from tests.unit.test_labels import TRAVERSALS

__all__ = ["ann", "bob", "site"]

JPEG = encoded(scene(320, 240))
HEAVY = [(f"{n:03}.jpg", encoded(scene(900, 700))) for n in range(200)]
BUCKET = f"images-{secrets.token_hex(4)}"
"""Of this run: other tests may keep pictures, too."""


@pytest.fixture(autouse=True)
def own_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("images_bucket", BUCKET)


@pytest.fixture
async def service(site: Site, bus: Bus, registry: Registry, servers: Mapping[str, str]) -> AsyncIterator[Images]:
    settings = ImagesSettings(
        **servers,  # type: ignore[arg-type]
        instance=f"images-{secrets.token_hex(3)}",
        jobs_database=site.gateway.settings.jobs_database,
        images_processes=2,
        images_max_megapixels=2,
    )
    async with at_work(Images(settings, bus, registry)) as made:
        yield made


@pytest.fixture
async def means(service: Images) -> Means:
    return await opened_means.means()


@pytest.fixture
async def album(ann: Client) -> str:
    """A collection of ann's."""
    name = f"album-{secrets.token_hex(4)}"
    assert (await ann.post("/collections", json={"name": name})).status == 201
    return name


def form(data: bytes, filename: str = "a.jpg", /, **texts: str) -> FormData:
    made = FormData(quote_fields=False)  # as browsers and curl write names
    for text, value in texts.items():
        made.add_field(text, value)
    made.add_field("file", io.BytesIO(data), filename=filename, content_type="application/octet-stream")
    return made


async def upload(client: Client, album: str, data: bytes = JPEG, name: str = "a.jpg", **texts: str) -> Answer:
    given = {"collection": album, "name": name} | texts
    return await client.post("/file_upload", data=form(data, "x", **given))


def bulk_form(album: str, pictures: list[tuple[str, bytes]]) -> BytesIOPayload:
    """As browsers send it; names may be of any bytes (surrogateescape)."""
    mark = secrets.token_hex(16)
    body = b"".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="files[]"; filename="{name}"\r\n\r\n'.encode(
            errors="surrogateescape"
        ) + data + b"\r\n"
        for name, data in pictures
    )  # fmt: skip
    body += f'--{mark}\r\nContent-Disposition: form-data; name="collection"\r\n\r\n{album}\r\n--{mark}--'.encode()
    return BytesIOPayload(io.BytesIO(body), content_type=f"multipart/form-data; boundary={mark}")


async def ended(client: Client, task: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def over() -> bool:
        found.update((await client.get(f"/task/status/{task}")).body)
        return found["status"] in {"done", "failed", "cancelled"}

    await until(over, within=60)
    return found


async def get(client: Client, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    async with client.session.get(client.base + path, headers=client.headers | headers) as answer:
        return answer.status, answer.headers, await answer.read()


async def keys(bucket: Bucket) -> set[str]:
    return {entry.key async for page in bucket.pages() for entry in page}


# -- one picture --------------------------------------------------------------------------------------


async def test_a_picture_is_stored_recorded_and_has_its_thumbnails(
    ann: Client, album: str, service: Images, jobs: Jobs, means: Means
) -> None:
    data = encoded(scene(800, 400), exif=gps(6))
    answer = await upload(ann, album, data, "Käse.jpg")
    assert answer.status == 201, answer
    image = answer.body["result"]["image"]
    assert (image["name"], image["width"], image["height"], image["type"]) == ("Käse.jpg", 400, 800, "jpeg")
    assert len(answer.body["result"]["thumbnails"]) == 6
    status, headers, body = await get(ann, f"/images/{album}/{quote('Käse.jpg')}")
    assert status == 200
    assert hashlib.sha256(body).hexdigest() == image["sha256"]
    assert b"SecretCamera" not in body
    assert headers["Content-Disposition"] == "inline; filename*=UTF-8''K%C3%A4se.jpg"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    for size, shape in ((150, (75, 150)), (300, (150, 300)), (600, (300, 600))):
        for accepted, kind in (("image/webp,*/*", "WEBP"), ("*/*", "JPEG")):
            _, headers, body = await get(ann, f"/images/{album}/{quote('Käse.jpg')}?size={size}", Accept=accepted)
            picture = opened(body)
            assert (picture.format, picture.size, headers["Vary"]) == (kind, shape, "Accept")
            assert headers["Content-Type"] == f"image/{kind.lower()}"
    document = (await ann.get(f"/collections/{album}")).body["statistics"]
    found = (await ann.get(f"/images/{album}")).body["images"][0]
    assert (document["images"], document["bytes"], document["thumbnails"]) == (1, image["bytes"], 6)
    assert document["thumbnailBytes"] == sum(each["bytes"] for each in found["thumbnails"])
    assert await left(service, jobs, ann) == []


async def test_who_has_a_picture_already_is_not_sent_it_again(ann: Client, album: str, service: Images) -> None:
    await upload(ann, album)
    for query in ("", "?size=150", "?size=300&format=webp"):
        path = f"/images/{album}/a.jpg{query}"
        _, headers, _ = await get(ann, path)
        assert headers["Cache-Control"] == "private, max-age=3600"
        tag = headers["ETag"]
        for given in (tag, f'"x", {tag}', f"W/{tag}", "*"):
            status, again, body = await get(ann, path, **{"If-None-Match": given})
            assert (status, again["ETag"], body) == (304, tag, b"")
        status, _, body = await get(ann, path, **{"If-None-Match": '"another"'})
        assert status == 200
        assert body
    tags = {(await get(ann, f"/images/{album}/a.jpg?size={size}"))[1]["ETag"] for size in (150, 300)}
    assert len(tags) == 2


async def test_an_upload_in_the_background_is_answered_at_once(ann: Client, album: str, service: Images) -> None:
    answer = await ann.post("/file_upload", data=form(JPEG, "später.jpg", collection=album, **{"async": "true"}))
    assert answer.status == 202
    task = answer.body["taskId"]
    assert answer.headers["Location"] == f"/task/status/{task}"
    assert (await ended(ann, task))["result"]["image"]["name"] == "später.jpg"


async def test_a_name_that_looks_like_a_path_is_refused_wherever_it_stands(
    ann: Client, album: str, service: Images, means: Means
) -> None:
    before = await keys(means.bucket)
    for name in TRAVERSALS:
        await refused(ann, album, name)
    assert await keys(means.bucket) == before
    assert (await ann.get(f"/images/{album}")).body["images"] == []


async def refused(ann: Client, album: str, name: str) -> None:
    """In the form, as the collection's, and in paths."""
    text = name.encode("utf-8", "surrogatepass")
    body = FormData(quote_fields=False)
    body.add_field("collection", album)
    body.add_field("name", io.BytesIO(text), content_type="text/plain")
    body.add_field("file", io.BytesIO(JPEG), filename="a.jpg")
    answer = await ann.post("/file_upload", data=body)
    assert (answer.status, answer.body["field"]) == (400, "name"), answer
    wrong = await ann.post("/file_upload", data=form(JPEG, collection=name.encode("utf-8", "replace").decode()))
    assert wrong.status == 400
    assert wrong.body["field"] == "collection"
    if name and "\0" not in name and "\ud800" not in name:
        for path in (f"/images/{album}/{quote(name, safe='')}", f"/images/{quote(name, safe='')}/a.jpg"):
            status, _, _ = await get(ann, path)
            assert status in {400, 404}


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"", 400, "file: the file is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", 415, "neither JPEG, PNG"),
        (b"%PDF-1.7\xff\xd8\xff", 415, "whatever its name says"),
        (JPEG[:-400], 400, "file: it ends before its picture does"),
        (JPEG[:300] + b"\xff" * 3000, 400, "file: "),
        (png_bomb(), 400, "file: 60000 x 60000 pixels, 2 million are allowed"),
        (encoded(scene(1600, 1400)), 400, "file: 1600 x 1400 pixels, 2 million are allowed"),
    ],
    ids=["empty", "svg", "pdf", "truncated", "damaged", "bomb", "too many pixels"],
)  # fmt: skip
async def test_a_file_that_is_no_picture_is_refused_and_leaves_nothing(
    ann: Client, album: str, service: Images, means: Means, jobs: Jobs, data: bytes, status: int, said: str
) -> None:
    before = await keys(means.bucket)
    answer = await upload(ann, album, data)
    assert (answer.status, answer.body["field"]) == (status, "file"), answer
    assert said in answer.body["detail"]
    assert await keys(means.bucket) == before
    assert (await ann.get(f"/collections/{album}")).body["statistics"]["images"] == 0
    assert await left(service, jobs, ann) == []


async def left(service: Images, jobs: Jobs, ann: Client) -> list[str]:
    """What was uploaded for ann's jobs, and is still there."""
    read = jobs.store.bus.read(subjects.JOBS.name, subjects.job_state("*"), 1, Job)
    given = [stored.message.input async for stored in read if stored.message.owner == ann.name]
    uploads = [str(each.get("upload") or each["files"]) for each in given]
    return [address for address in uploads if await lies(service, address)]


async def lies(service: Images, address: str) -> bool:
    try:
        return bool(await files.get(service._blobs, address))
    except BlobMissing:
        return False


async def test_of_two_of_one_name_at_once_the_first_is_kept(
    ann: Client, album: str, service: Images, means: Means, jobs: Jobs
) -> None:
    answers = await asyncio.gather(*(upload(ann, album, encoded(scene(90, 60, seed=n))) for n in range(2)))
    answers += await asyncio.gather(*(upload(ann, album, encoded(scene(90, 60, seed=n))) for n in range(2)))
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409]
    assert {answer.body.get("field") for answer in answers} == {None, "name"}
    lying = {key for key in await keys(means.bucket) if await _is_of(means, key, album)}
    assert len(lying) == 7
    assert await left(service, jobs, ann) == []
    assert (await ann.get(f"/collections/{album}")).body["statistics"]["images"] == 1


async def _is_of(means: Means, key: str, album: str) -> bool:
    image = await means.table.get(image_of(key) or "")
    return image is not None and image.collection == album


async def test_what_is_not_there_is_named(ann: Client, album: str, service: Images) -> None:
    answer = await upload(ann, "nowhere")
    assert (answer.status, answer.body["field"]) == (404, "collection")
    assert "POST /collections" in answer.body["detail"]
    answer = await ann.post("/bulk_upload", data=bulk_form("nowhere", [("a.jpg", JPEG)]))
    assert (answer.status, answer.body["field"]) == (404, "collection")
    for path in (f"/images/{album}/b.jpg", "/images/nowhere/a.jpg", "/images/nowhere", "/collections/nowhere"):
        assert (await ann.get(path)).status == 404
    assert (await ann.get("/task/status/nothing")).status == 404
    assert (await ann.get(f"/images/{album}/b.jpg?size=200")).body["field"] == "size"
    assert (await ann.post("/file_upload", json={})).status == 415
    answer = await ann.post("/file_upload", data=form(JPEG, collection=album, sync="yes"))
    assert "'sync' is no field of the form; it takes: file, collection, name, async" in answer.body["detail"]


@pytest.mark.filterwarnings("ignore:unread_data:DeprecationWarning")  # aiohttp's, of what it calls itself
async def test_a_file_over_the_limit_is_refused_while_it_is_read(
    site: Site, ann: Client, album: str, service: Images
) -> None:
    site.gateway.settings.images_max_mb = 1
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield (
            b'--x\r\nContent-Disposition: form-data; name="collection"\r\n\r\n' + album.encode()
            + b'\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + JPEG
        )  # fmt: skip
        while sent < 512 << 20:
            sent += 1 << 20
            yield bytes(1 << 20)

    headers = ann.headers | {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        async with ann.session.post(f"{ann.base}/file_upload", data=endless(), headers=headers) as answer:
            assert answer.status == 413
            assert (await answer.json())["field"] == "file"
    except (aiohttp.ClientError, ConnectionError):
        pass  # it is cut off before it has read the answer
    assert sent < 64 << 20
    too_large = await upload(ann, album, JPEG + bytes(3 << 20))
    assert too_large.status == 413
    assert "images_max_mb" in too_large.body["detail"]


async def test_a_client_that_hangs_is_let_go_and_leaves_nothing(
    ann: Client, album: str, service: Images, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.patience.MOST_S", 0.5)
    before = await keys(means.bucket)

    async def hanging() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + JPEG[:2000]
        await asyncio.sleep(60)

    headers = ann.headers | {"Content-Type": "multipart/form-data; boundary=x"}
    async with ann.session.post(f"{ann.base}/file_upload", data=hanging(), headers=headers) as answer:
        assert answer.status == 400
        assert "send the request again" in (await answer.json())["detail"]
    assert await keys(means.bucket) == before
    assert (await ann.get(f"/images/{album}")).body["images"] == []


async def test_what_is_anothers_is_seen_but_not_deleted(
    ann: Client, bob: Client, album: str, service: Images
) -> None:
    await upload(ann, album)
    assert (await get(bob, f"/images/{album}/a.jpg"))[0] == 200
    assert (await bob.ask("DELETE", f"/images/{album}/a.jpg")).status == 403
    assert (await bob.ask("DELETE", f"/collections/{album}?force=true")).status == 403
    assert (await bob.post("/collections", json={"name": album})).status == 409


async def test_a_deleted_picture_is_gone_with_all_its_files(
    ann: Client, album: str, service: Images, means: Means
) -> None:
    await upload(ann, album)
    image = await means.table.find(album, "a.jpg")
    assert image
    mine = {image.key, *thumbnail_keys(image.id)}
    assert mine <= await keys(means.bucket)
    assert (await ann.ask("DELETE", f"/collections/{album}")).status == 409
    assert (await ann.ask("DELETE", f"/images/{album}/a.jpg")).status == 204
    assert not mine & await keys(means.bucket)
    assert (await ann.get(f"/images/{album}/a.jpg")).status == 404
    statistics = (await ann.get(f"/collections/{album}")).body["statistics"]
    assert [statistics[name] for name in ("images", "bytes", "thumbnails", "thumbnailBytes")] == [0, 0, 0, 0]
    assert (await upload(ann, album)).status == 201  # the name is free again
    assert (await ann.ask("DELETE", f"/collections/{album}?force=true")).status == 204
    assert (await ann.get(f"/collections/{album}")).status == 404


async def test_lists_are_told_in_parts(ann: Client, album: str, service: Images) -> None:
    names = ["%41.jpg", "...", "50%25.jpg", "a+b c.jpg", "q?x=1&y#z.jpg", "写真.webp"]
    for name in names:
        assert (await upload(ann, album, name=name)).status == 201
        async with ann.session.head(
            f"{ann.base}/images/{album}/{quote(name, safe='')}", headers=ann.headers
        ) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
    found, after = list[str](), ""
    while page := (await ann.get(f"/images/{album}?limit=2&after={quote(after, safe='')}")).body["images"]:
        found += [image["name"] for image in page]
        after = found[-1]
    assert (await ann.get(f"/images/{album}?after=%00")).body["field"] == "after"
    assert found == names
    listed = (await ann.get("/collections?limit=1000")).body["collections"]
    assert album in [each["name"] for each in listed]


# -- tasks --------------------------------------------------------------------------------------------


async def test_tasks_are_listed_while_they_are_active_and_leave_nothing_when_they_are_cancelled(
    site: Site, ann: Client, bob: Client, album: str, service: Images, bus: Bus, registry: Registry,
    servers: Mapping[str, str], jobs: Jobs,
) -> None:  # fmt: skip
    await pause(service, jobs, "generate_thumbnails")
    try:
        async with projecting(site, bus, registry, servers):
            tasks = [
                (await ann.post("/file_upload", data=form(JPEG, collection=album, **{"async": "true"}))).body[
                    "taskId"
                ],
                (await ann.post("/bulk_upload", data=bulk_form(album, HEAVY))).body["taskId"],
            ]

            async def active(client: Client) -> set[str]:
                return {each["taskId"] for each in (await client.get("/tasks/active")).body["tasks"]}

            async def at_it() -> bool:
                """The one waits for its thumbnails, the other is in the midst of its pictures."""
                return set(tasks) <= await active(ann) and len(await _names(ann, album)) >= 9

            await until(at_it)
            assert not set(tasks) & await active(bob)
            for task in tasks:
                assert (await bob.post(f"/task/cancel/{task}")).status == 404
                cancelled = await ann.post(f"/task/cancel/{task}")
                assert (cancelled.status, cancelled.body["status"]) == (200, "cancelled")

            async def gone() -> bool:
                return not set(tasks) & await active(ann) and await left(service, jobs, ann) == []

            await until(gone)
    finally:
        await jobs.functions.change("generate_thumbnails", paused=False)
    listed = (await ann.get(f"/images/{album}")).body["images"]
    assert {len(image["thumbnails"]) for image in listed} == {6}
    assert "a.jpg" not in [image["name"] for image in listed]
    assert len(listed) < len(HEAVY)
    assert (await ann.get(f"/collections/{album}")).body["statistics"]["images"] == len(listed)


async def _names(client: Client, album: str) -> set[str]:
    return {image["name"] for image in (await client.get(f"/images/{album}")).body["images"]}


async def pause(service: Images, jobs: Jobs, function: str) -> None:
    """Pause a function, and wait until the service knows."""
    await jobs.functions.change(function, paused=True)
    places = [each.name for each in service.functions]

    async def known() -> bool:
        return service._switches[places.index(function)].state.paused

    await until(known)


async def test_nothing_stays_of_a_file_that_was_not_stored_to_its_end(
    means: Means, servers: Mapping[str, str]
) -> None:
    for seconds in (0.01, 0.03, 0.1):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await means.bucket.put(new_key(new_image_id(), "png"), bytes(24 << 20), "image/png")
    async with aiohttp.ClientSession() as session, session.get(means.bucket.url("") + "?uploads") as answer:
        assert "<Upload>" not in await answer.text()


async def test_of_many_pictures_those_that_fail_are_listed(ann: Client, album: str, service: Images) -> None:
    pictures = [(f"{n:02}.jpg", encoded(scene(100, 80, seed=n))) for n in range(20)]
    pictures[3] = ("03.jpg", JPEG[:500])
    pictures[7] = ("07.svg", b"<svg/>")
    pictures[8] = ("08.jpg", b"")
    pictures[9] = ("05.jpg", JPEG)
    pictures[11] = ("..%2f11.jpg", JPEG)
    pictures[12] = ("\udcff\udcfe.jpg", JPEG)  # bytes that are no UTF-8
    answer = await ann.post("/bulk_upload", data=bulk_form(album, pictures))
    assert answer.status == 202, answer
    done = await ended(ann, answer.body["taskId"])
    assert done["status"] == "done", done
    result = done["result"]
    assert (result["done"], result["failed"]) == (14, 6)
    said = {each["index"]: each["error"] for each in result["failures"]}
    assert sorted(said) == [3, 7, 8, 9, 11, 12]
    assert "ends before its picture" in said[3]
    assert "neither JPEG" in said[7]
    assert "empty" in said[8]
    assert "another file of this upload" in said[9]
    assert "no path" in said[11]
    assert len((await ann.get(f"/images/{album}")).body["images"]) == 14
    again = await ended(ann, (await ann.post("/bulk_upload", data=bulk_form(album, pictures[:3]))).body["taskId"])
    assert (again["result"]["done"], again["result"]["failed"]) == (0, 3)
    assert "has an image 00.jpg" in again["result"]["failures"][0]["error"]


async def test_more_failures_than_a_job_holds_are_told_all_the_same(
    ann: Client, album: str, service: Images
) -> None:
    pictures = [(f"{n:04}-{'ü' * 150}.jpg", b"no") for n in range(300)]
    answer = await ann.post("/bulk_upload", data=bulk_form(album, pictures))
    result = (await ended(ann, answer.body["taskId"]))["result"]
    assert (result["done"], result["failed"], len(result["failures"])) == (0, 300, 300)
    assert "report" not in result


# -- by the clock -------------------------------------------------------------------------------------


async def task(jobs: Jobs, function: str) -> Any:
    job = await over(jobs, await jobs.submit(task_plan(function), {}), within=60)
    assert job.status is JobStatus.DONE, job
    return job.steps[function].output


async def orphaned(means: Means, count: int) -> set[str]:
    made = {new_key(new_image_id(), "jpeg") for _ in range(count)}
    await asyncio.gather(*(means.bucket.put(key, b"x", "image/jpeg") for key in made))
    return made


async def test_the_cleanup_deletes_what_is_no_pictures_and_old_enough(
    ann: Client, album: str, means: Means, jobs: Jobs
) -> None:
    await upload(ann, album)
    lost = await orphaned(means, 30)
    before = await keys(means.bucket)
    assert lost <= before
    assert (await task(jobs, "cleanup_orphaned_files"))["deleted"] == 0
    assert await keys(means.bucket) == before  # all of them are young
    await means.bucket.put("of-somebody-else.txt", b"x", "text/plain")
    object.__setattr__(means.settings, "images_grace", -5.0)
    told = await task(jobs, "cleanup_orphaned_files")
    assert told["strange"] >= 1
    left = await keys(means.bucket)
    assert not lost & left
    assert "of-somebody-else.txt" in left
    assert {key for key in before if await _is_of(means, key, album)} <= left
    assert told["deleted"] == len(before - left)
    status, _, _ = await get(ann, f"/images/{album}/a.jpg?size=300")
    assert status == 200


async def test_statistics_that_went_wrong_are_put_right(ann: Client, album: str, means: Means, jobs: Jobs) -> None:
    await upload(ann, album)
    right = (await ann.get(f"/collections/{album}")).body["statistics"]
    async with means.engine.begin() as connection:
        await connection.execute(update(StatisticsRow).values(images=77, bytes=1, thumbnails=0, thumbnail_bytes=9))
    assert (await task(jobs, "update_collection_stats"))["collections"] >= 1
    assert (await ann.get(f"/collections/{album}")).body["statistics"] | {"updated": 0} == right | {"updated": 0}


async def test_a_wasteful_picture_is_made_smaller_once(ann: Client, album: str, means: Means, jobs: Jobs) -> None:
    smooth = scene(400, 300).resize((1200, 900))
    await upload(ann, album, encoded(smooth, quality=99))
    await upload(ann, album, encoded(scene(300, 200), quality=20, optimize=True), "b.jpg")
    before = await means.table.find(album, "a.jpg")
    other = await means.table.find(album, "b.jpg")
    assert before
    assert other
    told = await task(jobs, "optimize_images")
    after = await means.table.find(album, "a.jpg")
    assert after
    assert told["smaller"] >= 1
    assert after.bytes < before.bytes
    assert after.key != before.key
    status, headers, body = await get(ann, f"/images/{album}/a.jpg")
    assert (status, len(body), headers["ETag"]) == (200, after.bytes, f'"{after.sha256[:32]}"')
    assert (await get(ann, f"/images/{album}/a.jpg", **{"If-None-Match": f'"{before.sha256[:32]}"'}))[0] == 200
    unchanged = await means.table.find(album, "b.jpg")
    assert unchanged
    assert unchanged.key == other.key
    statistics = (await ann.get(f"/collections/{album}")).body["statistics"]
    assert statistics["bytes"] == after.bytes + other.bytes
    assert (await task(jobs, "optimize_images"))["images"] == 0
    assert await means.bucket.get(before.key)  # who is just reading it reads on; the cleanup deletes it
    await means.bucket.delete([after.key])
    gone = await ann.get(f"/images/{album}/a.jpg")
    assert (gone.status, gone.body["field"]) == (404, "name")


async def test_schedules_are_made_once_and_what_a_user_makes_of_them_stays(
    site: Site, bus: Bus, registry: Registry, servers: Mapping[str, str]
) -> None:
    schedules = Schedules(bus)
    for name in ("images-cleanup", "images-statistics", "images-optimize"):
        await bus.purge(subjects.JOBS.name, subjects.job_schedule(name))
    settings = ImagesSettings(**servers, instance="i", jobs_database=site.gateway.settings.jobs_database)  # type: ignore[arg-type]
    async with at_work(Images(settings, bus, registry)):
        made = {each.name: each.cron for each in await schedules.all() if each.name.startswith("images-")}
    assert made == {
        "images-cleanup": "0 0 * * *",
        "images-statistics": "0 * * * *",
        "images-optimize": "0 6 * * *",
    }
    await schedules.remove("images-optimize")
    changed = Schedule(name="images-cleanup", cron="0 3 * * *", plan=task_plan("cleanup_orphaned_files"))
    await schedules.put(changed)
    async with at_work(Images(settings, bus, registry)):
        again = {each.name: each.cron for each in await schedules.all() if each.name.startswith("images-")}
    assert again == {"images-cleanup": "0 3 * * *", "images-statistics": "0 * * * *"}


async def test_a_schedule_of_a_user_that_was_there_first_is_kept(
    site: Site, bus: Bus, registry: Registry, servers: Mapping[str, str]
) -> None:
    schedules = Schedules(bus)
    own = Schedule(name="images-cleanup", cron="0 4 * * *", plan=task_plan("cleanup_orphaned_files"))
    await schedules.put(own)
    assert await schedules.add(own.model_copy(update={"cron": "0 0 * * *"})) is False
    settings = ImagesSettings(**servers, instance="i", jobs_database=site.gateway.settings.jobs_database)  # type: ignore[arg-type]
    async with at_work(Images(settings, bus, registry)):
        assert (await schedules.get("images-cleanup")).cron == "0 4 * * *"


# -- records ------------------------------------------------------------------------------------------


def recorded(album: str, task: str) -> Image:
    new = new_image_id()
    return Image(
        new, album, "a.png", "ann", new_key(new, "png"), "png", 5, 1, 1, False, "0" * 64, time.time(), task
    )


async def test_two_tries_of_a_task_record_one_picture_which_is_forgotten_when_it_gets_no_thumbnails(
    album: str, means: Means, jobs: Jobs
) -> None:
    first = await means.table.add(recorded(album, "job/step"))
    assert await means.table.add(recorded(album, "job/step")) == first
    assert (await means.table.recount(album)).images == 1
    await means.bucket.put(first.key, b"no picture", "image/png")
    plan = one("generate_thumbnails", input={"image": "$input.image"})
    job = await over(jobs, await jobs.submit(plan, {"image": first.id}))
    assert (job.status, job.error) == (JobStatus.FAILED, "it: file: it is damaged: send another")
    assert (await means.table.collection(album)).statistics.images == 0
    assert first.key not in await keys(means.bucket)
