"""Pictures: thumbnails against a bare Pillow loop, uploads, many at once, and the cleanup: ``make bench``.

1. Thumbnails: a loop that anybody would write with Pillow, in this process; then ``generate_thumbnails`` through a
   mesh whose images service has one process for pixels; the loop again. The ratio is to the mean of both. Both
   make the same sizes and formats in the same qualities.
2. Uploads: so many a second with ``async=true``; latency from the request's begin until there are thumbnails.
3. Many: one upload of a thousand pictures, ten of which are cut short; alone, and beside detection on a video,
   whose frames a second are told before it and beside it.
4. Cleanup: so many files in the bucket, half of them no picture's.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import logging
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import psutil
from nats.aio.msg import Msg
from PIL import Image, ImageOps

from benchmarks.meshes import cpu_seconds, temporary_mesh
from framemesh import assets, subjects
from framemesh.blobs import BlobStore
from framemesh.buckets import Bucket
from framemesh.bus import Bus
from framemesh.database.engine import open_database
from framemesh.database.images import ImageTable
from framemesh.database.tokens import TokenTable
from framemesh.embedded import free_port
from framemesh.images import BUCKET, FORMATS, SIZES, new_image_id, new_key, thumbnail_keys
from framemesh.mesh import Mesh
from framemesh.registry import connect as connect_redis
from framemesh.settings import load
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.job import StepTask
from framemesh.steps.plan import Plan
from framemesh.terminal import run_until
from framemesh.tokens import Scope
from services.images.cleanup import cleanup as sweep
from services.images.means import Means
from services.images.pixels import SAVED
from services.images.settings import ImagesSettings

DIFFERENT = 24
"""Pictures that differ; they are taken again and again."""
SHAPES = ((1600, 1200), (800, 600), (2048, 1365), (640, 480))
CUT = 10
WARM_FRAMES, ALONE_S = 20, 8.0
"""After so many frames the live path is measured by itself, for so many seconds."""
THUMBNAILS = Plan.model_validate(
    {
        "name": "thumbnails",
        "steps": {"it": {"function": "generate_thumbnails", "input": {"image": "$input.image"}}},
    }
)
CLEANUP = Plan.model_validate({"name": "cleanup", "steps": {"it": {"function": "cleanup_orphaned_files"}}})


def pictures() -> list[bytes]:
    """JPEG of several sizes, with edges, surfaces and a little noise."""
    made = []
    for number in range(DIFFERENT):
        width, height = SHAPES[number % len(SHAPES)]
        chance = np.random.default_rng(number)
        rough = Image.fromarray(chance.integers(0, 256, (12, 16, 3)).astype(np.uint8))
        smooth = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(smooth + chance.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(noisy).save(out, "JPEG", quality=90)
        made.append(out.getvalue())
    return made


@dataclass(frozen=True)
class Pace:
    """Pictures a second, and a second of the processor's, which others on the machine change less."""

    per_s: float
    per_cpu_s: float


def bare(data: bytes) -> list[bytes]:
    """Thumbnails as anybody would make them."""
    out = []
    for size in SIZES:
        picture: Image.Image = Image.open(io.BytesIO(data))
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
        picture = ImageOps.exif_transpose(picture).convert("RGB")
        for kind in FORMATS:
            file = io.BytesIO()
            picture.save(file, kind.upper(), **SAVED[kind])
            out.append(file.getvalue())
    return out


def bare_rate(samples: list[bytes], seconds: float) -> Pace:
    """How fast the loop is."""
    begun, spent, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begun < seconds:
        bare(samples[count % len(samples)])
        count += 1
    return Pace(count / (time.perf_counter() - begun), count / (time.process_time() - spent))


# -- a mesh -------------------------------------------------------------------------------------------


@dataclass
class Site:
    """A mesh that takes pictures, and somebody who sends them."""

    mesh: Mesh
    bus: Bus
    jobs: Jobs
    table: ImageTable
    session: aiohttp.ClientSession
    base: str

    async def post(self, path: str, **values: Any) -> Any:
        """Send something. Raises RuntimeError for what is not taken."""
        async with self.session.post(self.base + path, **values) as answer:
            body = await answer.json(content_type=None)
            if answer.status >= 300:
                raise RuntimeError(f"{path}: {answer.status} {body}")
            return body


@asynccontextmanager
async def site(processes: int, **settings: str) -> AsyncIterator[Site]:
    """A mesh with so many processes for pixels."""
    async with temporary_mesh() as mesh:
        await mesh.start_servers()
        found = mesh.environment()
        engine = await open_database(found["jobs_database"])
        token = await TokenTable(engine).create("bench", Scope.ADMIN)
        port = free_port()
        await mesh.start_service("jobs")
        await mesh.start_service("images", {"images_processes": str(processes)} | settings)
        await mesh.start_service("gateway", {"gateway_port": str(port), "gateway_uploads": "256"})
        bus = await Bus.connect(found["nats_host"], "bench")
        redis = await connect_redis(found["redis_host"], int(found["redis_port"]))
        jobs = Jobs(bus, redis)
        while "bulk_process_images" not in await jobs.functions.all():
            await asyncio.sleep(0.1)
        headers = {"Authorization": f"Bearer {token}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
            made = Site(mesh, bus, jobs, ImageTable(engine), session, f"http://127.0.0.1:{port}")
            await listening(made)
            await made.post("/collections", json={"name": "bench"})
            yield made
        await redis.aclose()
        await bus.close()
        await engine.dispose()


async def listening(made: Site) -> None:
    while True:
        try:
            async with made.session.get(made.base + "/healthz"):
                return
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)


def one(name: str, data: bytes) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("collection", "bench")
    form.add_field("async", "true")
    form.add_field("file", io.BytesIO(data), filename=name)
    return form


class Ends:
    """When jobs end, as everybody can hear it."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.failed: list[str] = []

    async def hear(self, msg: Msg) -> None:
        """Take in an update."""
        said = json.loads(msg.data)
        if said.get("status") in {"done", "failed"}:
            job = msg.subject.rpartition(".")[2]
            self.at.setdefault(job, time.perf_counter())
            self.failed += [job] if said["status"] == "failed" else []


# -- what is measured ---------------------------------------------------------------------------------


async def thumbnails(samples: list[bytes], seconds: float) -> dict[str, float]:
    """Pictures a second: the loop, one process of the mesh, the loop."""
    before = bare_rate(samples, seconds / 2)
    async with site(1) as made:
        for number, data in enumerate(samples):
            await made.post("/file_upload", data=one(f"{number}.jpg", data))
        while len(images := await made.table.page("bench", limit=1000)) < len(samples):
            await asyncio.sleep(0.1)
        ends = Ends()
        await made.bus.client.subscribe(subjects.job_updates(), cb=ends.hear)
        under_way = asyncio.Semaphore(6)

        async def again(number: int) -> None:
            async with under_way:
                image = images[number % len(images)].id
                job = await made.jobs.submit(THUMBNAILS, {"image": image}, owner="bench")
                while job.id not in ends.at:
                    await asyncio.sleep(0.005)

        await asyncio.gather(*(again(number) for number in range(12)))
        count = int(before.per_s * seconds)
        begun, spent = time.perf_counter(), images_cpu(made.mesh)
        await asyncio.gather(*(again(number) for number in range(count)))
        ours = Pace(count / (time.perf_counter() - begun), count / (images_cpu(made.mesh) - spent))
        if ends.failed:
            raise RuntimeError(f"{len(ends.failed)} failed")
    after = bare_rate(samples, seconds / 2)
    told = dict[str, float]()
    for name in ("per_s", "per_cpu_s"):
        first, mesh, last = (getattr(pace, name) for pace in (before, ours, after))
        told |= {
            f"bare_{name}": round(first, 1),
            f"mesh_{name}": round(mesh, 1),
            f"bare_again_{name}": round(last, 1),
        }
        told[f"ratio_{name}"] = round(mesh / statistics.fmean((first, last)), 2)
    return told


def images_cpu(mesh: Mesh) -> float:
    """Seconds of the processor that the images service and its processes have used."""
    service = psutil.Process(mesh.services["images"].process.pid)
    return sum(cpu_seconds(each) for each in (service, *service.children(recursive=True)))


async def uploads(samples: list[bytes], rate: float, seconds: float) -> dict[str, float]:
    """Milliseconds from the begin of an upload to its thumbnails."""
    async with site(psutil.cpu_count() or 1) as made:
        ends = Ends()
        await made.bus.client.subscribe(subjects.job_updates(), cb=ends.hear)
        begun: dict[str, float] = {}

        async def send(number: int) -> None:
            at = time.perf_counter()
            said = await made.post("/file_upload", data=one(f"{number}.jpg", samples[number % len(samples)]))
            begun[said["taskId"]] = at

        for number in range(8):  # until the processes are there
            await send(-1 - number)
        while len(ends.at) < 8:
            await asyncio.sleep(0.05)
        begun.clear()
        count, start = int(rate * seconds), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(max(0, start + number / rate - time.perf_counter()))
                group.create_task(send(number))
        while not set(begun) <= set(ends.at):
            await asyncio.sleep(0.1)
        if ends.failed:
            raise RuntimeError(f"{len(ends.failed)} failed")
        took = sorted(1000 * (ends.at[job] - at) for job, at in begun.items())
        last = max(ends.at[job] for job in begun) - start
    return {
        "asked_per_s": rate, "done_per_s": round(count / last, 1), "p50_ms": round(statistics.median(took)),
        "p99_ms": round(took[int(0.99 * len(took))]),
    }  # fmt: skip


async def many(samples: list[bytes], count: int, *, live: bool) -> dict[str, Any]:
    """One upload of so many."""
    async with site(psutil.cpu_count() or 1) as made:
        frames = Frames()
        if live:
            await frames.follow(made.bus)
            await start_live(made.mesh)
            alone = await frames.alone()
        form = aiohttp.FormData()
        form.add_field("collection", "bench")
        cut = {number * count // CUT for number in range(CUT)}
        for number in range(count):
            data = samples[number % len(samples)]
            form.add_field("files[]", io.BytesIO(data[:1000] if number in cut else data), filename=f"{number}.jpg")
        begun, seen = time.perf_counter(), frames.count
        task = (await made.post("/bulk_upload", data=form))["taskId"]
        uploaded = time.perf_counter() - begun
        while True:
            async with made.session.get(f"{made.base}/task/status/{task}") as answer:
                said = await answer.json()
            if said["status"] in {"done", "failed"}:
                break
            if live and not made.mesh.services["reader"].ended:
                filmed = time.perf_counter() - begun
            await asyncio.sleep(0.2)
        seconds = time.perf_counter() - begun
        beside = (frames.count - seen) / filmed if live else 0.0
        result = said["result"] or {"done": 0, "failed": 0, "failures": []}
        if {each["index"] for each in result["failures"]} != cut:
            raise RuntimeError(f"other pictures failed than were cut: {said}")
        if live and not beside:
            raise RuntimeError("the live path stood still beside it")
    told = {"live_alone_per_s": round(alone, 1), "live_beside_per_s": round(beside, 1)} if live else {}
    return told | {
        "done": result["done"], "failed": result["failed"], "listed": len(result["failures"]),
        "upload_s": round(uploaded, 1), "all_s": round(seconds, 1), "per_s": round(count / seconds, 1),
    }  # fmt: skip


class Frames:
    """Frames of the live path in which detection has looked for something."""

    def __init__(self) -> None:
        self.count = 0

    async def follow(self, bus: Bus) -> None:
        """Count them from now on."""
        await bus.client.subscribe(subjects.RESULTS_FEED, cb=self._hear)

    async def _hear(self, msg: Msg) -> None:
        self.count += 1

    async def alone(self) -> float:
        """How many a second there are, after the first ones."""
        while self.count < WARM_FRAMES:
            await asyncio.sleep(0.1)
        before = self.count
        await asyncio.sleep(ALONE_S)
        return (self.count - before) / ALONE_S


async def start_live(mesh: Mesh) -> None:
    """Detection on a video, as fast as it is filmed."""
    for name in ("uploader", "router", "detection"):
        await mesh.start_service(name)
    clip = await asyncio.to_thread(assets.resolve, "people")
    settings = {"video_source": str(clip.path), "source": "gate", "delivery": "live", "reader_type": "av"}
    await mesh.start_service("reader", settings)


async def cleanup(count: int) -> dict[str, Any]:
    """Half of so many files are no picture's."""
    async with site(1) as made:
        found = made.mesh.environment()
        bucket = Bucket(found["s3_url"], BUCKET)
        kept, lost = set[str](), set[str]()
        data = pictures()[3]
        for number in range(20):
            await made.post("/file_upload", data=one(f"{number}.jpg", data))
        while (await made.table.collection("bench")).statistics.thumbnails < 120:
            await asyncio.sleep(0.1)
        async for page in bucket.pages():
            kept |= {entry.key for entry in page}
        while len(lost) < count - len(kept):
            image = new_image_id()
            lost |= {new_key(image, "jpeg"), *thumbnail_keys(image)}
        await put_all(bucket, lost)
        young = (await made.jobs.wait((await made.jobs.submit(CLEANUP, {}, owner="bench")).id)).steps["it"].output
        if young["deleted"]:
            raise RuntimeError(f"the cleanup took young files: {young}")
        means = await Means.open(load(ImagesSettings, **found))
        object.__setattr__(means.settings, "images_grace", -5.0)
        begun = time.perf_counter()
        swept = await swept_by(means, found["master_url"])
        seconds = time.perf_counter() - begun
        await means.close()
        left = {entry.key async for page in bucket.pages() for entry in page}
        if left != kept:
            raise RuntimeError(f"{len(left - kept)} orphans are left, {len(kept - left)} files are lost")
    return {"files": count, "young": young["young"], "deleted": swept["deleted"], "seconds": round(seconds, 1)}


async def swept_by(means: Means, master: str) -> dict[str, Any]:
    async def say(percent: float, text: str) -> None:
        pass

    task = StepTask(job="bench", step="it", attempt=1, function="cleanup_orphaned_files")
    async with BlobStore(master) as blobs:
        return await sweep(Context.of(task, logging.getLogger("bench"), blobs, say), means)


async def put_all(bucket: Bucket, keys: set[str]) -> None:
    free = asyncio.Semaphore(64)

    async def put(key: str) -> None:
        async with free:
            await bucket.put(key, b"x", "image/jpeg")

    waiting = list(keys)
    for start in range(0, len(waiting), 2000):
        await asyncio.gather(*(put(key) for key in waiting[start : start + 2000]))


# -- all of it ----------------------------------------------------------------------------------------


async def measure(asked: argparse.Namespace, tell: Callable[[str, Any], None]) -> dict[str, Any]:
    """What was asked for, by name."""
    samples = pictures()
    work: dict[str, Callable[[], Any]] = {
        "thumbnails": lambda: thumbnails(samples, asked.seconds),
        "uploads": lambda: uploads(samples, asked.rate, asked.seconds),
        "many": lambda: many(samples, asked.pictures, live=False),
        "many beside the live path": lambda: many(samples, asked.pictures, live=True),
        "cleanup": lambda: cleanup(asked.files),
    }
    found = {}
    for name, each in work.items():
        if asked.only in {None, name}:
            found[name] = await each()
            tell(name, found[name])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long thumbnails and uploads are measured")
    parser.add_argument("--rate", type=float, default=50.0, help="uploads a second")
    parser.add_argument("--pictures", type=int, default=1000, help="pictures of one upload")
    parser.add_argument("--files", type=int, default=100_000, help="files that the cleanup goes through")
    parser.add_argument("--only", help="one of: thumbnails, uploads, many, cleanup, 'many beside the live path'")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    asked = parser.parse_args()

    def tell(name: str, told: Any) -> None:
        if not asked.json:
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in told.items()), flush=True)

    found = run_until(measure(asked, tell))
    if asked.json:
        print(json.dumps({"cpus": psutil.cpu_count(), **found}))


if __name__ == "__main__":
    main()
