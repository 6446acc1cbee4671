"""The images service is killed in the middle of its work, and somebody else goes on with it."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping

import pytest

from framemesh.buckets import Bucket
from framemesh.database.marks import Marks
from framemesh.images import image_of, new_image_id, new_key, task_plan, thumbnail_keys
from framemesh.processes import Process
from framemesh.steps.client import Jobs
from framemesh.steps.job import JobStatus
from services.images.cleanup import MARK, Swept
from tests.integration.gateways import Client, Site, ann, site
from tests.integration.stepping import over
from tests.integration.test_images import bulk_form, ended, keys
from tests.pictures import encoded, scene
from tests.samples import until

__all__ = ["ann", "site"]

PICTURES, CORRUPT = 60, {7, 40}
FILES, MINE = 3500, 10


@pytest.fixture(autouse=True)
def own_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("images_bucket", f"images-{secrets.token_hex(4)}")


@pytest.fixture
async def process(site: Site, servers: Mapping[str, str]) -> AsyncIterator[Process]:
    own = {"jobs_database": site.gateway.settings.jobs_database, "images_processes": "1", "routing_ttl": "2"}
    made = Process("images", [sys.executable, "-m", "tests.integration.hasty_images"], env=dict(servers) | own)
    await made.start()
    yield made
    await made.stop()
    await made.close()


async def killed(process: Process) -> None:
    process.signal(signal.SIGKILL)
    await process.wait()
    await process.close()
    await process.start()


async def test_many_pictures_are_all_there_once_when_the_service_is_killed_among_them(
    site: Site, ann: Client, process: Process, jobs: Jobs
) -> None:
    await until(lambda: _known(jobs, "bulk_process_images"), within=30)
    await ann.post("/collections", json={"name": "trip"})
    pictures = [
        (f"{n:03}.jpg", encoded(scene(500, 400, seed=n))[: 900 if n in CORRUPT else None]) for n in range(PICTURES)
    ]
    task = (await ann.post("/bulk_upload", data=bulk_form("trip", pictures))).body["taskId"]

    async def is_begun() -> bool:
        found = (await ann.get("/collections/trip")).body["statistics"]
        return bool(found["images"] >= PICTURES / 3)

    await until(is_begun, within=60)
    await killed(process)
    done = await ended(ann, task)
    assert done["status"] == "done", done
    assert (done["result"]["done"], done["result"]["failed"]) == (PICTURES - len(CORRUPT), len(CORRUPT))
    assert [each["index"] for each in done["result"]["failures"]] == sorted(CORRUPT)
    listed = (await ann.get("/images/trip?limit=1000")).body["images"]
    assert [image["name"] for image in listed] == [
        name for n, (name, _) in enumerate(pictures) if n not in CORRUPT
    ]
    assert {len(image["thumbnails"]) for image in listed} == {6}
    statistics = (await ann.get("/collections/trip")).body["statistics"]
    assert (statistics["images"], statistics["thumbnails"]) == (len(listed), 6 * len(listed))
    assert statistics["bytes"] == sum(image["bytes"] for image in listed)


async def _known(jobs: Jobs, function: str) -> bool:
    return function in await jobs.functions.all()


async def test_a_cleanup_that_is_killed_goes_on_and_deletes_exactly_the_orphans(
    site: Site, ann: Client, process: Process, jobs: Jobs
) -> None:
    await until(lambda: _known(jobs, "cleanup_orphaned_files"), within=30)
    await ann.post("/collections", json={"name": "trip"})
    pictures = [(f"{n}.png", encoded(scene(40, 30, seed=n), "PNG")) for n in range(MINE)]
    await ended(ann, (await ann.post("/bulk_upload", data=bulk_form("trip", pictures))).body["taskId"])
    bucket = site.gateway.desk.bucket
    kept = await keys(bucket)
    assert len(kept) == 7 * MINE
    lost = await _litter(bucket, sorted(kept))
    assert await keys(bucket) == kept | lost
    job = await jobs.submit(task_plan("cleanup_orphaned_files"), {})
    marks = Marks(site.gateway._engine)

    async def has_begun() -> bool:
        noted = await marks.get(MARK)
        return bool(noted and Swept.model_validate_json(noted).key.startswith(job.id))

    await until(has_begun, within=60)
    await killed(process)
    found = await over(jobs, job, within=120)
    assert found.status is JobStatus.DONE, found.error
    assert await keys(bucket) == kept
    swept = found.steps["cleanup_orphaned_files"].output
    assert 0 < swept["deleted"] <= len(lost)
    assert swept["deleted"] >= len(lost) - 1000  # those of the page that it died in are counted by nobody


async def _litter(bucket: Bucket, kept: list[str]) -> set[str]:
    """Files of pictures that there never were, and others beside those that there are."""
    made = {new_key(image_of(key) or "", "jpeg") for key in kept}
    while len(made) < FILES:
        image = new_image_id()
        made |= {new_key(image, "png"), *thumbnail_keys(image)}
    free = asyncio.Semaphore(32)

    async def put(key: str) -> None:
        async with free:
            await bucket.put(key, b"lost", "image/png")

    await asyncio.gather(*(put(key) for key in made))
    return made
