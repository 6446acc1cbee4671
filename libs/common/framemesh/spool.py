"""The node's spool: a bounded folder, on tmpfs where there is one, for frames and sound until they are stored.

Every entry carries its own metadata, so the uploader can go on from the folder alone.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from framemesh.messages import AudioWindow, Frame

_HEAD = struct.Struct(">4sI")
_MAGIC = b"FMS1"
ABANDONED_SECONDS = 60.0

Claim = Frame | AudioWindow
"""What an entry holds."""
_SUFFIXES: dict[str, type[Frame] | type[AudioWindow]] = {".frame": Frame, ".audio": AudioWindow}


def end(claim: Claim) -> float:
    """Time at which a frame was, or a window ends, seconds since the epoch."""
    return claim.timestamp + (claim.duration if isinstance(claim, AudioWindow) else 0.0)


class SpoolError(Exception):
    """An entry that is none: cut short, or written by somebody else."""


def pack(claim: Claim, data: bytes) -> bytes:
    """An entry: magic, length of the metadata, metadata as JSON, JPEG or WAV."""
    meta = claim.model_dump_json().encode()
    return _HEAD.pack(_MAGIC, len(meta)) + meta + data


def unpack(entry: bytes, kind: type[Frame] | type[AudioWindow] = Frame) -> tuple[Claim, bytes]:
    """The inverse of ``pack``. Raises SpoolError."""
    try:
        magic, length = _HEAD.unpack_from(entry)
        claim = kind.model_validate_json(entry[_HEAD.size : _HEAD.size + length])
    except (struct.error, ValidationError) as error:
        raise SpoolError(f"not a spool entry: {error}") from error
    data = entry[_HEAD.size + length :]
    if magic != _MAGIC or len(data) != claim.bytes:
        raise SpoolError(f"not a whole spool entry: {len(data)} of {claim.bytes} bytes")
    return claim, data


class Spool:
    """A spool folder of at most ``max_bytes``."""

    def __init__(self, folder: Path, max_bytes: int = 256 << 20) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._sized_at = 0.0
        self._size = 0
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(".*.part"):  # of a reader that died while it wrote
            if time.time() - part.stat().st_mtime > ABANDONED_SECONDS:
                part.unlink(missing_ok=True)

    def write(self, claim: Claim, data: bytes) -> str:
        """Add an entry and return its name. It appears whole or not at all. Raises OSError."""
        suffix = next(suffix for suffix, kind in _SUFFIXES.items() if isinstance(claim, kind))
        name = f"{claim.source}.{claim.run}.{claim.seq:012d}{suffix}"
        part = self.folder / f".{name}.part"
        entry = pack(claim, data)
        part.write_bytes(entry)
        part.rename(self.folder / name)
        self._size += len(entry)
        return name

    def read(self, name: str) -> tuple[Claim, bytes]:
        """Read an entry. Raises FileNotFoundError, SpoolError."""
        path = self.folder / Path(name).name
        return unpack(path.read_bytes(), _SUFFIXES.get(path.suffix, Frame))

    def remove(self, name: str) -> None:
        """Remove an entry; one that is not there is no error."""
        (self.folder / Path(name).name).unlink(missing_ok=True)

    def names(self, *, older_than: float = 0.0) -> list[str]:
        """Entries that have lain here for ``older_than`` seconds, the oldest of each run first."""
        now = time.time()
        return sorted(entry.name for entry in self._entries() if now - _written_at(entry) >= older_than)

    def latest(self, source: str) -> float:
        """Time at which what is newest here of a source ends, 0 for nothing."""
        latest = 0.0
        for name in self.names():
            if name.startswith(f"{source}."):
                with contextlib.suppress(FileNotFoundError, SpoolError):
                    latest = max(latest, end(self.read(name)[0]))
        return latest

    def full(self) -> bool:
        """Whether the bound is reached. Looked up at most every quarter of a second, estimated between."""
        now = time.monotonic()
        if now - self._sized_at > 0.25:  # noqa: PLR2004
            self._size = sum(_size(entry) for entry in self._entries())
            self._sized_at = now
        return self._size >= self.max_bytes

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self.folder) as entries:
            yield from (entry for entry in entries if entry.name.endswith(tuple(_SUFFIXES)))


def _written_at(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # the uploader was faster
        return 0


def default_folder() -> Path:
    """``/dev/shm`` where there is one, else the system's temporary folder."""
    shm = Path("/dev/shm")  # noqa: S108
    base = shm if os.access(shm, os.W_OK) else Path(os.environ.get("TMPDIR", "/tmp"))  # noqa: S108
    return base / f"framemesh-spool-{os.getuid()}"
