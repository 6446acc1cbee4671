"""``framemesh models``: what is installed, what runs, how fast it is here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.table import Table

from framemesh import assets, models
from framemesh.errors import FramemeshError
from framemesh.messages import Heartbeat, Medium
from framemesh.models import ModelInfo, Timing
from framemesh.terminal import (
    DataOption,
    clients,
    data_folder,
    err,
    mesh_environment,
    mesh_settings,
    out,
    run_until,
)

app = typer.Typer(
    help="Models: which there are, whether their files are here, which run and how fast they are on this machine.",
    no_args_is_help=True,
)

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
NamesArgument = Annotated[list[str] | None, typer.Argument(help="Models by name; all of them when left out.")]


@app.command("list")
def list_models(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show every model, whether its files are on this machine, and its live replicas in the running mesh."""
    live = models.replicas(_alive(data))
    rows = [_row(info, live.pop((info.kind, info.name), [])) for info in models.known().values()]
    rows += [_foreign(kind, name, beats) for (kind, name), beats in sorted(live.items())]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("model", "kind", "takes", "size", "live", "runs on", "sha256")
    for row in rows:
        runs = ", ".join(row["providers"]), ", ".join(sha[:8] for sha in row["sha256"])
        size = "missing" if row["missing"] else decimal(row["bytes"]) if row["bytes"] else "packaged"
        table.add_row(row["model"], row["kind"], row["takes"], size, str(row["replicas"]), *runs)
    out.print(table)
    for row in rows:
        if row["missing"]:
            out.print(f"{row['model']} lacks {', '.join(row['missing'])}: `framemesh models pull {row['model']}`")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A model's name.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one model: its files with checksums and licences, how it is chosen, and each live replica."""
    info = _known(name)
    beats = models.replicas(_alive(data)).get((info.kind, info.name), [])
    report = _row(info, beats) | {
        "start": f"framemesh worker {info.worker}",
        "setting": f"{info.chosen_by}={info.name}" if info.chosen_by else "",
        "files": [_file(file) for file in info.files],
        "instances": [beat.model_dump(mode="json") for beat in beats],
    }
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    out.print(f"[bold]{info.name}[/], run by {info.kind}, takes {info.takes}")
    out.print(f"start: {report['start']}" + (f", with {report['setting']}" if report["setting"] else ""))
    for file in report["files"]:
        place = file["path"] or f"not here: `framemesh models pull {info.name}`"
        out.print(f"  {file['name']}  {decimal(file['bytes'])}  {file['licence']}  {file['sha256']}\n    {place}")
    for beat in beats:
        out.print(f"  alive: {beat.instance} on {beat.host}, {beat.detail.get('provider')}, sha256 {_sha(beat)}")
    if not beats:
        out.print("  no replica is alive")


@app.command()
def pull(names: NamesArgument = None) -> None:
    """Download the files of models that are not on this machine yet, and check them."""
    for info in [_known(name) for name in names or models.known()]:
        for file in info.files:
            typer.echo(f"{info.name}  {assets.ensure(file)}")
        if not info.files:
            typer.echo(f"{info.name}  comes with its Python package")


@app.command()
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models by name, or workers as for `framemesh worker`; all that are here when left out."
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,4,8",
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds to measure each.")] = models.SECONDS,
    providers: Annotated[
        str, typer.Option(help="ONNX Runtime providers in order, e.g. cuda,cpu; the best there are when left out.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Measure models on this machine: milliseconds a frame, or a window of sound, and what they run on.

    Each is loaded in this process and run on a real picture or real speech, where the samples are here; before and
    after are the milliseconds of `preprocess` and `postprocess`.
    """
    batches = _batches(batch)
    settings: dict[str, Any] = (
        {"onnx_providers": [name for name in providers.split(",") if name]} if providers else {}
    )
    timings: list[Timing] = []
    for name in names or _here():
        err.print(f"measuring {name} …")
        timings += models.bench(name, batches, seconds, **settings)
    if as_json:
        typer.echo(json.dumps([timing.as_dict() for timing in timings], indent=2))
        return
    table = Table("model", "runs on", "batch", "before", "infer", "after", "ms each", "real time")
    table.columns[0].no_wrap = True
    for timing in timings:
        speed = f"x {timing.window_s * 1000 / timing.total_ms:.1f}" if timing.window_s else ""
        table.add_row(
            timing.model, timing.provider, str(timing.batch), f"{timing.preprocess_ms:.2f}",
            f"{timing.infer_ms:.2f}", f"{timing.postprocess_ms:.2f}", f"{timing.total_ms:.2f}", speed,
        )  # fmt: skip
    out.print(table)


def _batches(text: str) -> tuple[int, ...]:
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isdecimal() and 1 <= int(size) <= 256 for size in sizes):  # noqa: PLR2004 - as batch_size
        raise FramemeshError(f"--batch {text}: give numbers from 1 to 256, separated by commas, e.g. 1,4,8")
    return tuple(map(int, sizes))


def _here() -> list[str]:
    found = []
    for info in models.known().values():
        if info.missing:
            err.print(f"{info.name} is left out: run `framemesh models pull {info.name}`")
        else:
            found.append(info.name)
    return found


def _known(name: str) -> ModelInfo:
    known = models.known()
    if default := next((info for info in known.values() if info.worker == name), None):
        return default
    if name not in known:
        raise FramemeshError(f"there is no model {name!r}; there are: {', '.join(known)}")
    return known[name]


def _alive(data: Path | None) -> list[Heartbeat]:
    """Heartbeats of the mesh, none where no mesh is to be found."""
    if not mesh_environment(data_folder(data)):
        settings = mesh_settings(data)
        settings.connect_patience = 0
    else:
        settings = mesh_settings(data)

    async def ask() -> list[Heartbeat]:
        bus, registry = await clients(settings)
        try:
            return await registry.alive()
        finally:
            await registry.redis.aclose()
            await bus.close()

    try:
        found: list[Heartbeat] = run_until(ask())
    except FramemeshError:
        err.print("no mesh is running here: live replicas are not known")
        return []
    return found


def _row(info: ModelInfo, beats: list[Heartbeat]) -> dict[str, Any]:
    return {
        "model": info.name,
        "kind": info.kind,
        "takes": str(info.takes),
        "missing": info.missing,
        "bytes": sum(assets.get(name).bytes for name in info.files),
    } | _live(beats)


def _foreign(kind: str, name: str, beats: list[Heartbeat]) -> dict[str, Any]:
    """A model of somebody's own that runs."""
    takes: Medium = beats[0].takes
    return {"model": name, "kind": kind, "takes": str(takes), "missing": [], "bytes": 0} | _live(beats)


def _live(beats: list[Heartbeat]) -> dict[str, Any]:
    return {
        "replicas": len(beats),
        "providers": sorted({str(beat.detail.get("provider", "")) for beat in beats}),
        "sha256": sorted({_sha(beat) for beat in beats}),
    }


def _sha(beat: Heartbeat) -> str:
    return str(beat.detail.get("sha256", ""))


def _file(name: str) -> dict[str, Any]:
    asset = assets.get(name)
    path = next(assets.copies(asset), None)
    return {
        "name": name,
        "bytes": asset.bytes,
        "licence": asset.licence,
        "sha256": asset.sha256,
        "path": str(path) if path else "",
    }
