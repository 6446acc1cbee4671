"""``framemesh dead``: what could not be processed; see it, try it again, or forget it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from framemesh import subjects
from framemesh.bus import Bus, BusError, Stored
from framemesh.errors import FramemeshError
from framemesh.headers import EXPECTED, MSG_ID
from framemesh.messages import DeadLetter
from framemesh.terminal import DataOption, clients, counted, mesh_settings, out, run_until, table

T = TypeVar("T")
Work = Callable[[Bus], Awaitable[T]]

app = typer.Typer(
    help="Messages that could not be processed, with the reason; kept for 14 days.\n\n"
    "`replay` publishes a message again where it came from, once its cause is mended.",
    no_args_is_help=True,
)
PATIENCE_S = 10.0
KEPT_HEADERS = ("traceparent",)
"""Others name a message or a schedule; they would make the copy pass for the one that died."""

NumberArgument = Annotated[
    int, typer.Argument(min=1, help="Number of a dead letter, see `list`.", show_default=False)
]
NumbersArgument = Annotated[
    list[int] | None, typer.Argument(help="Numbers of dead letters; or give --all.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="All of them.")]
StreamOption = Annotated[str, typer.Option(help="Only those of this stream, e.g. JOBS or FRAMES.")]


@app.command("list")
def list_letters(
    stream: StreamOption = "*",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    data: DataOption = None,
) -> None:
    """Show the dead letters, the newest last."""
    found = run_until(_all(data, stream))
    if as_json:
        typer.echo(json.dumps([{"number": each.seq} | each.message.model_dump() for each in found]))
        return
    rows = table("number", "when", "subject", "reason")
    for each in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.message.timestamp))
        rows.add_row(str(each.seq), when, each.message.subject, each.message.reason.partition("\n")[0])
    out.print(rows if found else "no dead letters")


@app.command()
def show(number: NumberArgument, data: DataOption = None) -> None:
    """Show one whole: reason, stack and the message as it came."""

    async def work(bus: Bus) -> Stored[DeadLetter]:
        return await _one(bus, number)

    letter = run_until(_with(data, work)).message
    for name, value in letter.model_dump().items():
        out.print(f"{name}: {value}", markup=False)


@app.command()
def replay(
    numbers: NumbersArgument = None,
    everything: AllOption = False,
    stream: StreamOption = "*",
    data: DataOption = None,
) -> None:
    """Publish messages again on the subjects that they came from; what was taken leaves the dead letters."""

    async def again(bus: Bus, each: Stored[DeadLetter]) -> None:
        letter = each.message
        if letter.cut:
            raise FramemeshError(
                f"dead letter {each.seq} was too large to be kept whole: publish it anew, then drop this"
            )
        payload = letter.payload.encode() if letter.encoding == "utf-8" else base64.b64decode(letter.payload)
        headers = {name: letter.headers[name] for name in KEPT_HEADERS if name in letter.headers}
        # The same dead letter never gives two copies, however often it is replayed by mistake.
        headers |= {MSG_ID: f"replay/{each.seq}"}
        if letter.stream == subjects.JOBS.name:  # which has one message a subject: a newer one must not go
            headers |= {EXPECTED: "0"}
        try:
            await bus.publish_raw(letter.subject, payload, headers, patience=PATIENCE_S)
        except BusError as error:
            raise FramemeshError(f"dead letter {each.seq}: {letter.subject} does not take it: {error}") from error

    out.print(f"{counted(_take_out(data, numbers, everything, stream, again), 'message')} sent again")


@app.command()
def drop(
    numbers: NumbersArgument = None,
    everything: AllOption = False,
    stream: StreamOption = "*",
    data: DataOption = None,
) -> None:
    """Forget dead letters."""

    async def nothing(_: Bus, __: Stored[DeadLetter]) -> None:
        """Each is only taken out."""

    out.print(f"{counted(_take_out(data, numbers, everything, stream, nothing), 'dead letter')} dropped")


def _take_out(
    data: Path | None,
    numbers: list[int] | None,
    everything: bool,
    stream: str,
    first: Callable[[Bus, Stored[DeadLetter]], Awaitable[None]],
) -> int:
    """Do ``first`` with each of the letters that were asked for, then take it out; how many there were."""

    async def work(bus: Bus) -> int:
        chosen = await _chosen(bus, numbers, everything, stream)
        for each in chosen:
            await first(bus, each)
            await bus.delete(subjects.DEADLETTERS.name, each.seq)
        return len(chosen)

    count: int = run_until(_with(data, work))
    return count


async def _with(data: Path | None, work: Work[T]) -> T:
    bus, registry = await clients(mesh_settings(data))
    try:
        await bus.declare(subjects.DEADLETTERS)
        return await work(bus)
    finally:
        await registry.redis.aclose()
        await bus.close()


async def _all(data: Path | None, stream: str) -> list[Stored[DeadLetter]]:
    async def work(bus: Bus) -> list[Stored[DeadLetter]]:
        return await _read(bus, stream)

    return await _with(data, work)


async def _read(bus: Bus, stream: str) -> list[Stored[DeadLetter]]:
    read = bus.read(subjects.DEADLETTERS.name, subjects.dead(stream, ">"), 1, DeadLetter)
    return [stored async for stored in read]


async def _one(bus: Bus, number: int) -> Stored[DeadLetter]:
    found = await bus.at_or_after(subjects.DEADLETTERS.name, "dead.>", number, DeadLetter)
    if found is None or found.seq != number:
        raise FramemeshError(f"there is no dead letter {number}: `framemesh dead list` shows them")
    return found


async def _chosen(bus: Bus, numbers: list[int] | None, everything: bool, stream: str) -> list[Stored[DeadLetter]]:
    if bool(numbers) == everything:
        raise FramemeshError("give the numbers of dead letters, or --all")
    return await _read(bus, stream) if everything else [await _one(bus, number) for number in numbers or []]
