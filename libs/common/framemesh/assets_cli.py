"""``framemesh assets``: see, download and check the pinned models and samples."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import wrap
from typing import Annotated

import typer
from rich.filesize import decimal

from . import assets
from .assets import Asset
from .errors import FramemeshError

WIDTH = 76

app = typer.Typer(
    help="Models and samples that Framemesh knows by name, pinned by checksum.\n\n"
    "An asset is looked for in the folders of FRAMEMESH_ASSETS, then in your cache, then in the Python "
    "package that carries it, and downloaded into the cache otherwise. "
    "FRAMEMESH_OFFLINE=1 forbids downloads.",
    no_args_is_help=True,
)


@app.command("list")
def list_assets(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON with checksums and pins, for scripts.")
    ] = False,
) -> None:
    """Show every asset: its size, its licence, what it is for, and where it lies on this machine.

    Nothing is downloaded or checked: see `pull` and `verify`.
    """
    if as_json:
        typer.echo(json.dumps([_as_dict(asset) for asset in assets.catalogue().values()], indent=2))
        return
    for asset in assets.catalogue().values():
        typer.echo("\n".join(_lines(asset)))


@app.command()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(help="Assets to get; all but those for tests only when left out.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Download again, over a copy in the cache that went bad.")
    ] = False,
) -> None:
    """Download what is not on this machine yet, check it, and print where each asset lies.

    Run it once where there is a network (about 24 MB); services then start without one.
    """
    for name in names or _pulled_by_default():
        again = force and not assets.get(name).package
        path = assets.download(name) if again else assets.ensure(name)
        typer.echo(f"{name}  {path}")


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Assets to check; all that are here when left out.")
    ] = None,
) -> None:
    """Check every copy on this machine against the pinned checksum.

    Exits with 1 when a copy is wrong, or when an asset that you named is not here.
    """
    wanted = [assets.get(name) for name in names or assets.catalogue()]
    if not names and not any(map(_found, wanted)):
        typer.echo("nothing to check: no asset is on this machine yet; `framemesh assets pull` gets them")
    results = [_check(asset, required=bool(names)) for asset in wanted]
    if not all(results):
        raise typer.Exit(1)


def _pulled_by_default() -> list[str]:
    """A package's files come with the package, so there is nothing to download."""
    return [a.name for a in assets.catalogue().values() if not a.tests_only and not a.package]


def _found(asset: Asset) -> str | None:
    path = next(assets.copies(asset), None)
    return str(path) if path else None


def _as_dict(asset: Asset) -> dict[str, object]:
    return {**asset.model_dump(), "origin": asset.origin, "found": _found(asset)}


def _lines(asset: Asset) -> list[str]:
    """An asset in lines of 80 columns, but for its path, which is to be copied."""
    found = _found(asset) or f"not here: `framemesh assets pull {asset.name}`"
    head = f"{asset.name:<21}  {asset.kind}  {decimal(asset.bytes):>8}"
    return [head, *(f"    {line}" for line in wrap(f"{_role(asset)}; {asset.licence}", WIDTH)), f"    {found}"]


def _role(asset: Asset) -> str:
    return f"{asset.what} (tests only)" if asset.tests_only else asset.what


def _check(asset: Asset, required: bool) -> bool:
    """Print a line a copy; False when one is wrong, or when there is none though it is required."""
    paths = list(assets.copies(asset))
    if not paths and required:
        typer.echo(f"missing  {asset.name}: `framemesh assets pull {asset.name}` gets it")
        return False
    results = [_check_copy(asset, path) for path in paths]
    return all(results)


def _check_copy(asset: Asset, path: Path) -> bool:
    try:
        assets.verify(path, asset)
    except FramemeshError as error:
        typer.echo(f"wrong    {error}")
        return False
    typer.echo(f"ok       {asset.name}  {path}")
    return True
