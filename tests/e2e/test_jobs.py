"""Jobs from the terminal, as a newcomer runs them, in a mesh with an own module's functions."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from framemesh import subjects
from framemesh.registry import connect as connect_redis
from framemesh.steps.client import Jobs
from framemesh.steps.job import new_id
from tests.e2e.mesh import framemesh, mesh_of
from tests.samples import until

Say = Callable[..., Awaitable[tuple[int, str, str]]]
EXAMPLES = Path(__file__).parents[2] / "examples"


async def test_jobs_from_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLES / "greeting.yaml", tmp_path)
    async with mesh_of(tmp_path / "mesh", {"jobs": {}, "greeter=examples.greeting": {}}) as (mesh, bus):
        redis = await connect_redis(mesh.environment()["redis_host"], int(mesh.environment()["redis_port"]))
        jobs = Jobs(bus, redis)

        async def known() -> bool:
            return {"greet", "shout"} <= set(await jobs.functions.all())

        await until(known, within=30)

        def run(*arguments: str) -> tuple[int, str, str]:
            ended = framemesh(*arguments, FRAMEMESH_DATA=str(tmp_path / "mesh"))
            return ended.returncode, ended.stdout, ended.stderr

        async def say(*arguments: str) -> tuple[int, str, str]:
            return await asyncio.to_thread(run, *arguments)

        names = '--input=names=["Ada", "Grace"]'
        status, text, _ = await say("jobs", "submit", "greeting.yaml", names, "--wait", "--owner", "ann")
        assert status == 0, text
        assert "HELLO, ADA!" in text
        job_id = text.split()[0]
        _, text, _ = await say("jobs", "list", "--json", "--owner", "ann")
        assert [job["id"] for job in json.loads(text)] == [job_id]
        _, text, _ = await say("jobs", "logs", job_id)
        assert "greet:1 #1 INFO greeting Grace" in text
        status, _, text = await say("jobs", "submit", "greeting.yaml")
        assert (status, text) == (
            1,
            "framemesh: plan greeting, step greet: $input.names is not in the job's input: give it, or write "
            "$input.names? for null\n",
        )
        status, text, _ = await say("jobs", "submit", "greeting.yaml", "-i", "names=3", "--wait")
        assert status == 1
        assert "failed: greet: over: $input.names is no list but int" in text
        (tmp_path / "wrong.yaml").write_text("name: x\nsteps: {a: {function: greet, retires: 3}}")
        status, _, text = await say("jobs", "submit", "wrong.yaml")
        assert status == 1
        assert "wrong.yaml: not a valid Plan: steps.a.retires" in text
        _, text, _ = await say("functions", "limit", "shout", "--concurrency", "2")
        assert text == "shout: 2 at a time\n"
        await an_event_starts_a_plan(say, jobs, names)
        # A trigger of nonsense is a dead letter, which can be seen, replayed and dropped.
        await bus.publish_raw(subjects.job_trigger("odd"), b'{"plan": 5}', {})

        async def dead() -> list[dict[str, object]]:
            found: list[dict[str, object]] = json.loads((await say("dead", "list", "--json"))[1])
            return found

        (letter,) = await until(dead)
        number = str(letter["number"])
        assert "not a valid JobRequest: plan" in str(letter["reason"])
        assert (await say("dead", "replay", number))[1] == "1 message sent again\n"
        (again,) = await until(dead)
        assert again["number"] != letter["number"]
        assert 'payload: {"plan": 5}' in (await say("dead", "show", str(again["number"])))[1]
        assert (await say("dead", "drop", "--all"))[1] == "1 dead letter dropped\n"
        assert await dead() == []
        await redis.aclose()


async def an_event_starts_a_plan(say: Say, jobs: Jobs, names: str) -> None:
    assert (await say("triggers", "add", "guests.arrived", "greeting.yaml"))[
        1
    ] == "guests.arrived starts greeting\n"
    status, number, _ = await say("triggers", "fire", "guests.arrived", names, "--owner", "bob", "--key", "k")
    assert (status, int(number) > 0) == (0, True)
    greeted = await jobs.wait((await until(lambda: jobs.store.find(new_id("bob", "k")))).id)
    assert (greeted.trigger, greeted.output["loudest"]) == ("guests.arrived", "HELLO, ADA!")
    listed = json.loads((await say("triggers", "list", "--json"))[1])
    assert [each["trigger"] for each in listed if not each["built_in"]] == ["guests.arrived"]
    assert (await say("triggers", "rm", "guests.arrived"))[1] == "guests.arrived is removed\n"
    status, _, text = await say("triggers", "fire", "../x")
    assert (status, "want up to four words" in " ".join(text.split())) == (1, True)
