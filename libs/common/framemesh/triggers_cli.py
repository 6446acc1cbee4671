"""``framemesh triggers``: events that start jobs."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from pydantic import ValidationError

from framemesh import subjects
from framemesh.bus import BusError
from framemesh.errors import FramemeshError
from framemesh.jobs_cli import (
    InputOption,
    JsonOption,
    OwnerOption,
    PlanArgument,
    PriorityOption,
    connected,
    read_input,
    read_plan,
)
from framemesh.pull import invalid
from framemesh.steps.job import Priority
from framemesh.steps.triggers import Subscription, TriggerEvent, Triggers, checked
from framemesh.terminal import DataOption, out, run_until, table

app = typer.Typer(
    help="Events that start jobs: one on `triggers.<name>` starts the plan that is subscribed to the name.\n\n"
    "An event is durable as soon as it is taken. What cannot become a job, or whose job fails, is a dead letter: "
    "`framemesh dead replay` sends it again.",
    no_args_is_help=True,
)
NameArgument = Annotated[str, typer.Argument(help="Name of a trigger, e.g. media.uploaded.", show_default=False)]


@app.command("list")
def list_triggers(as_json: JsonOption = False, data: DataOption = None) -> None:
    """Show which plan each trigger starts."""

    async def work() -> list[tuple[Subscription, bool]]:
        async with connected(data) as desk:
            return await Triggers(desk.bus).all()

    found = run_until(work())
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") | {"built_in": built_in} for each, built_in in found]))
        return
    rows = table("trigger", "plan", "steps", "built in")
    for each, built_in in found:
        rows.add_row(each.trigger, each.plan.name, ", ".join(each.plan.steps), "yes" if built_in else "")
    out.print(rows)


@app.command()
def add(name: NameArgument, plan: PlanArgument, data: DataOption = None) -> None:
    """Let a trigger start a plan from now on, instead of the one that it starts now.

    The job's input is the event's.
    """
    made = Subscription(trigger=checked(name), plan=read_plan(plan))

    async def work() -> None:
        async with connected(data) as desk:
            await desk.jobs.check(made.plan, None)
            await Triggers(desk.bus).put(made)

    run_until(work())
    out.print(f"{name} starts {made.plan.name}", markup=False)


@app.command()
def rm(name: NameArgument, data: DataOption = None) -> None:
    """Let a trigger start nothing any more, or again the plan that is built in; jobs that it has made go on."""

    async def work() -> None:
        async with connected(data) as desk:
            await Triggers(desk.bus).remove(name)

    run_until(work())
    out.print(f"{name} is removed")


@app.command()
def fire(
    name: NameArgument,
    given: InputOption = None,
    owner: OwnerOption = "nobody",
    priority: PriorityOption = Priority.NORMAL,
    key: Annotated[str | None, typer.Option(help="With the same key and owner it is the same job.")] = None,
    data: DataOption = None,
) -> None:
    """Publish an event, as programs do on `triggers.<name>`; prints its number in the stream."""
    values = {"input": read_input(given or []), "owner": owner, "priority": priority, "key": key}
    try:
        event = TriggerEvent.model_validate(values)
    except ValidationError as error:
        raise FramemeshError(invalid(TriggerEvent, error)) from None

    async def work() -> int:
        async with connected(data) as desk:
            await desk.bus.declare(subjects.TRIGGERS)
            try:
                return await Triggers(desk.bus).fire(name, event)
            except BusError as error:
                raise FramemeshError(f"trigger {name}: the stream does not take it: {error}") from error

    typer.echo(run_until(work()))
