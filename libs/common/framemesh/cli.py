"""``framemesh``: see ``framemesh --help``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from nats.aio.msg import Msg
from pydantic import ValidationError
from rich.markup import escape
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from framemesh import (
    __version__,
    assets_cli,
    dead_cli,
    jobs_cli,
    models_cli,
    search_cli,
    subjects,
    tokens_cli,
    triggers_cli,
    worker_cli,
)
from framemesh.bus import Bus
from framemesh.demo import Demo, Plan, Progress, evidence_of
from framemesh.demo import plan as make_plan
from framemesh.doctor import examine
from framemesh.errors import FramemeshError, mendable
from framemesh.events import EventStore
from framemesh.mesh import LogFiles, Mesh, remove_data, running, service_names, step_services
from framemesh.messages import Event, EventState
from framemesh.registry import Registry
from framemesh.registry import connect as connect_redis
from framemesh.settings import Settings
from framemesh.supervise import refuse_shared_port
from framemesh.telemetry import configure_logging, redact
from framemesh.terminal import (
    DataOption,
    clients,
    counted,
    data_folder,
    err,
    joined,
    mesh_environment,
    mesh_settings,
    out,
    run_until,
    table,
)

app = typer.Typer(
    help="Turn cameras and videos into events with evidence, on a mesh of small services.\n\n"
    "Begin with `framemesh demo`: it starts everything, runs a real video through, and shows the events. "
    "For work that goes on, `framemesh up` starts the servers and services, and `framemesh run reader` "
    "reads a camera.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.add_typer(assets_cli.app, name="assets")
app.add_typer(models_cli.app, name="models")
app.add_typer(jobs_cli.app, name="jobs")
app.add_typer(jobs_cli.functions, name="functions")
app.add_typer(jobs_cli.schedules, name="schedules")
app.add_typer(triggers_cli.app, name="triggers")
app.add_typer(dead_cli.app, name="dead")
app.add_typer(tokens_cli.app, name="tokens")
app.command()(worker_cli.worker)
app.command()(search_cli.search)


STEPS = {EventState.CREATED: "began", EventState.PENDING: "ended after {:.1f} s"}
"""What a line says of an event that has no evidence yet: only then is its beginning or its end the news."""


class Pace(StrEnum):
    """How fast a file is read."""

    REALTIME = "realtime"
    FAST = "fast"


def main() -> NoReturn:
    """Entry point: what a user can mend is one line, not a stack."""
    try:
        app()
    except (FramemeshError, ExceptionGroup) as error:
        if not (found := mendable(error)):
            raise
        err.print(f"[bold red]framemesh:[/] {escape(redact(str(found)))}", markup=True)
        sys.exit(1)
    except OSError as error:
        if not error.filename:
            raise
        err.print(f"[bold red]framemesh:[/] {error.filename}: {error.strerror}; choose another file or folder")
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)
    sys.exit(0)


# -- demo -------------------------------------------------------------------------------------------


@app.command()
def demo(
    source: Annotated[
        str | None, typer.Option(help="Video file or address (rtsp://…); a sample clip when left out.")
    ] = None,
    models: Annotated[
        str,
        typer.Option(
            help="Models, separated by commas: yolox-nano, fastestdet, people-hog, face-haar, squeezenet."
        ),
    ] = "",
    labels: Annotated[str, typer.Option(help="Labels that make an event, e.g. person,dog.")] = "",
    detection_workers: Annotated[int, typer.Option(min=1, max=64, help="Detection processes.")] = 1,
    pace: Annotated[
        Pace, typer.Option(help="Read a file as fast as the mesh takes it, or in real time.")
    ] = Pace.FAST,
    duration: Annotated[
        float | None, typer.Option(min=0, help="Seconds of the source to read; 0 for all.")
    ] = None,
    confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Least confidence for an event.")] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Keep evidence, logs and data here; left out: the evidence alone, in a temporary folder."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, last, on standard output.")
    ] = False,
) -> None:
    """Run a video through the whole mesh on this machine and list the events with their evidence.

    Starts NATS, SeaweedFS and Redis on free ports of the loopback address, every service as its own process,
    and stops all of them at the end.
    """
    chosen = make_plan(source, _list(models), _list(labels))
    chosen.detection_workers, chosen.pace, chosen.confidence = detection_workers, pace.value, confidence
    if duration is not None:
        chosen.duration, chosen.skip_frames = duration, 0
    if chosen.notice:
        err.print(chosen.notice)
    meshes: list[Mesh] = []
    summary = run_until(_demo(chosen, keep, meshes), lambda: any(mesh.stopping for mesh in meshes))
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        _print_summary(summary)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


async def _demo(chosen: Plan, keep: Path | None, meshes: list[Mesh]) -> dict[str, Any]:
    data = keep or Path(tempfile.mkdtemp(prefix="framemesh-demo-"))
    extent = f" ({chosen.extent})" if chosen.extent else ""
    err.print(
        f"Running {redact(chosen.source)}{extent} through {', '.join(chosen.models)}; logs in {data / 'logs'}"
    )
    logs = LogFiles(data / "logs", _show_trouble)
    finished = False
    try:
        async with Mesh(data, on_line=logs) as mesh:
            meshes.append(mesh)
            with _bar() as show:
                summary: dict[str, Any] = await Demo(mesh, chosen, show).run()
            finished = True
    finally:
        logs.close()
        if not keep:
            remove_data(data, logs=finished)
    return summary


class _bar:  # noqa: N801 - used as a function
    """Progress on a terminal's stderr; a line every few seconds in a log."""

    def __enter__(self) -> Any:
        self._bar = Bar(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=err, transient=True
        )
        self._task = self._bar.add_task("starting the servers and services")
        self._shown = time.monotonic()
        if err.is_terminal:
            self._bar.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _show(self, progress: Progress) -> None:
        results = ", ".join(f"{count} {model}" for model, count in sorted(progress.results.items()))
        text = f"{progress.phase}: {counted(progress.frames, 'frame')} stored; results: {results or 'none yet'}"
        self._bar.update(self._task, description=text)
        if not err.is_terminal and time.monotonic() - self._shown > 5:  # noqa: PLR2004
            self._shown = time.monotonic()
            err.print(text)


def _print_summary(summary: dict[str, Any]) -> None:
    results = ", ".join(f"{count} {model}" for model, count in summary["results_by_model"].items())
    frames = counted(summary["frames_stored"], "frame")
    out.print(
        f"\n{frames} in {summary['seconds']:.1f} s ({summary['fps']} frames/s); "
        f"results: {results}; dropped {summary['dropped']}, dead letters {summary['dead_letters']}"
    )
    if not summary["events"]:
        out.print("No events: nothing that the rule looks for was seen long enough.")
        return
    table = Table(
        "event",
        "from",
        "to",
        "seen",
        "state",
        title=counted(len(summary["events"]), "event"),
        title_justify="left",
    )
    for event in summary["events"]:
        seen = ", ".join(f"{count}x {label}" for label, count in event["counts"].items())
        table.add_row(event["label"], _clock(event["start_s"]), _clock(event["end_s"]), seen, event["state"])
    out.print(table)
    out.print("Evidence:")
    for event in summary["events"]:
        for path in evidence_of(event):
            out.print(f"  {path}")
        if event["reason"]:
            out.print(f"  {event['id']}: {event['reason']}")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:d}:{seconds % 60:04.1f}"


# -- up, down, status -------------------------------------------------------------------------------


@app.command()
def up(
    data: DataOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Go on in the background; end it with `framemesh down`.")
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option(help="Also read this file or address; may be given again.", envvar="FRAMEMESH_SOURCES"),
    ] = None,
    services: Annotated[
        str, typer.Option(help="Services to start, separated by commas; `none` for the servers alone.")
    ] = "uploader,router,detection,classification,registrator",
    detection_workers: Annotated[int, typer.Option(min=1, max=64, help="Detection processes.")] = 1,
    nats_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of NATS; any free one when left out.")
    ] = None,
    redis_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of Redis.")] = None,
    master_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the SeaweedFS master.")
    ] = None,
    volume_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of its volume server.")] = None,
    filer_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of its filer.")] = None,
    s3_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of its S3 gateway.")] = None,
) -> None:
    """Start the servers and the services on this machine and keep them running until Ctrl-C.

    Settings come from the environment and `.env`; logs are shown here with the process's name, and kept in the
    data folder. A service that dies is started again.
    """
    ports = {
        "nats": nats_port, "redis": redis_port, "master": master_port,
        "volume": volume_port, "filer": filer_port, "s3": s3_port,
    }  # fmt: skip
    folder = data_folder(data)
    if detach:
        _detach(folder, source or [])
        return
    names = [] if services == "none" else _list(services)
    _refuse_unknown(names)
    refuse_shared_port(len(names) + names.count("detection") * (detection_workers - 1) + len(source or []))
    try:
        meshes: list[Mesh] = []
        work = _up(folder, {k: v for k, v in ports.items() if v}, names, detection_workers, source or [], meshes)
        run_until(work, lambda: any(mesh.stopping for mesh in meshes))
    except KeyboardInterrupt:
        err.print("stopped; nothing is left running")


def _refuse_unknown(names: list[str]) -> None:
    known = [*service_names(), *step_services()]
    for name in names:
        if name not in known:
            raise FramemeshError(f"there is no service {name!r}; there are: {', '.join(known)}")


async def _up(
    folder: Path,
    ports: dict[str, int],
    names: list[str],
    detection_workers: int,
    sources: list[str],
    meshes: list[Mesh],
) -> None:
    configure_logging("framemesh")
    logs = LogFiles(folder / "logs", _show_line)
    try:
        async with Mesh(folder, ports, on_line=logs) as mesh:
            meshes.append(mesh)
            await mesh.start_servers()
            for name in names:
                for index in range(detection_workers if name == "detection" else 1):
                    label = f"{name}-{index + 1}" if name == "detection" and detection_workers > 1 else name
                    await mesh.start_service(name, label=label)
            for index, address in enumerate(sources):
                await mesh.start_service("reader", {"video_source": address}, label=f"reader-{index + 1}")
            await _wait_alive(mesh)
            mesh.mark_ready()
            err.print(f"up; data in {folder}")
            for name, value in sorted(mesh.environment().items()):
                err.print(f"  {name}={value}")
            await asyncio.Event().wait()
    finally:
        logs.close()


async def _wait_alive(mesh: Mesh) -> None:
    environment = mesh.environment()
    redis = await connect_redis(environment["redis_host"], int(environment["redis_port"]))
    try:
        await mesh.wait_alive(Registry(redis))
    finally:
        await redis.aclose()


def _show_trouble(name: str, line: str) -> None:
    """What a user of the demo should know: that a camera does not answer, that a frame is damaged."""
    if name == "reader" and " WARNING " in line:
        err.print(line.partition(" WARNING ")[2].strip(), markup=False)


def _show_line(name: str, line: str) -> None:
    # SeaweedFS and NATS tell a lot about their daily business; it is in their files.
    if name not in {"seaweedfs", "nats", "redis"}:
        err.print(f"{name:>14} | {line}", markup=False)


def _detach(folder: Path, sources: list[str]) -> None:
    """Start the same command again in the background, and wait until it is up."""
    if state := running(folder):
        raise FramemeshError(f"a mesh is running in {folder} (process {state.pid}); stop it with `framemesh down`")
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    hidden = {"--detach", "-d", "--source", *sources, *(f"--source={source}" for source in sources)}
    arguments = [part for part in sys.argv[1:] if part not in hidden]
    log = folder / "logs" / "up.log"
    with log.open("w") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "framemesh", *arguments],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
            # Not as arguments: their passwords would stay in the list of processes.
            env=dict(os.environ) | {"FRAMEMESH_SOURCES": " ".join(sources)},
        )  # fmt: skip
    while child.poll() is None:
        if (state := running(folder)) and state.ready:
            out.print(f"up in the background (process {child.pid}); data in {folder}")
            out.print("`framemesh status` shows it, `framemesh down` ends it")
            return
        time.sleep(0.1)
    raise FramemeshError(f"it did not come up: {_last_line(log)} (all of it in {log})")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("framemesh: ") if lines else "it said nothing"


@app.command()
def down(data: DataOption = None) -> None:
    """Stop a mesh that `framemesh up` started, in order. Its data stays.

    What `framemesh worker` and `framemesh run` started goes on, and joins again when the mesh is up.
    """
    folder = data_folder(data)
    state = running(folder)
    if not state:
        raise FramemeshError(f"no mesh is running in {folder}")
    os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + 15
    while running(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    if running(folder):
        raise FramemeshError(f"process {state.pid} does not stop; its logs are in {folder / 'logs'}")
    out.print("stopped; its data stays")
    out.print("What `framemesh worker` and `framemesh run` started goes on, and joins again when the mesh is up")


@app.command()
def status(
    data: DataOption = None, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """Show the services that are alive, the streams with their depth, and the servers' addresses."""
    report = run_until(_status(mesh_settings(data)))
    if as_json:
        typer.echo(json.dumps(report))
        return
    services = table("kind", "instance", "model", "host", "pid", title="services")
    for row in report["services"]:
        services.add_row(row["kind"], row["instance"], row["model"] or "", row["host"], str(row["pid"]))
    streams = table("stream", "messages", "bytes", "waiting", title="streams")
    for row in report["streams"]:
        waiting = ", ".join(f"{name}: {count}" for name, count in row["consumers"].items())
        streams.add_row(row["name"], str(row["messages"]), str(row["bytes"]), waiting)
    out.print(services, streams)
    for name, address in report["servers"].items():
        out.print(f"{name}: {address}")


async def _status(settings: Settings) -> dict[str, Any]:
    bus, registry = await clients(settings)
    try:
        beats = await registry.alive()
        streams = await bus.jetstream.streams_info()
        return {
            "services": [beat.model_dump() for beat in beats],
            "streams": [
                await _stream_row(bus, info) for info in sorted(streams, key=lambda i: str(i.config.name))
            ],
            "servers": {
                "nats": redact(settings.nats_host),
                "redis": f"{settings.redis_host}:{settings.redis_port}",
                "seaweedfs": settings.master_url,
                "s3": settings.s3_url,
            },
        }
    finally:
        await registry.redis.aclose()
        await bus.close()


async def _stream_row(bus: Bus, info: Any) -> dict[str, Any]:
    consumers = await bus.jetstream.consumers_info(info.config.name)
    return {
        "name": info.config.name,
        "messages": info.state.messages,
        "bytes": info.state.bytes,
        "consumers": {str(c.name): (c.num_pending or 0) + (c.num_ack_pending or 0) for c in consumers},
    }


# -- run, events, results, doctor -------------------------------------------------------------------


@app.command(context_settings={"allow_extra_args": False})
def run(
    service: Annotated[str, typer.Argument(help=f"One of {', '.join(service_names())}.")],
    data: DataOption = None,
) -> None:
    """Run one service here: `video_source=rtsp://camera/stream framemesh run reader`.

    Settings come from the environment and from `.env`.

    It finds the servers of a mesh that `framemesh up` started, unless the settings name others.
    """
    _refuse_unknown([service])
    environment = dict(os.environ) | joined(data)
    os.execve(sys.executable, [sys.executable, "-m", f"services.{service}"], environment)


@app.command()
def events(
    data: DataOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones as they come.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most events to list.")] = 1000,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First fill Redis again from the stream EVENTS.")
    ] = False,
) -> None:
    """List events by time, and with --follow every step of every event as it happens."""
    run_until(_events(mesh_settings(data), follow=follow, as_json=as_json, limit=limit, rebuild=rebuild))


async def _events(settings: Settings, *, follow: bool, as_json: bool, limit: int, rebuild: bool) -> None:
    bus, registry = await clients(settings)
    store = EventStore(registry.redis)
    try:
        if rebuild:
            err.print(f"{counted(await store.rebuild(bus), 'message')} of EVENTS read")
        fresh: asyncio.Queue[bytes] = asyncio.Queue()
        if follow:
            await bus.client.subscribe("events.*", cb=_into(fresh))
        for event in await store.between(limit=limit):
            _print_event(event, as_json=as_json)
        while follow:
            data = await fresh.get()
            with contextlib.suppress(ValidationError):  # the registrator makes it a dead letter
                _print_event(Event.model_validate_json(data), as_json=as_json)
    finally:
        await registry.redis.aclose()
        await bus.close()


def _into(queue: asyncio.Queue[bytes]) -> Callable[[Msg], Awaitable[None]]:
    async def put(msg: Msg) -> None:
        queue.put_nowait(msg.data)

    return put


def _print_event(event: Event, *, as_json: bool) -> None:
    if as_json:
        typer.echo(event.model_dump_json())
        return
    out.print(_event_line(event), markup=False)


def _event_line(event: Event) -> str:
    """When an event began, how far it is, by which rule, where, and what was seen."""
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.start))
    step = STEPS.get(event.state, "lasted {:.1f} s").format(event.end - event.start)
    seen = ", ".join(f"{count}x {label}" for label, count in event.counts.items())
    parts = (begun, f"{step:<18}", event.rule, event.source, f"{event.state:<8}", seen)
    return "  ".join(filter(None, (*parts, event.video_url or event.reason)))


@app.command()
def results(
    data: DataOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C; otherwise end at the newest.")
    ] = False,
) -> None:
    """Print results, one JSON object a line: those that are kept, and with --follow new ones as they come."""
    run_until(_results(mesh_settings(data), follow=follow))


async def _results(settings: Settings, *, follow: bool) -> None:
    bus, registry = await clients(settings)
    fresh: asyncio.Queue[bytes] = asyncio.Queue()
    try:
        if follow:
            await bus.client.subscribe(subjects.RESULTS_FEED, cb=_into(fresh))
        async for message in bus.raw(subjects.RESULTS.name, "inference.results.*.*"):
            typer.echo(message)
        while follow:
            typer.echo(await fresh.get())
    finally:
        await registry.redis.aclose()
        await bus.close()


@app.command()
def doctor(data: DataOption = None) -> None:
    """Say what this machine lacks, and how to mend it. Exits with 1 when something needed is missing."""
    findings = examine(mesh_environment(data_folder(data)), data_folder(data))
    for finding in findings:
        mark = "[green]ok[/]  " if finding.ok else ("[red]no[/]  " if finding.needed else "[yellow]-[/]   ")
        fix = "" if finding.ok or not finding.fix else f" — {finding.fix}"
        out.print(f"{mark}{finding.what}: {finding.found}{fix}")
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(1)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"framemesh {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
