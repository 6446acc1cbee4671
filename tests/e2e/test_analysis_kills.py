"""Whichever service or server is killed, however often: every video is analysed, once, and rightly."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.material import talk
from benchmarks.rush import HANDS, clip, pipeline, ready
from benchmarks.users import OVER, User, users
from framemesh import subjects
from framemesh.analysis import AnalysisStatus
from framemesh.mesh import Mesh
from framemesh.messages import DeadLetter
from tests.e2e.mesh import mesh_of
from tests.samples import until

VICTIMS = ("gateway", "jobs", *HANDS, "nats", "seaweedfs", "redis")
ROUNDS = 4
USERS, VIDEOS = 10, 20
"""Each user has so many videos: 200 jobs in all, one in ten with words, the others a face for half a second."""
SEED = 20261128
WITHIN_S = 180.0
"""After the last kill and upload: an ack wait of 15 s, a store that starts again, and the work that is left."""


async def test_analyses_survive_forty_kills(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    speech, silent = clip(tmp_path / "speech.mkv"), tmp_path / "silent.mkv"
    talk(silent, seconds=0.5)
    async with (
        mesh_of(tmp_path / "mesh", {}) as (mesh, bus),
        pipeline(mesh) as base,
        users(base, mesh.environment()["jobs_database"], USERS) as people,
    ):
        await ready(mesh, people[0])
        async with asyncio.TaskGroup() as group:
            submitting = [group.create_task(submit(user, speech, silent)) for user in people]
            kills = await kill(mesh, chance)
            begun = time.monotonic()
        made = {user.name: task.result() for user, task in zip(people, submitting, strict=True)}
        async with asyncio.timeout(WITHIN_S):
            found = [await over(user, job) for user in people for job in made[user.name]]
        print(
            f"{sum(kills.values())} kills {dict(kills)}; all done {time.monotonic() - begun:.1f} s after the last"
        )
        print("tries:", Counter(step["attempt"] for document in found for step in document["steps"]))
        for number, document in enumerate(found):
            check(document, words=number % 10 == 0)
        for user in people:
            await until(lambda user=user: projected(user, made[user.name]), within=20)  # type: ignore[misc]
        assert await bus.last(subjects.DEADLETTERS.name, "dead.>", DeadLetter) is None
        assert sum(kills.values()) == ROUNDS * len(VICTIMS)


async def submit(user: User, speech: Path, silent: Path) -> list[str]:
    """As a client that tries again with the same key until it has been heard; the jobs' ids."""
    found = []
    for number in range(VIDEOS):
        found.append(await user.submit(silent if number % 10 else speech, f"video-{number}"))
        await asyncio.sleep(1)
    return found


async def kill(mesh: Mesh, chance: random.Random) -> Counter[str]:
    """Kill each some times, in any order and at any moment, as soon as it runs again."""
    deck, kills = list(VICTIMS * ROUNDS), Counter[str]()
    chance.shuffle(deck)
    for name in deck:
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        await until(lambda name=name: killed(mesh, name), within=30)  # type: ignore[misc]
        kills[name] += 1
    return kills


async def killed(mesh: Mesh, name: str) -> bool:
    """Whether it ran, and was killed."""
    mesh.raise_failures()
    try:
        os.kill(mesh.pids()[name], signal.SIGKILL)
    except (KeyError, ProcessLookupError):  # it is being started again
        return False
    return True


async def over(user: User, job: str) -> dict[str, Any]:
    """The document when it is over."""
    while (document := await user.get(f"/analysis/{job}"))["status"] not in OVER:
        await asyncio.sleep(0.2)
    return dict(document)


def check(document: dict[str, Any], *, words: bool) -> None:
    """Everything was done that there was to do, and came out right."""
    steps = {step["name"]: step for step in document["steps"]}
    heard = {"extracting-audio", "transcribing", "voice-analysis"}
    skipped = {"gpt-analysis"} | (set() if words else heard)
    assert document["status"] == AnalysisStatus.DONE, document
    assert {name: step["status"] for name, step in steps.items()} == {
        name: "skipped" if name in skipped else "done" for name in steps
    }, document
    result = document["result"]
    assert (result["face"]["faces"], result["face"]["frames"]) == (1, 18 if words else 3), result["face"]
    assert result["report"]
    if words:
        assert result["transcript"]["text"].lower().startswith("and so, my fellow americans")
        assert result["voice"]["label"] == "speech"


async def projected(user: User, made: list[str]) -> bool:
    """Whether the database has each of somebody's jobs once, and done."""
    page = await user.get("/jobs?limit=100")
    return sorted((job["jobId"], job["status"]) for job in page["jobs"]) == sorted((job, "done") for job in made)
