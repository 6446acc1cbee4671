"""Jobs on a real server, worked off by real workers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import psutil
import pytest

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.registry import Registry
from framemesh.steps.admission import WINDOW
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.functions import Function
from framemesh.steps.job import Job, JobStatus, Priority, StepStatus, StepTask
from framemesh.steps.joblog import LogLines
from framemesh.steps.plan import PlanError
from framemesh.steps.store import JobMissing, child_id
from tests.integration import step_bodies
from tests.integration.stepping import Begin, Crowd, one, over, plan, registered
from tests.samples import until

S, J = StepStatus, JobStatus


async def step_messages(bus: Bus, job: Job) -> list[str]:
    info = await bus.stream_info("JOBS", subjects.job_step("*", "*", job.id, "*"))
    return sorted(info.state.subjects or {}) if info else []


async def double(ctx: Context, given: Any) -> Any:
    return {"n": 2 * given["n"]}


async def test_a_job_is_worked_off_and_leaves_nothing_to_do(jobs: Jobs, begin: Begin, bus: Bus, name: str) -> None:
    async with begin(Function(name, double)):
        job = await jobs.submit(
            plan(
                a={"function": name, "input": {"n": "$input.n"}},
                b={"function": name, "after": ["a"], "input": {"n": "$steps.a.n"}},
                c={"function": name, "after": ["a"], "input": {"n": "$steps.a.n"}},
                d={"function": name, "after": ["b", "c"], "input": {"n": "$steps.c.n"}},
            ),
            {"n": 1},
        )
        assert job.status is J.QUEUED
        ended = await over(jobs, job)
        assert ended.status is J.DONE, ended
        assert ended.output == {"d": {"n": 8}}
        assert ended.steps["a"].ended
        assert ended.steps["b"].started
        assert ended.steps["b"].started >= ended.steps["a"].ended - 0.001
        await until(lambda: _none(step_messages(bus, job)))


async def _none(found: Awaitable[list[str]]) -> bool:
    return not await found


async def test_the_same_key_is_the_same_job(jobs: Jobs, begin: Begin, name: str) -> None:
    calls: list[str] = []

    async def body(ctx: Context, given: Any) -> None:
        calls.append(ctx.key)

    async with begin(Function(name, body)):
        key = secrets.token_hex(8)
        all_of_it = [jobs.submit(one(name), owner="ann", key=key) for _ in range(20)]
        assert len({job.id for job in await asyncio.gather(*all_of_it)}) == 1
        other = await jobs.submit(one(name), owner="bob", key=key)
        job = await jobs.submit(one(name), owner="ann", key=key)
        assert other.id != job.id
        await over(jobs, other)
        assert (await over(jobs, job)).status is J.DONE
    assert sorted(calls) == sorted([f"{job.id}/it", f"{other.id}/it"])


async def test_what_cannot_be_worked_off_is_refused_at_once(jobs: Jobs, name: str) -> None:
    with pytest.raises(PlanError, match=f"no worker has ever had a function '{name}'"):
        await jobs.submit(one(name))
    with pytest.raises(FramemeshError, match="input: nested deeper than 100 levels"):
        await jobs.submit(one(name), {"a": step_bodies.nested(100)})
    with pytest.raises(JobMissing):
        await jobs.cancel("nothing-of-the-kind")


async def test_a_step_that_raises_is_tried_again_after_a_rest(jobs: Jobs, begin: Begin, name: str) -> None:
    tries: list[tuple[int, float]] = []

    async def body(ctx: Context, given: Any) -> str:
        tries.append((ctx.attempt, time.time()))
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return "now"

    async with begin(Function(name, body)):
        job = await jobs.submit(one(name, retry={"attempts": 3, "delay": 0.3, "factor": 2, "jitter": 0}))
        ended = await over(jobs, job)
    assert (ended.status, ended.output) == (J.DONE, {"it": "now"})
    assert [attempt for attempt, _ in tries] == [1, 2, 3]
    assert tries[1][1] - tries[0][1] >= 0.3
    assert tries[2][1] - tries[1][1] >= 0.6


@pytest.mark.parametrize("process", [False, True])
@pytest.mark.parametrize(
    ("how", "status", "attempt", "said"),
    [
        ("fatal", J.FAILED, 1, "it: this will never work"),
        ("raise", J.FAILED, 2, "it: ValueError: no idea"),
        ("long", J.FAILED, 1, "it: its output has 100002 bytes, 65536 are allowed"),
        ("nan", J.FAILED, 1, "it: its output is not JSON"),
        ("deep", J.FAILED, 1, "it: its output is nested deeper than 100 levels"),
        ("skip", J.DONE, 1, ""),
    ],
)
async def test_a_step_ends_as_it_says(
    jobs: Jobs, begin: Begin, name: str, process: bool, how: str, status: JobStatus, attempt: int, said: str
) -> None:
    async with begin(Function(name, step_bodies.ends, process=process)):
        ended = await over(jobs, await jobs.submit(one(name, input={"how": how})))
    assert (ended.status, ended.steps["it"].attempt) == (status, attempt), ended
    assert ended.error.startswith(said)
    if how == "skip":
        assert (ended.steps["it"].status, ended.steps["it"].error) == (S.SKIPPED, "no key is set")


@pytest.mark.parametrize(("how", "said"), [("exit", "status 3"), ("kill", "signal SIGKILL")])
async def test_a_process_that_ends_itself_hurts_only_its_step(
    jobs: Jobs, begin: Begin, name: str, how: str, said: str
) -> None:
    async with begin(Function(name, step_bodies.ends, process=True)):
        ended = await over(jobs, await jobs.submit(one(name, input={"how": how})))
    assert ended.status is J.FAILED
    assert ended.error == f"it: its process ended with {said} and gave no output"
    assert ended.steps["it"].attempt == 2


async def test_a_step_in_a_process_says_all_that_another_says(
    jobs: Jobs, begin: Begin, bus: Bus, name: str
) -> None:
    seen: list[tuple[float, str]] = []
    async with begin(Function(name, step_bodies.tells, process=True)):
        job = await jobs.submit(one(name, input={"word": "hello", "pause": 0.4}))
        async with asyncio.timeout(20):
            async for state in jobs.watch(job.id):
                seen.append((state.steps["it"].progress, state.steps["it"].text))
    ended = state
    assert ended.status is J.DONE, ended
    output = ended.output["it"]
    assert output["back"] == "large"
    assert not Path(output["scratch"]).exists()
    assert any(0 < percent < 100 and text == f"{percent:g} done" for percent, text in seen), seen
    read = bus.read("JOBLOGS", subjects.job_log(job.id), 1, LogLines)
    lines = [line.text for stored in [each async for each in read] for line in stored.message.lines]
    assert lines == ["begun with hello"]


@pytest.mark.parametrize("why", ["timeout", "cancel", "stop"])
async def test_a_busy_process_is_ended_for_real(
    jobs: Jobs, begin: Begin, name: str, tmp_path: Path, why: str
) -> None:
    pids = tmp_path / "pids"
    limit = {"timeout": 1.0, "retry": {"attempts": 1}} if why == "timeout" else {}

    async def begun() -> str:
        return pids.read_text() if pids.exists() else ""

    async with begin(Function(name, step_bodies.busy, process=True)):
        job = await jobs.submit(one(name, input={"seconds": 60, "pids": str(pids)}, **limit))
        numbers = [int(pid) for pid in (await until(begun)).split()]
        if why == "cancel":
            assert (await jobs.cancel(job.id, "enough")).status is J.CANCELLED
        if why != "stop":
            ended = await over(jobs, job)
            expected = (
                (J.FAILED, "it: took longer than 1 s (timeout)") if why == "timeout" else (J.CANCELLED, "enough")
            )
            assert (ended.status, ended.error) == expected
            await until(lambda: _gone(numbers))
    await until(lambda: _gone(numbers))
    if why == "stop":  # the worker was: another one does it
        assert (await jobs.store.get(job.id)).status is J.PROCESSING
        await jobs.cancel(job.id)


async def _gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


async def test_a_cancelled_job_ends_its_steps_and_takes_back_what_waits(
    jobs: Jobs, begin: Begin, bus: Bus, name: str
) -> None:
    ended: list[str] = []

    async def body(ctx: Context, given: Any) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append(ctx.step)
            raise

    steps = {f"s{number}": {"function": name} for number in range(5)}
    async with begin(Function(name, body), step_concurrency=2):
        job = await jobs.submit(plan(**steps, later={"function": name, "after": ["s0"]}))
        await asyncio.sleep(0.5)
        await jobs.cancel(job.id)
        await until(lambda: _none(step_messages(bus, job)))
        await asyncio.sleep(0.3)
    assert len(ended) == 2
    it = await jobs.store.get(job.id)
    assert {state.status for state in it.steps.values()} == {S.CANCELLED}


async def test_a_failed_job_goes_on_from_where_it_failed(jobs: Jobs, begin: Begin, name: str) -> None:
    works, calls = False, list[str]()

    async def body(ctx: Context, given: Any) -> str:
        calls.append(ctx.step)
        if ctx.step == "b" and not works:
            raise FramemeshError("the disk is full")
        return ctx.step

    async with begin(Function(name, body)):
        job = await jobs.submit(plan(a={"function": name}, b={"function": name, "after": ["a"]}))
        assert (await over(jobs, job)).error == "b: the disk is full"
        works = True
        await jobs.retry(job.id)
        assert (await over(jobs, job)).status is J.DONE
        with pytest.raises(FramemeshError, match="only a failed one can go on"):
            await jobs.retry(job.id)
    assert calls == ["a", "b", "b"]


async def test_a_list_is_worked_off_item_by_item(jobs: Jobs, begin: Begin, name: str) -> None:
    crowd = Crowd()

    async def body(ctx: Context, given: Any) -> Any:
        await crowd.stay(0.02)
        if given["n"] == 13:
            raise FramemeshError("bad luck")
        return given["n"] * given["index"]

    async with begin(Function(name, body), step_concurrency=20):
        step = {
            "function": name, "over": "$input.list", "parallel": 3, "tolerate": 1,
            "input": {"n": "$item", "index": "$index"},
        }  # fmt: skip
        job = await jobs.submit(plan(it=step), {"list": list(range(20))})
        ended = await over(jobs, job)
    assert ended.status is J.DONE, ended
    assert ended.output == {"it": [None if n == 13 else n * n for n in range(20)]}
    assert crowd.most == 3


async def test_a_sub_job_gives_its_output_to_its_parent_and_ends_with_it(
    jobs: Jobs, begin: Begin, name: str
) -> None:
    inner = {
        "name": "inner",
        "steps": {
            "x": {"function": name, "input": {"n": "$input.n"}},
            "y": {"function": name, "after": ["x"], "input": {"n": "$steps.x.n"}},
        },
        "output": {"four": "$steps.y.n"},
    }

    async def body(ctx: Context, given: Any) -> Any:
        if given["n"] == 100:
            await asyncio.sleep(30)
        return {"n": 2 * given["n"]}

    async with begin(Function(name, body)):
        whole = plan(
            each={"plan": inner, "over": "$input.list", "input": {"n": "$item"}},
            last={"function": name, "after": ["each"], "input": {"n": "$steps.each.1.four"}},
        )
        ended = await over(jobs, await jobs.submit(whole, {"list": [1, 2, 3]}))
        assert ended.status is J.DONE, ended
        assert ended.output == {"last": {"n": 16}}
        job = await jobs.submit(whole, {"list": [100]})
        child = child_id(job.id, "each", 0, 1)
        await until(lambda: jobs.store.find(child))
        await until(lambda: _under_way(jobs, child))
        await jobs.cancel(job.id)
        assert (await jobs.store.get(child)).status is J.CANCELLED


async def _under_way(jobs: Jobs, job: str) -> bool:
    return (await jobs.store.get(job)).status is J.PROCESSING


async def test_no_more_than_allowed_run_at_a_time_in_the_whole_mesh(jobs: Jobs, begin: Begin, name: str) -> None:
    crowd = Crowd()

    async def body(ctx: Context, given: Any) -> None:
        await crowd.stay(0.03)

    function = Function(name, body, concurrency=3)
    async with begin(function), begin(function), begin(function):
        made = [await jobs.submit(one(name), priority=priority) for priority in list(Priority) * 10]
        assert {(await over(jobs, job)).status for job in made} == {J.DONE}
    assert crowd.most == 3
    assert crowd.now == 0


async def test_a_higher_priority_comes_first(jobs: Jobs, begin: Begin, name: str) -> None:
    order: list[str] = []

    async def body(ctx: Context, given: Any) -> None:
        order.append(given["name"])
        await asyncio.sleep(0.02)

    function = Function(name, body)
    async with begin(function, step_concurrency=1):
        pass  # so that the function is known
    made = [
        await jobs.submit(one(name, input={"name": priority.value}), priority=priority)
        for _ in range(4)
        for priority in reversed(Priority)
    ]
    async with begin(function, step_concurrency=1):
        for job in made:
            await over(jobs, job)
    # Which of the first ones comes first, nobody can know before all lanes have answered.
    assert order[1:] == sorted(order[1:], key=["high", "normal", "low"].index)


async def test_a_paused_function_begins_nothing_until_it_is_resumed(jobs: Jobs, begin: Begin, name: str) -> None:
    async def body(ctx: Context, given: Any) -> None:
        pass

    async with begin(Function(name, body)) as worker:
        await jobs.functions.change(name, paused=True)

        async def paused() -> bool:
            return bool(worker._switches[0].state.paused)

        await until(paused)
        job = await jobs.submit(one(name))
        await asyncio.sleep(1.5)
        assert (await jobs.store.get(job.id)).status is J.QUEUED
        await jobs.functions.change(name, paused=False)
        assert (await over(jobs, job)).status is J.DONE
    with pytest.raises(FramemeshError, match="no worker has ever had it"):
        await jobs.functions.change("nothing", paused=True)


async def test_a_function_that_is_removed_holds_nothing_up(
    jobs: Jobs, begin: Begin, registry: Registry, name: str
) -> None:
    async def body(ctx: Context, given: Any) -> int:
        return 1

    async with begin(Function(name, body), Function(f"{name}-b", body)) as worker, registered(registry, worker):
        with pytest.raises(FramemeshError, match="has it: stop that first"):
            await jobs.forget(name)
    whole = plan(it={"function": name}, more={"function": f"{name}-b", "after": ["it"]})
    some = plan(it={"function": name, "optional": True}, more={"function": f"{name}-b", "after": ["it"]})
    needing, going_on = await jobs.submit(whole), await jobs.submit(some)
    assert await jobs.forget(name) == 2
    assert (await over(jobs, needing)).error == f"it: nobody has the function {name!r} any more: it was removed"
    async with begin(Function(f"{name}-b", body)):
        job = await over(jobs, going_on)
    assert (job.status, job.steps["it"].status) == (J.DONE, StepStatus.FAILED)
    with pytest.raises(FramemeshError, match="no worker has ever had it"):
        await jobs.forget(name)
    jobs._known_at = 0
    with pytest.raises(PlanError, match="no worker has ever had a function"):
        await jobs.submit(whole)


async def test_no_more_than_so_many_begin_a_second(jobs: Jobs, begin: Begin, name: str) -> None:
    times: list[float] = []

    async def body(ctx: Context, given: Any) -> None:
        times.append(time.time())

    function = Function(name, body, rate=10)
    async with begin(function), begin(function):
        for job in [await jobs.submit(one(name)) for _ in range(15)]:
            await over(jobs, job)
    times.sort()
    assert times[-1] - times[0] >= 1.1  # 15 in 1.4 s, but for what waits in both workers


async def owners(jobs: Jobs, function: str, first: str, count: int) -> tuple[list[Job], list[Job]]:
    """Many jobs of one owner, then one of another's."""
    many = await asyncio.gather(*(jobs.submit(one(function), owner=first) for _ in range(count)))
    return many, [await jobs.submit(one(function), owner=f"other-{first}")]


async def test_one_owners_many_jobs_do_not_starve_anothers_one(jobs: Jobs, begin: Begin, name: str) -> None:
    gate = asyncio.Event()

    async def body(ctx: Context, given: Any) -> None:
        await gate.wait()
        await asyncio.sleep(0.01)

    async with begin(Function(name, body), step_concurrency=4):
        many, (single,) = await owners(jobs, name, f"o-{name}", 200)
        assert sum(job.parked for job in many) == 200 - WINDOW
        gate.set()
        await over(jobs, single)
        unfinished = [job for job in many if not (await jobs.store.get(job.id)).status.over]
        assert len(unfinished) > 60, "the one job had to wait for the many"
        for job in many:
            assert (await over(jobs, job)).status is J.DONE


async def died(jobs: Jobs, registry: Registry, function: str, times: int, count: int) -> list[Job]:
    """So many jobs, at whose first try the worker has died so many times, as far as it was counted."""
    made = [await jobs.submit(one(function, input={"n": 1})) for _ in range(count)]
    for job in made:
        for _ in range(times):
            await registry.attempt(f"{job.id}/it/1", 60)
    pull = await jobs.store.bus.pull(subjects.step_consumer(function, "normal"), StepTask, window=1)
    for _ in made:
        for envelope in await pull.batch(1, wait=5):
            await envelope.nak(0.5)
    await pull.stop()
    return made


async def test_steps_whose_workers_died_are_done_one_at_a_time(
    jobs: Jobs, begin: Begin, registry: Registry, name: str
) -> None:
    """So one that ends its worker does not take along those that were only beside it, until they fail."""
    crowd = Crowd()

    async def body(ctx: Context, given: Any) -> None:
        await crowd.stay(0.2)

    async with begin(Function(name, body)):
        pass
    suspects = await died(jobs, registry, name, 2, 3)
    async with begin(Function(name, body), step_concurrency=4):
        ends = [await over(jobs, job) for job in suspects]
        assert crowd.most == 1
        others = [await jobs.submit(one(name)) for _ in range(4)]
        ends += [await over(jobs, job) for job in others]
    assert {ended.status for ended in ends} == {J.DONE}
    assert crowd.most > 1


async def test_a_step_that_ends_its_worker_again_and_again_fails(
    jobs: Jobs, begin: Begin, registry: Registry, name: str
) -> None:
    async with begin(Function(name, double)):
        pass
    (job,) = await died(jobs, registry, name, 3, 1)
    async with begin(Function(name, double)):
        ended = await over(jobs, job)
    assert ended.status is J.FAILED
    assert ended.error == "it: the worker's process ended 3 times at this step"
