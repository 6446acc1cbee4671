"""Whoever makes media is killed, in the middle of whatever: each medium is whole, and told of once."""

from __future__ import annotations

import asyncio
import io
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np

from benchmarks.users import User, users
from framemesh import subjects
from framemesh.buckets import Bucket
from framemesh.bus import Bus
from framemesh.embedded import free_port
from framemesh.media import upload_plan
from framemesh.mesh import LogFiles, Mesh
from framemesh.messages import DeadLetter, MediaEvent, MediaState
from framemesh.registry import connect as connect_redis
from framemesh.steps.client import Jobs
from tests.e2e.test_jobs_kills import Victim
from tests.samples import until

MEDIA = 6
KILLS = ("media", "step", "media", "gateway", "media", "jobs", "step", "gateway")
SEED = 20261129
WITHIN_S = 45.0
"""After the last kill: an ack wait of 15 s, and the work that is left."""
SECONDS, RATE = 3, 25


def film(path: Path, seed: int) -> Path:
    """Some seconds of noise to be seen and heard, other bytes for each seed."""
    chance = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        pictures: Any = container.add_stream("libx264", rate=RATE)
        pictures.width, pictures.height, pictures.pix_fmt = 160, 120, "yuv420p"
        pictures.options = {"preset": "ultrafast"}
        sound: Any = container.add_stream("aac", rate=48_000, layout="mono")
        for _ in range(SECONDS * RATE):
            picture = chance.integers(0, 255, (120, 160, 3), np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for number in range(SECONDS * 48_000 // 1024):
            samples = chance.normal(0, 0.1, (1, 1024)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, number * 1024, Fraction(1, 48_000)
            container.mux(sound.encode(frame))
        for stream in (pictures, sound):
            container.mux(stream.encode(None))
    return path


@asynccontextmanager
async def mesh_of_media(folder: Path) -> AsyncIterator[tuple[dict[str, str], Bus, dict[str, Victim]]]:
    """Servers, and the services that make media."""
    async with AsyncExitStack() as stack:
        logs = stack.enter_context(closing(LogFiles(folder / "logs")))
        mesh = await stack.enter_async_context(Mesh(folder, on_line=logs))
        await mesh.start_servers()
        environment = mesh.environment() | {
            "gateway_port": str(free_port()),
            "media_ladder": '[{"height": 120, "kbps": 800}]',
            "media_audio": "[64]",
            "media_threads": "1",
        }
        found = {name: Victim(name, [f"services.{name}"], environment) for name in ("media", "jobs", "gateway")}
        for each in found.values():
            await each.start()
            stack.push_async_callback(each.stop)
        bus = await Bus.connect(environment["nats_host"], "test")
        stack.push_async_callback(bus.close)
        yield environment, bus, found


async def test_media_survive_kills(tmp_path: Path) -> None:
    chance, films = random.Random(SEED), [film(tmp_path / f"{n}.mp4", n) for n in range(MEDIA)]
    async with mesh_of_media(tmp_path / "mesh") as (environment, bus, victims):
        base = f"http://127.0.0.1:{environment['gateway_port']}"
        await known(environment, bus)
        async with users(base, environment["jobs_database"], 1) as (user,):
            async with asyncio.TaskGroup() as group:
                group.create_task(upload(user, films))
                await kill(victims, chance)
            begun = time.monotonic()
            async with asyncio.timeout(WITHIN_S):
                documents = [await over(user, f"m{number}") for number in range(MEDIA)]
            print(f"done {time.monotonic() - begun:.1f} s after the last kill")
            print("tries:", Counter(step["attempt"] for document in documents for step in document["steps"]))
            for document in documents:
                await check(user, document)
        await check_bucket(environment)
        await check_events(bus, documents)
        assert await bus.last(subjects.DEADLETTERS.name, "dead.>", DeadLetter) is None


async def known(environment: dict[str, str], bus: Bus) -> None:
    """Wait until what media cannot do without is there."""
    redis = await connect_redis(environment["redis_host"], int(environment["redis_port"]))
    jobs, needed = Jobs(bus, redis), {"registering", "fetching-media", "transcoding", "publishing", "notifying"}

    async def there() -> bool:
        return needed <= set(await jobs.functions.all())

    assert needed <= upload_plan().functions()
    await until(there, within=30)
    await redis.aclose()


async def upload(user: User, films: list[Path]) -> None:
    """Every medium, and two of them anew with other bytes, as a client that sends again what was not heard."""
    for number, path in (*enumerate(films), (0, films[1]), (1, films[2])):
        while True:
            form = aiohttp.FormData()
            form.add_field("file", path.read_bytes(), filename=path.name)
            if await user._ask("PUT", f"/media/m{number}", data=form):
                break
        await asyncio.sleep(0.4)


async def kill(victims: dict[str, Victim], chance: random.Random) -> None:
    for name in KILLS:
        await asyncio.sleep(chance.uniform(0.5, 1.2))
        if name == "step":
            await until(lambda: kill_steps(victims["media"]), within=30)
        else:
            await victims[name].kill()


async def kill_steps(media: Victim) -> bool:
    """Kill the processes in which the service does steps; whether there were any."""
    path = Path(f"/proc/{media.pid}/task/{media.pid}/children")
    pids = [int(pid) for pid in path.read_text().split()] if path.exists() else []
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return bool(pids)


async def over(user: User, media: str) -> dict[str, Any]:
    while (document := await user.get(f"/media/{media}"))["status"] not in {"done", "failed", "cancelled"}:
        await asyncio.sleep(0.2)
    return dict(document)


async def check(user: User, document: dict[str, Any]) -> None:
    """It can be played from its first moment to its last."""
    media = document["mediaId"]
    assert (document["status"], document["published"]["version"]) == ("done", document["version"]), document
    master = (await got(user, f"/media/{media}/index.m3u8")).decode()
    paths = re.findall(r"^hls/\S+", master, re.M)
    assert len(paths) == 2
    for path in paths:
        folder = f"/media/{media}/{path.rpartition('/')[0]}"
        playlist = (await got(user, f"/media/{media}/{path}")).decode()
        assert playlist.endswith("#EXT-X-ENDLIST\n")
        names = [*re.findall(r'URI="(.*?)"', playlist), *re.findall(r"^\S+\.m4s$", playlist, re.M)]
        whole = b"".join([await got(user, f"{folder}/{name}") for name in names])
        with av.open(io.BytesIO(whole), mode="r") as container:
            frames: list[Any] = list(container.decode(container.streams[0]))
        seconds = len(frames) / RATE if "/v120/" in path else sum(each.samples for each in frames) / 48_000
        assert abs(seconds - SECONDS) < 0.2, (path, seconds)


async def got(user: User, path: str) -> bytes:
    async with user.session.get(user.base + path, headers={"Authorization": f"Bearer {user.token}"}) as answer:
        assert answer.status == 200, path
        return await answer.read()


async def check_bucket(environment: dict[str, str]) -> None:
    """Nothing is there but what can be played."""
    bucket = Bucket(environment["s3_url"], "media")
    keys = [each.key async for page in bucket.pages() for each in page]
    editions = {tuple(key.split("/")[:2]) for key in keys}
    assert sorted(media for media, _ in editions) == [f"m{number}" for number in range(MEDIA)]


async def check_events(bus: Bus, documents: list[dict[str, Any]]) -> None:
    """Each version that was published was told of once, the last one among them, and nothing failed."""
    told = [each.message async for each in bus.read("EVENTS", "events.media", 1, MediaEvent)]
    counts = Counter((each.media, each.version, each.state) for each in told)
    assert set(counts.values()) == {1}, counts
    assert {each.state for each in told} == {MediaState.READY}
    assert {(each["mediaId"], each["version"], MediaState.READY) for each in documents} <= set(counts)
