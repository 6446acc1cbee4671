"""What meets: many items at one state, a retry and an ack, a job that is gone and its sub-job."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.msg import Msg

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.steps import advance
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.functions import Function
from framemesh.steps.job import Job, JobStatus, Parent
from framemesh.steps.plan import Plan
from framemesh.steps.store import JobMissing, child_id
from tests.integration.stepping import Begin, one, over, plan

J = JobStatus


async def echo(ctx: Context, given: Any) -> Any:
    return given


async def test_hundreds_of_items_are_worked_off_and_those_that_failed_are_listed(
    jobs: Jobs, begin: Begin, name: str
) -> None:
    done = 0

    async def body(ctx: Context, given: Any) -> Any:
        nonlocal done
        done += 1
        if given["n"] % 100 == 13:
            raise FramemeshError(f"picture {given['n']} is none")
        return {"labels": ["person", "bicycle"], "n": given["n"]}

    step = {
        "function": name, "over": "$input.list", "parallel": 16, "tolerate": 3, "input": {"n": "$item.n"},
        "retry": {"attempts": 1},
    }  # fmt: skip
    pictures = [{"n": n, "url": f"http://127.0.0.1:8080/3,{n:020x}"} for n in range(300)]
    async with begin(Function(name, body), step_concurrency=8), begin(Function(name, body), step_concurrency=8):
        ended = await over(jobs, await jobs.submit(plan(it=step), {"list": pictures}), within=60)
    assert ended.status is J.DONE, ended.error
    assert done == 300
    bad = {n: item.error for n, item in enumerate(ended.steps["it"].items or []) if item.error}
    assert bad == {n: f"picture {n} is none" for n in range(13, 300, 100)}
    assert [n for n, output in enumerate(ended.output["it"]) if output is None] == list(bad)


async def test_outputs_that_a_state_has_no_room_for_fail_their_step(jobs: Jobs, begin: Begin, name: str) -> None:
    calls = 0

    async def large(ctx: Context, given: Any) -> Any:
        nonlocal calls
        calls += 1
        return "x" * 60_000

    steps = {f"s{n}": {"function": name, "retry": {"attempts": 1}} for n in range(20)}
    async with begin(Function(name, large)):
        ended = await over(jobs, await jobs.submit(plan(**steps)))
    assert ended.status is J.FAILED
    assert "its state has" in ended.error
    assert calls <= 40


async def test_sub_jobs_have_ids_however_long_the_names_are(jobs: Jobs, begin: Begin, name: str) -> None:
    long = "a" * 60
    inner: dict[str, Any] = {"name": "inner", "steps": {long: {"function": name, "input": {"n": "5"}}}}
    for _ in range(2):
        inner = {"name": "middle", "steps": {long: {"plan": inner}}}
    made = Plan.model_validate({"name": "outer", "steps": {long: {"plan": inner}}})
    async with begin(Function(name, echo)):
        assert (await over(jobs, await jobs.submit(made))).status is J.DONE


def test_two_sub_jobs_never_have_one_id() -> None:
    """A plan may have a step ``a`` of many items beside a step ``a-1``."""
    assert child_id("j", "a", 1, 2) != child_id("j", "a-1", None, 2)


async def test_a_sub_job_that_is_begun_too_late_does_not_go_on(jobs: Jobs, begin: Begin, name: str) -> None:
    """It was cancelled between the order and the child."""
    async with begin(Function(name, echo)):
        pass
    whole = Plan.model_validate({"name": "whole", "steps": {"it": {"plan": one(name).model_dump()}}})
    parent = Job(id=f"late-{name}", plan=whole, created=1.0)
    orders = advance.begin(parent, 1.0)
    await jobs.store._write(parent, 0)
    await jobs.cancel(parent.id)
    await jobs.store.send(orders, parent)
    assert (await jobs.store.get(child_id(parent.id, "it", None, 1))).status is J.CANCELLED


async def test_a_sub_job_whose_job_is_gone_ends(jobs: Jobs, begin: Begin, bus: Bus, name: str) -> None:
    calls = 0

    async def body(ctx: Context, given: Any) -> None:
        nonlocal calls
        calls += 1

    child = Job(id=f"c-{name}", plan=one(name), created=1.0, parent=Parent(job="gone", step="it", attempt=1))
    async with begin(Function(name, body)):
        await jobs.store.create(child)
        await over(jobs, child)

        await asyncio.sleep(3)
        info = await bus.stream_info("JOBS", f"jobs.step.*.*.{child.id}.*")
    assert not (info and info.state.subjects)
    assert calls == 1


@pytest.mark.parametrize("wrong", ["*", "a b", ""])
async def test_what_is_no_id_is_looked_up_nowhere(jobs: Jobs, wrong: str) -> None:
    with pytest.raises(JobMissing):
        await jobs.store.get(wrong)


async def test_stopping_workers_is_no_death_of_a_step(jobs: Jobs, begin: Begin, name: str) -> None:
    """Five rolling updates are no reason to fail a long one."""
    stop = asyncio.Event()

    async def body(ctx: Context, given: Any) -> str:
        await stop.wait()
        return "done"

    async with begin(Function(name, body)):
        job = await jobs.submit(one(name, retry={"attempts": 1}))
        await asyncio.sleep(0.3)
    for _ in range(5):
        async with begin(Function(name, body)):
            await asyncio.sleep(0.5)
    stop.set()
    async with begin(Function(name, body)):
        ended = await over(jobs, job)
    assert ended.status is J.DONE, ended.error


async def test_a_retry_that_comes_before_the_ack_is_not_lost(jobs: Jobs, begin: Begin, name: str) -> None:
    """The message of the try before lies there still."""

    async def body(ctx: Context, given: Any) -> None:
        raise FramemeshError("the disk is full")

    async with begin(Function(name, body)):
        job = await jobs.submit(one(name))
        for _ in range(20):
            assert (await over(jobs, job, within=5)).status is J.FAILED
            await jobs.retry(job.id)


async def test_a_first_step_brings_its_job_along_so_nobody_reads_it(
    jobs: Jobs, begin: Begin, bus: Bus, name: str
) -> None:
    ids = {f"{name}-{n}" for n in range(20)}
    read, ended = set[str](), set[str]()

    def hear(msg: Msg) -> None:
        job = msg.subject.rpartition(".")[2]
        if msg.subject.startswith("$JS"):
            read.add(job)
        elif b'"status":"done","steps":' in msg.data:
            ended.add(job)

    for subject in (subjects.job_updates(), f"$JS.API.DIRECT.GET.JOBS.{subjects.job_state('*')}"):
        await bus.client.listen(subject, hear)
    async with begin(Function(name, echo)):
        for job in ids:
            await jobs.store.create(Job(id=job, plan=one(name), created=time.time()))
        async with asyncio.timeout(20):
            while not ids <= ended:
                await asyncio.sleep(0.05)
    assert not ids <= read


async def test_a_job_that_many_put_down_at_once_is_done_once(jobs: Jobs, begin: Begin, name: str) -> None:
    """Though their first steps bring along how it was before."""
    calls = Counter[str]()

    async def body(ctx: Context, given: Any) -> str:
        calls[ctx.key] += 1
        await asyncio.sleep(0.01)
        return ctx.step

    steps = {"a": [], "b": ["a"], "c": ["a"], "d": ["b"], "e": ["c", "d"]}
    whole = plan(**{step: {"function": name, "after": after} for step, after in steps.items()})
    ids = [f"{name}-{n}" for n in range(6)]

    async def put_down_again(job: str) -> None:
        for _ in range(20):
            await jobs.store.create(Job(id=job, plan=whole, created=time.time()))
            await asyncio.sleep(0.002)

    async with begin(Function(name, body)), begin(Function(name, body)):
        await asyncio.gather(*(put_down_again(job) for job in ids for _ in range(2)))
        ends = [await jobs.wait(job) for job in ids]
        await asyncio.gather(*(put_down_again(job) for job in ids))
        assert [await jobs.get(job) for job in ids] == ends
    assert {each.status for each in ends} == {J.DONE}
    assert len(calls) == len(steps) * len(ids)
    assert set(calls.values()) == {1}


async def broken(_: Context) -> None:
    """A task group that fails leaves its task looking like one that is cancelled (Python 3.11)."""

    async def fail() -> None:
        raise ValueError

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())


async def hang(ctx: Context) -> None:
    await broken(ctx)
    await asyncio.sleep(30)


async def cancel_another(ctx: Context) -> None:
    await broken(ctx)
    task = asyncio.create_task(asyncio.sleep(30))
    task.cancel()
    await task


async def cancel_late(_: Context) -> None:
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().call_soon(task.cancel)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (broken, ""),
        (hang, "it: took longer than 0.3 s (timeout)"),
        (cancel_another, "it: CancelledError"),
        (cancel_late, ""),
    ],
)
async def test_what_a_step_does_to_its_task_hurts_only_its_try(
    jobs: Jobs, begin: Begin, name: str, body: Callable[[Context], Awaitable[None]], said: str
) -> None:
    calls = 0

    async def counted(ctx: Context, given: Any) -> None:
        nonlocal calls
        calls += 1
        await body(ctx)

    async with begin(Function(name, counted)):
        ended = await over(jobs, await jobs.submit(one(name, timeout=0.3) if said else one(name)))
    assert ended.status is (J.FAILED if said else J.DONE)
    assert ended.error.startswith(said)
    assert calls == (2 if said else 1)


async def test_what_a_step_does_to_its_input_changes_nothing_of_the_job(
    jobs: Jobs, begin: Begin, name: str
) -> None:
    async def spoil(ctx: Context, given: Any) -> Any:
        given["list"].append("more")
        given["known"]["deep"].clear()
        return given

    chain = plan(
        a={"function": name, "input": {"list": "$input.list", "known": "$input.known"}},
        b={"function": name, "after": ["a"], "input": {"list": "$steps.a.list", "known": "$input.known"}},
    )
    async with begin(Function(name, spoil)):
        ended = await over(jobs, await jobs.submit(chain, {"list": [1], "known": {"deep": [2]}}))
    assert ended.status is J.DONE
    assert ended.input == {"list": [1], "known": {"deep": [2]}}
    assert [step.output["list"] for step in ended.steps.values()] == [[1, "more"], [1, "more", "more"]]
