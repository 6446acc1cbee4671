"""``framemesh jobs``, ``functions`` and ``schedules``: durable jobs from the terminal."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.messages import Message
from framemesh.pull import invalid
from framemesh.steps.client import Jobs
from framemesh.steps.job import Job, JobStatus, Priority, StepState, StepStatus, place
from framemesh.steps.plan import Plan
from framemesh.steps.schedules import Schedule, Schedules
from framemesh.terminal import DataOption, clients, counted, mesh_settings, out, run_until, table

MOST_FAILED = 20

app = typer.Typer(
    help="Durable jobs: submit plans, see how they stand, end them or let them go on.\n\n"
    "A plan is a YAML or JSON file of steps, see docs/jobs.md; `framemesh worker MODULE` runs a module's steps.",
    no_args_is_help=True,
)
functions = typer.Typer(
    help="What does steps: see the functions, pause them, bound how many run at a time or begin a second.",
    no_args_is_help=True,
)
schedules = typer.Typer(help="Jobs by the clock, in any time zone.", no_args_is_help=True)

JobArgument = Annotated[str, typer.Argument(help="Id of a job.", show_default=False)]
PlanArgument = Annotated[Path, typer.Argument(help="YAML or JSON file with a plan.", show_default=False)]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input", "-i", help="name=value of the job's input, value as JSON or text; or @file.json; again."
    ),
]
OwnerOption = Annotated[str, typer.Option(help="Whose job it is; owners share the workers fairly.")]
PriorityOption = Annotated[Priority, typer.Option(help="Which of two that wait begins first.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="As JSON, an object a line.")]


@dataclass
class Desk:
    """Connections to a mesh."""

    bus: Bus
    jobs: Jobs


@asynccontextmanager
async def connected(data: Path | None) -> AsyncIterator[Desk]:
    """Connections to the mesh of a data folder, for a block."""
    bus, registry = await clients(mesh_settings(data))
    try:
        jobs = Jobs(bus, registry.redis)
        await jobs.store.declare()
        yield Desk(bus, jobs)
    finally:
        await registry.redis.aclose()
        await bus.close()


# -- jobs ---------------------------------------------------------------------------------------------


@app.command()
def submit(
    plan: PlanArgument,
    given: InputOption = None,
    owner: OwnerOption = "nobody",
    priority: PriorityOption = Priority.NORMAL,
    key: Annotated[str | None, typer.Option(help="With the same key and owner it is the same job.")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Show its progress until it is over.")] = False,
    data: DataOption = None,
) -> None:
    """Put a job down; prints its id. With `--wait` the exit status is 1 when it fails."""
    made, values = read_plan(plan), read_input(given or [])

    async def work() -> Job:
        async with connected(data) as desk:
            job = await desk.jobs.submit(made, values, owner=owner, priority=priority, key=key)
            typer.echo(job.id)
            return await _follow(desk, job.id) if wait else job

    _end(run_until(work()))


class _Head(Message):
    """What of a job says whether it is shown: tens of thousands are not read as a whole for it."""

    id: str
    owner: str = "nobody"
    status: JobStatus = JobStatus.QUEUED
    created: float
    parent: Any = None


@app.command("list")
def list_jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Only those that stand so.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only this owner's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most to show, the newest.")] = 50,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Show the jobs that are under way or ended lately, the newest first."""

    def wanted(head: _Head) -> bool:
        return head.parent is None and status in {None, head.status} and owner in {None, head.owner}

    async def work() -> list[Job]:
        async with connected(data) as desk:
            read = desk.bus.read(subjects.JOBS.name, subjects.job_state("*"), 1, _Head)
            heads = [stored.message async for stored in read if wanted(stored.message)]
            newest = sorted(heads, key=lambda head: head.created, reverse=True)[:limit]
            states = await asyncio.gather(*(desk.jobs.store.find(head.id) for head in newest))
            return [job for job in states if job]

    found: list[Job] = run_until(work())
    if as_json:
        typer.echo(json.dumps([job.model_dump(mode="json") for job in found]))
        return
    rows = table("job", "plan", "owner", "status", "done", "created", "error")
    for job in found:
        rows.add_row(
            job.id, job.plan.name, job.owner, job.status, f"{job.progress:.0f}%", _clock(job.created), job.error
        )
    out.print(rows if found else "no jobs")


@app.command()
def show(job_id: JobArgument, as_json: JsonOption = False, data: DataOption = None) -> None:
    """Show how a job stands, step by step, and what came out."""
    job = run_until(_get(data, job_id))
    if as_json:
        typer.echo(job.model_dump_json(indent=2))
        return
    waits = " (waits for its owner's other jobs)" if job.parked else ""
    out.print(f"{job.id} {job.plan.name} of {job.owner}, {job.priority}: {job.status}{waits}", markup=False)
    out.print(_steps(job))
    for line in _failed_items(job):
        out.print(line, markup=False)
    if job.error:
        out.print(f"error: {job.error}", markup=False)
    if job.output is not None:
        out.print_json(data=job.output)


@app.command()
def logs(job_id: JobArgument, as_json: JsonLinesOption = False, data: DataOption = None) -> None:
    """Print what the job's steps logged."""

    async def work() -> bool:
        async with connected(data) as desk:
            await desk.bus.declare(subjects.JOBLOGS)
            silent = True
            async for lines in desk.jobs.logs(job_id):
                silent = False
                if as_json:
                    typer.echo(lines.model_dump_json())
                    continue
                for line in lines.lines:
                    where = f"{place(lines.step, lines.item)} #{lines.attempt}"
                    out.print(f"{_clock(line.time)} {where} {line.level} {line.text}", markup=False)
            if silent:
                await desk.jobs.get(job_id)  # else one that is not there would pass for a silent one
            return silent

    if run_until(work()) and not as_json:
        out.print("its steps have logged nothing")


@app.command()
def watch(job_id: JobArgument, data: DataOption = None) -> None:
    """Show a job's progress until it is over; exit status 1 when it fails."""

    async def work() -> Job:
        async with connected(data) as desk:
            return await _follow(desk, job_id)

    _end(run_until(work()))


@app.command()
def cancel(
    job_id: JobArgument,
    reason: Annotated[str, typer.Option(help="Kept with the job.")] = "cancelled",
    data: DataOption = None,
) -> None:
    """End a job: what runs is ended, what waits is taken back."""

    async def work() -> Job:
        async with connected(data) as desk:
            return await desk.jobs.cancel(job_id, reason)

    out.print(f"{job_id} is {run_until(work()).status}")


@app.command()
def retry(job_id: JobArgument, data: DataOption = None) -> None:
    """Let a job that failed, or was cancelled, go on from the step that failed."""

    async def work() -> Job:
        async with connected(data) as desk:
            return await desk.jobs.retry(job_id)

    out.print(f"{job_id} is {run_until(work()).status}")


async def _get(data: Path | None, job_id: str) -> Job:
    async with connected(data) as desk:
        return await desk.jobs.get(job_id)


async def _follow(desk: Desk, job_id: str) -> Job:
    """Print each thing that happens to a job, a line each."""
    told: set[str] = set()
    async for job in desk.jobs.watch(job_id):
        for name, state in job.steps.items():
            line = _said(name, state)
            if line and line not in told:
                told.add(line)
                out.print(line, markup=False)
        last = job
    return last


def _said(name: str, state: StepState) -> str:
    if state.status.value in {"waiting", "ready"}:
        return ""
    text = f": {state.text}" if state.text and not state.status.over else ""
    error = f": {state.error}" if state.error else ""
    percent = f" {state.progress:.0f}%" if not state.status.over and state.progress else ""
    return f"{name} {state.status}{percent}{text}{error}"


def _end(job: Job) -> None:
    """Say how it ended; one that failed fails the command."""
    if not job.status.over:
        return
    out.print(f"{job.status}: {job.error}" if job.error else str(job.status), markup=False)
    if job.output is not None:
        out.print_json(data=job.output)
    if job.status is not JobStatus.DONE:
        raise typer.Exit(1)


def _steps(job: Job) -> Any:
    rows = table("step", "status", "tries", "done", "seconds", "error")
    for name, state in job.steps.items():
        took = f"{(state.ended or time.time()) - state.started:.2f}" if state.started else ""
        tries = max([state.attempt, *(item.attempt for item in state.items or [])])
        shown = name if state.items is None else f"{name} ({counted(len(state.items), 'item')})"
        rows.add_row(shown, state.status, str(tries), f"{state.progress:.0f}%", took, state.error)
    return rows


def _failed_items(job: Job) -> list[str]:
    """A line for each item that failed, as far as somebody reads on."""
    lines = [
        f"{place(name, number)} failed: {item.error}"
        for name, state in job.steps.items()
        for number, item in enumerate(state.items or [])
        if item.status is StepStatus.FAILED
    ]
    more = [f"and {len(lines) - MOST_FAILED} more: --json has them all"] if len(lines) > MOST_FAILED else []
    return lines[:MOST_FAILED] + more


def _clock(moment: float) -> str:
    """The time of day, with the date where that is another one."""
    local = time.localtime(moment)
    today = local[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", local)


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises FramemeshError that names the field."""
    import yaml  # noqa: PLC0415 - takes long to import

    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise FramemeshError(f"{path}: cannot be read: {reason}") from None
    try:
        return Plan.model_validate(found)
    except ValidationError as error:
        raise FramemeshError(f"{path}: {invalid(Plan, error)}") from None


def read_input(parts: list[str]) -> dict[str, Any]:
    """The options ``--input`` as a job's input. Raises FramemeshError."""
    found: dict[str, Any] = {}
    for part in parts:
        if part.startswith("@"):
            found |= _file(Path(part[1:]))
            continue
        name, separator, text = part.partition("=")
        if not separator or not name:
            raise FramemeshError(f"--input {part!r}: want name=value, or @file.json")
        try:
            found[name] = json.loads(text)
        except (ValueError, RecursionError):
            found[name] = text
    return found


def _file(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FramemeshError(f"--input @{path}: cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise FramemeshError(f"--input @{path}: want an object, it is {type(found).__name__}")
    return found


# -- functions ----------------------------------------------------------------------------------------


@functions.command("list")
def list_functions(as_json: JsonOption = False, data: DataOption = None) -> None:
    """Show every function that a worker has ever had, how many steps wait, and what has been set."""

    async def work() -> tuple[list[dict[str, Any]], dict[str, int]]:
        async with connected(data) as desk:
            known = await desk.jobs.functions.all()
            return [each.model_dump() for each in known.values()], await desk.jobs.functions.waiting()

    found, waiting = run_until(work())
    for each in found:
        each["waiting"] = waiting.get(each["name"], 0)
    if as_json:
        typer.echo(json.dumps(found))
        return
    rows = table("function", "waiting", "at a time", "a second", "paused", "what it does")
    for each in found:
        rows.add_row(
            each["name"], str(each["waiting"]), str(each["concurrency"] or "any"),
            f"{each['rate']:g}" if each["rate"] else "any", "yes" if each["paused"] else "", each["description"],
        )  # fmt: skip
    out.print(rows if found else "no functions: start a worker, e.g. `framemesh worker examples.greeting`")


FunctionArgument = Annotated[str, typer.Argument(help="Name of a function.", show_default=False)]


@functions.command()
def pause(name: FunctionArgument, data: DataOption = None) -> None:
    """Begin no more steps of a function; what runs goes on, what comes waits."""
    _set(data, name, paused=True)


@functions.command()
def resume(name: FunctionArgument, data: DataOption = None) -> None:
    """Begin steps of a paused function again."""
    _set(data, name, paused=False)


@functions.command()
def limit(
    name: FunctionArgument,
    concurrency: Annotated[
        int | None, typer.Option(min=0, help="Most at a time in the whole mesh; 0: any.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0, help="Most begun a second; 0: any.")] = None,
    data: DataOption = None,
) -> None:
    """Bound how many steps of a function run at a time, or begin a second."""
    values = {"concurrency": concurrency, "rate": rate}
    if all(value is None for value in values.values()):
        raise FramemeshError("give --concurrency, --rate or both")
    _set(data, name, **{key: value for key, value in values.items() if value is not None})


@functions.command("rm")
def remove_function(name: FunctionArgument, data: DataOption = None) -> None:
    """Forget a function that no worker has any more: steps that wait for it fail, plans that need it are refused.

    A job goes on without an optional step. It is refused while a worker that has the function is alive.
    """

    async def work() -> int:
        async with connected(data) as desk:
            return await desk.jobs.forget(name)

    out.print(f"{name}: removed; {counted(run_until(work()), 'step')} waited for it")


def _set(data: Path | None, name: str, **values: object) -> None:
    async def work() -> str:
        async with connected(data) as desk:
            return (await desk.jobs.functions.change(name, **values)).summary

    out.print(f"{name}: {run_until(work())}")


# -- schedules ----------------------------------------------------------------------------------------


@schedules.command("list")
def list_schedules(as_json: JsonOption = False, data: DataOption = None) -> None:
    """Show every schedule."""

    async def work() -> list[Schedule]:
        async with connected(data) as desk:
            return await Schedules(desk.bus).all()

    found = run_until(work())
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in found]))
        return
    rows = table("schedule", "cron", "zone", "plan", "owner")
    for each in found:
        rows.add_row(each.name, each.cron, each.zone, each.plan.name, each.owner)
    out.print(rows if found else "no schedules")


@schedules.command()
def add(
    name: Annotated[str, typer.Argument(help="Its name; one that is there is replaced.", show_default=False)],
    cron: Annotated[
        str,
        typer.Argument(
            help="[second] minute hour day month weekday, e.g. '30 6 * * mon-fri'; or @hourly, @daily, @every 5m.",
            show_default=False,
        ),
    ],
    plan: PlanArgument,
    given: InputOption = None,
    zone: Annotated[str, typer.Option(help="Time zone, e.g. Europe/Berlin.")] = "UTC",
    owner: OwnerOption = "nobody",
    priority: PriorityOption = Priority.NORMAL,
    data: DataOption = None,
) -> None:
    """Make a job again and again. While no jobs service runs, one of several missed runs is made up for."""
    values = {"name": name, "cron": cron, "zone": zone, "owner": owner, "priority": priority}
    try:
        made = Schedule.model_validate(
            {**values, "plan": read_plan(plan).model_dump(), "input": read_input(given or [])}
        )
    except ValidationError as error:
        raise FramemeshError(invalid(Schedule, error)) from None

    async def work() -> None:
        async with connected(data) as desk:
            await desk.jobs.check(made.plan, made.input)
            await Schedules(desk.bus).put(made)

    run_until(work())
    out.print(f"{name}: {cron} ({zone})", markup=False)


@schedules.command()
def rm(name: Annotated[str, typer.Argument(show_default=False)], data: DataOption = None) -> None:
    """Remove a schedule; jobs that it has made go on."""

    async def work() -> None:
        async with connected(data) as desk:
            await Schedules(desk.bus).remove(name)

    run_until(work())
    out.print(f"{name} is removed")


@schedules.command()
def run(name: Annotated[str, typer.Argument(show_default=False)], data: DataOption = None) -> None:
    """Make a schedule's job now, beside its times."""

    async def work() -> None:
        async with connected(data) as desk:
            await Schedules(desk.bus).run(name)

    run_until(work())
    out.print(f"{name} is asked for")
