"""``framemesh models``: what is installed, what runs, how fast it is here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from framemesh import assets, models, workers
from framemesh.errors import FramemeshError
from framemesh.messages import Heartbeat, Medium
from framemesh.models import ModelInfo, Timing
from framemesh.terminal import (
    DataOption,
    NoMesh,
    clients,
    err,
    mesh_settings,
    out,
    run_until,
    table,
)

Replicas = dict[tuple[str, str], list[Heartbeat]]
"""Those that are alive, by kind and model."""

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
    shown = table("model", "kind", "takes", "size", "live", "runs on", "sha256")
    for row in rows:
        runs = ", ".join(row["providers"]), ", ".join(sha[:8] for sha in row["sha256"])
        shown.add_row(row["model"], row["kind"], row["takes"], _size(row), str(row["replicas"]), *runs)
    out.print(shown)
    for row in rows:
        if row["missing"]:
            out.print(f"{row['model']} lacks {', '.join(row['missing'])}: `framemesh models pull {row['model']}`")


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(help="A model's name, that of one that runs, or a worker as for `framemesh worker`.")
    ],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one model: its files with checksums and licences, how it is chosen, and each live replica."""
    live = models.replicas(_alive(data))
    own = None if name in models.known() else _running(name, live)
    report = own or _described(_known(name), live)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    for line in _told(name, report):
        out.print(line, markup=False)


def _told(name: str, report: dict[str, Any]) -> Iterator[str]:
    yield f"{report['model']}, run by {report['kind']}, takes {report['takes']}"
    if report["start"]:
        yield f"start: {report['start']}" + (f", with {report['setting']}" if report["setting"] else "")
    for file in report["files"]:
        size = decimal(file["bytes"]) if file["bytes"] else ""
        yield "  " + "  ".join(filter(None, (file["name"], size, file["licence"], file["sha256"])))
        fix = "mend the YAML" if file["own"] else f"`framemesh models pull {name}`"
        yield f"    {file['path'] or f'not here: {fix}'}"
    for beat in report["instances"]:
        sha256 = beat["detail"].get("sha256")
        facts = (beat["host"], beat["detail"].get("provider"), f"sha256 {sha256}" if sha256 else "")
        yield f"  alive: {beat['instance']} on {', '.join(filter(None, facts))}"
    if not report["instances"]:
        yield "  no replica is alive"


@app.command()
def pull(names: NamesArgument = None) -> None:
    """Download the files of models that are not on this machine yet, and check them."""
    for info in [_known(each) for each in names or models.known()]:
        for file in info.files:
            typer.echo(f"{info.name}  {assets.resolve(file).path}")
        if not info.files:
            why = "names no files" if info.bytes is None else "comes with its Python package"
            typer.echo(f"{info.name}  {why}")


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
        str, typer.Option(help="ONNX Runtime providers in order, e.g. tensorrt,cuda; else cuda if there, or cpu.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Measure models on this machine: milliseconds a frame, or a window of sound, and what they run on.

    Each is loaded in this process and run on a real picture or real speech, where the samples are here, or else on
    a grey ramp or a tone; which one it was is said. Before and after are the milliseconds of `preprocess` and
    `postprocess`.
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
    shown = table("model", "runs on", "batch", "before", "infer", "after", "ms each", "real time")
    for timing in timings:
        speed = f"x {timing.window_s * 1000 / timing.total_ms:.1f}" if timing.window_s else ""
        shown.add_row(
            timing.model, timing.provider, str(timing.batch), f"{timing.preprocess_ms:.2f}",
            f"{timing.infer_ms:.2f}", f"{timing.postprocess_ms:.2f}", f"{timing.total_ms:.2f}", speed,
        )  # fmt: skip
    out.print(shown)
    for material in dict.fromkeys(timing.material for timing in timings):
        those = ", ".join(dict.fromkeys(timing.model for timing in timings if timing.material == material))
        out.print(f"{those}: measured on {material}", markup=False)


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
    """An installed model by its name, or the first of a worker. Raises FramemeshError."""
    known = models.known()
    if name in known:
        return known[name]
    if workers.is_spec(name):
        return models.run_by(name)[0]
    raise FramemeshError(
        f"there is no model {name!r}; there are: {', '.join(known)}, those of your own that run, and workers as "
        "`framemesh worker` takes them"
    )


def _alive(data: Path | None) -> list[Heartbeat]:
    """Heartbeats of the mesh, none where no mesh is to be found."""
    try:
        settings = mesh_settings(data)
    except NoMesh as error:
        err.print(f"live replicas are not known: {error}", markup=False)
        return []

    async def ask() -> list[Heartbeat]:
        bus, registry = await clients(settings)
        try:
            return await registry.alive()
        finally:
            await registry.redis.aclose()
            await bus.close()

    try:
        found: list[Heartbeat] = run_until(ask())
    except FramemeshError as error:
        err.print(f"live replicas are not known: {error}", markup=False)
        return []
    return found


def _row(info: ModelInfo, beats: list[Heartbeat]) -> dict[str, Any]:
    return {
        "model": info.name,
        "kind": info.kind,
        "takes": str(info.takes),
        "missing": info.missing,
        "bytes": info.bytes,
    } | _live(beats)


def _foreign(kind: str, name: str, beats: list[Heartbeat]) -> dict[str, Any]:
    """A model of somebody's own that runs; of its files nothing is known here."""
    takes: Medium = beats[0].takes
    return {"model": name, "kind": kind, "takes": str(takes), "missing": [], "bytes": None} | _live(beats)


def _size(row: dict[str, Any]) -> str:
    if row["missing"]:
        return "missing"
    return "" if row["bytes"] is None else decimal(row["bytes"]) if row["bytes"] else "packaged"


def _described(info: ModelInfo, live: Replicas) -> dict[str, Any]:
    """What ``show`` says of a model that can be started here."""
    names = [info.name] if info.files or info.worker in workers.named() else [name for _, name in live]
    beats = [beat for name in names for beat in live.get((info.kind, name), [])]
    return _row(info, beats) | {
        "start": f"framemesh worker {info.worker}",
        "setting": f"{info.chosen_by}={info.name}" if info.chosen_by else "",
        "files": [_file(file) for file in info.files],
        "instances": [beat.model_dump(mode="json") for beat in beats],
    }


def _running(name: str, live: Replicas) -> dict[str, Any] | None:
    """What ``show`` says of a model of somebody's own that runs, by its name or its kind; None where none does."""
    known = {(info.kind, info.name) for info in models.known().values()}
    for (kind, model), beats in sorted(live.items()):
        if name in {kind, model} and (kind, model) not in known:
            instances = [beat.model_dump(mode="json") for beat in beats]
            return _foreign(kind, model, beats) | {
                "start": "", "setting": "", "files": [], "instances": instances,
            }  # fmt: skip
    return None


def _live(beats: list[Heartbeat]) -> dict[str, Any]:
    return {
        "replicas": len(beats),
        "providers": sorted({str(beat.detail.get("provider", "")) for beat in beats}),
        "sha256": sorted({_sha(beat) for beat in beats}),
    }


def _sha(beat: Heartbeat) -> str:
    return str(beat.detail.get("sha256", ""))


def _file(name: str) -> dict[str, Any]:
    file = models.stored(name)
    return {
        "name": file.name,
        "bytes": file.bytes,
        "licence": file.licence,
        "sha256": file.sha256,
        "path": str(file.path) if file.path else "",
        "own": file.asset is None,
    }
