"""Steps, plans and commands that nobody should write, and that somebody will: each hurts only its own job."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.functions import Function, StepFailed
from framemesh.steps.job import Job, JobStatus
from framemesh.steps.joblog import LogLines
from framemesh.steps.plan import Plan
from framemesh.terminal import out, table
from tests.integration import step_bodies
from tests.integration.stepping import Begin, one, over
from tests.samples import until

J = JobStatus
HALF = "\ud83d"
"""Half a surrogate pair, as in the name of a file that is no UTF-8: no text that can be written down."""


async def lines(bus: Bus, job: Job) -> list[str]:
    read = bus.read("JOBLOGS", subjects.job_log(job.id), 1, LogLines)
    return [line.text async for stored in read for line in stored.message.lines]


async def says(ctx: Context, given: Any) -> Any:
    """Says what can hardly be written down."""
    match given["how"]:
        case "output":
            return {"name": HALF}
        case "set":
            return {1, 2}
        case "long":
            return "\u20ac" * 15_000  # 45 kB in UTF-8, but 90 kB as JSON for those who know ASCII only
        case "log":
            ctx.log.info("read %s", HALF)
            ctx.log.info("%d of it", "half")  # what logging takes with a word on stderr
        case "progress":
            await ctx.progress(float("nan"), HALF)
            await asyncio.sleep(1.3)
            await ctx.progress(1e300, "x" * 100_000)
        case "exit":
            sys.exit(3)
        case wrong if wrong in WRONG:
            raise WRONG[wrong]
    return "fine"


WRONG: dict[str, BaseException] = {
    "reason": StepFailed(f"{HALF} \0 cannot be read", retry=False),
    "cancelled": asyncio.CancelledError(),
    "late": TimeoutError("the camera did not answer"),
    "wait": StepFailed("not yet", delay=float("nan")),
}


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("output", J.FAILED, "it: its output is not JSON"),
        ("reason", J.FAILED, "it: ? ? cannot be read"),
        ("log", J.DONE, ""),
        ("progress", J.DONE, ""),
        ("cancelled", J.FAILED, "it: CancelledError"),
        ("late", J.FAILED, "it: TimeoutError: the camera did not answer"),
        ("exit", J.FAILED, "it: SystemExit: 3"),
        ("set", J.FAILED, "it: its output is not JSON"),
        ("long", J.DONE, ""),
        ("wait", J.FAILED, "it: not yet"),
    ],
)
@pytest.mark.parametrize("process", [False, True])
async def test_what_a_step_says_ends_its_job_whatever_it_is(
    jobs: Jobs, begin: Begin, name: str, how: str, status: JobStatus, said: str, process: bool
) -> None:
    async with begin(Function(name, says, process=process)):
        ended = await over(jobs, await jobs.submit(one(name, input={"how": how})))
    if process and how in {"cancelled", "exit"}:
        said = "it: its process ended with status"
    assert (ended.status, ended.error[: len(said)]) == (status, said), ended


async def test_lines_of_a_log_are_kept_whatever_is_in_them(jobs: Jobs, begin: Begin, bus: Bus, name: str) -> None:
    async def body(ctx: Context, given: Any) -> None:
        ctx.log.info("a name: %s", HALF)
        for _ in range(300):
            ctx.log.info("\0" * 10_000)  # JSON writes six bytes for each
        ctx.log.info("the last")

    async with begin(Function(name, body)):
        job = await jobs.submit(one(name))
        assert (await over(jobs, job)).status is J.DONE
    found = await lines(bus, job)
    assert (len(found), found[0], found[-1]) == (302, "a name: ?", "the last")


async def acked(bus: Bus, job: Job) -> bool:
    """Whether no message of its steps lies anywhere."""
    info = await bus.stream_info("JOBS", subjects.job_step("*", "*", job.id, "*"))
    return not (info and info.state.subjects)


async def test_a_last_word_is_said_each_time_that_the_job_fails(
    jobs: Jobs, begin: Begin, bus: Bus, name: str
) -> None:
    words: list[tuple[int, str]] = []

    async def body(ctx: Context, given: Any) -> None:
        if ctx.step == "it":
            raise FramemeshError("the disk is full")
        words.append((ctx.attempt, given["why"]))

    made = Plan.model_validate(
        {
            "name": "last",
            "steps": {"it": {"function": name}},
            "on_failure": {"function": name, "input": {"why": "$error"}},
        }
    )
    async with begin(Function(name, body)):
        job = await jobs.submit(made)
        assert (await over(jobs, job)).status is J.FAILED
        await until(lambda: acked(bus, job))
        await jobs.retry(job.id)
        assert (await over(jobs, job)).status is J.FAILED
    assert words == [(1, "it: the disk is full"), (2, "it: the disk is full")]


@pytest.mark.parametrize("wrong", ["*", ">", "a.b", "a b", "", "x" * 200, "\u00e4"])
async def test_what_is_no_id_finds_no_job_and_hurts_none(jobs: Jobs, begin: Begin, name: str, wrong: str) -> None:
    async with begin(Function(name, says)):
        pass
    job = await jobs.submit(one(name, input={"how": "fine"}))
    for ask in (jobs.cancel, jobs.retry, jobs.wait):
        with pytest.raises(FramemeshError, match="there is none of that id"):
            await ask(wrong)
    async with begin(Function(name, says)):
        assert (await over(jobs, job)).status is J.DONE


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"x": HALF}, "input: "),
        ({"x": float("nan")}, "input: "),
        ({"x": {1, 2}}, "input: "),
        ({"x": "x" * 10**6}, "state has"),
    ],
)
async def test_an_input_that_cannot_be_kept_is_refused(
    jobs: Jobs, begin: Begin, name: str, given: dict[str, Any], said: str
) -> None:
    async with begin(Function(name, says)):
        with pytest.raises(FramemeshError, match=said):
            await jobs.submit(one(name), given)


@pytest.mark.parametrize("wrong", ["a b", "*", "", "x" * 65])
async def test_an_owner_that_is_no_name_is_refused(jobs: Jobs, begin: Begin, name: str, wrong: str) -> None:
    async with begin(Function(name, says)):
        with pytest.raises(FramemeshError, match="owner"):
            await jobs.submit(one(name), owner=wrong)
    with pytest.raises(FramemeshError):
        await jobs.functions.change(wrong, paused=True)


async def test_a_process_goes_on_with_the_next_try_after_an_output_that_is_none(
    jobs: Jobs, begin: Begin, name: str
) -> None:
    async with begin(Function(name, step_bodies.ends, process=True)):
        first = await over(jobs, await jobs.submit(one(name, input={"how": "nan"})))
        assert first.error.startswith("it: its output is not JSON")
        assert (await over(jobs, await jobs.submit(one(name, input={"how": "fine"})))).output == {"it": "fine"}


async def test_what_a_program_said_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table("job", "error")
    rows.add_row("j", "ValueError: [/b] and [red]")
    out.print(rows)
    assert "ValueError: [/b] and [red]" in capsys.readouterr().out
