"""The node's spool: a bounded folder, on tmpfs where there is one, that holds frames until they are stored.

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

from framemesh.messages import Frame

_HEAD = struct.Struct(">4sI")
_MAGIC = b"FMS1"
_SUFFIX = ".frame"
ABANDONED_SECONDS = 60.0


class SpoolError(Exception):
    """An entry that is none: cut short, or written by somebody else."""


def pack(frame: Frame, jpeg: bytes) -> bytes:
    """An entry: magic, length of the metadata, metadata as JSON, JPEG."""
    meta = frame.model_dump_json().encode()
    return _HEAD.pack(_MAGIC, len(meta)) + meta + jpeg


def unpack(data: bytes) -> tuple[Frame, bytes]:
    """The inverse of ``pack``. Raises SpoolError."""
    try:
        magic, length = _HEAD.unpack_from(data)
        frame = Frame.model_validate_json(data[_HEAD.size : _HEAD.size + length])
    except (struct.error, ValidationError) as error:
        raise SpoolError(f"not a spool entry: {error}") from error
    jpeg = data[_HEAD.size + length :]
    if magic != _MAGIC or len(jpeg) != frame.bytes:
        raise SpoolError(f"not a whole spool entry: {len(jpeg)} of {frame.bytes} bytes")
    return frame, jpeg


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

    def write(self, frame: Frame, jpeg: bytes) -> str:
        """Add an entry and return its name. It appears whole or not at all. Raises OSError."""
        name = f"{frame.source}.{frame.run}.{frame.seq:012d}{_SUFFIX}"
        part = self.folder / f".{name}.part"
        entry = pack(frame, jpeg)
        part.write_bytes(entry)
        part.rename(self.folder / name)
        self._size += len(entry)
        return name

    def read(self, name: str) -> tuple[Frame, bytes]:
        """Read an entry. Raises FileNotFoundError, SpoolError."""
        return unpack((self.folder / Path(name).name).read_bytes())

    def remove(self, name: str) -> None:
        """Remove an entry; one that is not there is no error."""
        (self.folder / Path(name).name).unlink(missing_ok=True)

    def names(self, *, older_than: float = 0.0) -> list[str]:
        """Entries that have lain here for ``older_than`` seconds, oldest frames of each run first."""
        now = time.time()
        return sorted(entry.name for entry in self._entries() if now - _written_at(entry) >= older_than)

    def latest(self, source: str) -> float:
        """Time of a source's newest frame here, 0 for none."""
        latest = 0.0
        for name in self.names():
            if name.startswith(f"{source}."):
                with contextlib.suppress(FileNotFoundError, SpoolError):
                    latest = max(latest, self.read(name)[0].timestamp)
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
            yield from (entry for entry in entries if entry.name.endswith(_SUFFIX))


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
