"""Events that start jobs: durable from when they are taken, and again when what they ask for has failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from framemesh import subjects
from framemesh.bus import Bus, BusError
from framemesh.deadletters import MAX_PAYLOAD
from framemesh.errors import FramemeshError
from framemesh.messages import DeadLetter
from framemesh.registry import Registry
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.derivations import Derivations, digest
from framemesh.steps.functions import Function, StepFailed
from framemesh.steps.job import Job, JobStatus, StepStatus, new_id
from framemesh.steps.plan import Plan
from framemesh.steps.triggers import Subscription, TriggerEvent, Triggers
from services.jobs.jobs import JobsService
from services.jobs.settings import JobsSettings
from tests.integration.stepping import Begin, at_work, one, over, plan
from tests.samples import dead_letters, until


@pytest.fixture
async def service(
    bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path
) -> AsyncIterator[JobsService]:
    settings = JobsSettings(**servers, instance="jobs", jobs_database=f"sqlite:///{tmp_path}/jobs.db")  # type: ignore[arg-type]
    async with at_work(JobsService(settings, bus, registry)) as made:
        yield made


@pytest.fixture
def triggers(bus: Bus) -> Triggers:
    return Triggers(bus)


def named(name: str, function: str, **step: Any) -> Plan:
    retry = {"attempts": 2, "delay": 0.1}
    steps = {"it": {"function": function, "input": {"n": "$input.n?"}, "retry": retry, **step}}
    return Plan.model_validate({"name": name, "steps": steps})


async def job_of(jobs: Jobs, key: str) -> Job:
    async def found() -> Job | None:
        return await jobs.store.find(new_id("nobody", key))

    return await over(jobs, await until(found))


async def test_an_event_starts_the_plan_that_is_subscribed_to_it(
    service: JobsService, triggers: Triggers, jobs: Jobs, begin: Begin, name: str
) -> None:
    seen: list[Any] = []

    async def body(ctx: Context, given: Any) -> Any:
        seen.append(given["n"])
        return given["n"]

    trigger = f"{name}.happened"
    async with begin(Function(name, body)):
        await triggers.put(Subscription(trigger=trigger, plan=named(name, name)))
        first, second = [await triggers.fire(trigger, TriggerEvent(input={"n": n})) for n in (1, 2)]
        for seq in (first, second):
            job = await job_of(jobs, f"{trigger}/{seq}")
            assert (job.status, job.trigger) == (JobStatus.DONE, trigger)
        again = await triggers.fire(trigger, TriggerEvent(input={"n": 3}, key="once"))
        await triggers.fire(trigger, TriggerEvent(input={"n": 3}, key="once"))
        assert (await job_of(jobs, "once")).status is JobStatus.DONE
        assert again > second
        await asyncio.sleep(0.3)
    assert sorted(seen) == [1, 2, 3]


async def test_subscriptions_are_listed_replaced_and_removed(triggers: Triggers, jobs: Jobs, name: str) -> None:
    await triggers.put(Subscription(trigger=name, plan=named("first", "f")))
    await triggers.put(Subscription(trigger=name, plan=named("second", "f")))
    found = {each.trigger: (each.plan.name, built_in) for each, built_in in await triggers.all()}
    assert found[name] == ("second", False)
    assert found["media.uploaded"] == ("media", True)
    await triggers.remove(name)
    assert await triggers.find(name) is None
    for trigger, said in (
        (name, "no plan is subscribed"),
        ("media.uploaded", "built in"),
        ("a b", "want up to four"),
    ):
        with pytest.raises(FramemeshError, match=said):
            await triggers.remove(trigger)


async def test_an_event_without_a_plan_is_a_dead_letter_that_can_be_replayed(
    service: JobsService, triggers: Triggers, jobs: Jobs, begin: Begin, bus: Bus, name: str
) -> None:
    async def body(ctx: Context, given: Any) -> Any:
        return given["n"]

    async with begin(Function(name, body)):
        await triggers.fire(name, TriggerEvent(input={"n": 7}, key=name))
        (letter,) = await until(lambda: dead_letters(bus, "TRIGGERS", f"triggers.{name}"))
        assert "no plan is subscribed to it: `framemesh triggers add" in letter.reason
        await triggers.put(Subscription(trigger=name, plan=named(name, name)))
        await replay(bus, name)
        assert (await job_of(jobs, name)).output == {"it": 7}


async def replay(bus: Bus, name: str) -> None:
    """As `framemesh dead replay` does."""
    read = bus.read("DEADLETTERS", f"dead.TRIGGERS.triggers.{name}", 1, DeadLetter)
    async for stored in read:
        letter = stored.message
        await bus.publish_raw(letter.subject, letter.payload.encode(), {"Nats-Msg-Id": f"replay/{stored.seq}"})
        await bus.delete("DEADLETTERS", stored.seq)


async def test_the_event_of_a_job_that_fails_its_tries_is_a_dead_letter_and_replayed_it_is_another_job(
    service: JobsService, triggers: Triggers, jobs: Jobs, begin: Begin, bus: Bus, name: str
) -> None:
    broken, done = True, asyncio.Queue[Any]()

    async def body(ctx: Context, given: Any) -> Any:
        if broken:
            raise StepFailed("the disk is full")
        await done.put(given["n"])

    async with begin(Function(name, body)):
        await triggers.put(Subscription(trigger=name, plan=named(name, name)))
        seq = await triggers.fire(name, TriggerEvent(input={"n": 9}, owner="nobody"))
        job = await job_of(jobs, f"{name}/{seq}")
        assert (job.status, job.steps["it"].attempt) == (JobStatus.FAILED, 2)
        (letter,) = await until(lambda: dead_letters(bus, "TRIGGERS", f"triggers.{name}"))
        assert f"job {job.id} failed: it: the disk is full" in letter.reason
        broken = False
        await replay(bus, name)
        async with asyncio.timeout(10):
            assert await done.get() == 9
        assert await dead_letters(bus, "TRIGGERS", f"triggers.{name}") == []
        assert (await jobs.store.get(job.id)).status is JobStatus.FAILED


async def test_what_is_taken_fits_into_a_dead_letter(
    service: JobsService, triggers: Triggers, jobs: Jobs, bus: Bus, name: str
) -> None:
    def event(size: int) -> TriggerEvent:
        return TriggerEvent(input={"text": "x" * size}, key="k" * 200)

    with pytest.raises(FramemeshError, match="store what is large"):
        await triggers.fire(name, event(subjects.MOST_EVENT_BYTES))
    with pytest.raises(BusError, match="exceeds maximum"):
        await bus.publish_raw(subjects.trigger(name), event(MAX_PAYLOAD).model_dump_json().encode(), {})
    await triggers.put(Subscription(trigger=name, plan=one("no-such-function")))
    await triggers.fire(name, event(subjects.MOST_EVENT_BYTES - 400))
    (letter,) = await until(lambda: dead_letters(bus, "TRIGGERS", f"triggers.{name}"))
    assert not letter.cut
    assert TriggerEvent.model_validate_json(letter.payload) == event(subjects.MOST_EVENT_BYTES - 400)


async def test_a_key_that_something_else_has_used_is_told(
    service: JobsService, triggers: Triggers, jobs: Jobs, begin: Begin, bus: Bus, name: str
) -> None:
    async def body(ctx: Context, given: Any) -> Any:
        return 1

    async with begin(Function(name, body)):
        made = await jobs.submit(one(name), key=name)
        await triggers.put(Subscription(trigger=name, plan=named(name, name)))
        await triggers.fire(name, TriggerEvent(key=name))
        (letter,) = await until(lambda: dead_letters(bus, "TRIGGERS", f"triggers.{name}"))
        assert f"job {made.id} of something else was made with it" in letter.reason


async def test_what_is_no_event_is_a_dead_letter(service: JobsService, bus: Bus, name: str) -> None:
    await bus.publish_raw(subjects.trigger(name), b'{"input": 3}', {})
    (letter,) = await until(lambda: dead_letters(bus, "TRIGGERS", f"triggers.{name}"))
    assert "input" in letter.reason


# -- what is remembered -------------------------------------------------------------------------------


async def test_the_same_input_is_not_worked_on_twice_in_a_scope(jobs: Jobs, begin: Begin, name: str) -> None:
    count, model = 0, "small"

    async def body(ctx: Context, given: Any) -> Any:
        nonlocal count
        count += 1
        return {"made": count}

    async def made(scope: str, value: int) -> int:
        step = {"function": name, "input": {"n": "$input.n"}, "remember": "$input.scope"}
        job = await over(jobs, await jobs.submit(plan(it=step), {"n": value, "scope": scope}))
        assert job.status is JobStatus.DONE, job
        return int(job.output["it"]["made"])

    async with begin(Function(name, body, depends=lambda: model)) as worker:
        memory = Derivations(worker.bus)
        assert [await made(name, 1), await made(name, 2), await made(name, 1)] == [1, 2, 1]
        assert await made(f"{name}-b", 1) == 3
        assert await memory.forget(name) == 2
        assert [await made(name, 1), await made(f"{name}-b", 1)] == [4, 3]
        model = "large"
        assert [await made(name, 1), await made(name, 1)] == [5, 5]


async def test_what_a_job_has_taken_last_is_kept(bus: Bus, jobs: Jobs, name: str) -> None:
    memory = Derivations(bus)
    await bus.declare(subjects.DERIVATIONS)
    for n in (1, 2):
        await memory.keep(name, "f", {"n": n}, n, "old", 60)
    assert await memory.recall(name, "f", {"n": 2}, "new")
    assert await memory.forget(name, but="new") == 1
    assert await memory.recall(name, "f", {"n": 1}, "new") is None
    await memory.keep(name, "f", {"n": 3}, 3, "new", -1)
    assert await memory.recall(name, "f", {"n": 3}, "new") is None  # its time is over


def test_an_input_is_the_same_whatever_the_order_of_its_fields() -> None:
    assert digest({"a": 1, "b": [1, "é"]}) == digest({"b": [1, "é"], "a": 1}) != digest({"a": 1, "b": ["é", 1]})


async def test_a_scope_that_is_none_fails_the_step(jobs: Jobs, begin: Begin, name: str) -> None:
    async def body(ctx: Context, given: Any) -> Any:
        return 1

    async with begin(Function(name, body)):
        job = await over(jobs, await jobs.submit(one(name, remember="$input.s"), {"s": "../x y"}))
        assert (job.status, "is no name of a scope" in job.error) == (JobStatus.FAILED, True)


async def test_an_optional_step_whose_function_there_is_not_is_skipped(
    jobs: Jobs, begin: Begin, name: str
) -> None:
    async def body(ctx: Context, given: Any) -> Any:
        return given

    steps: dict[str, Any] = {
        "extra": {"function": f"{name}-nobody", "optional": True},
        "it": {"function": name, "after": ["extra"], "input": {"extra": "$steps.extra?"}},
    }
    async with begin(Function(name, body)):
        job = await over(jobs, await jobs.submit(plan(**steps)))
        assert job.status is JobStatus.DONE
        assert (job.steps["extra"].status, job.output) == (StepStatus.SKIPPED, {"it": {"extra": None}})
        assert job.steps["extra"].error == f"no worker has ever had a function '{name}-nobody'"
