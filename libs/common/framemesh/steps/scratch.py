"""Scratch folders of steps, below one of each worker, so that those of a worker that was killed can be swept.

A worker keeps its folder locked for as long as it lives; what can be locked has nobody any more.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

from framemesh.errors import FramemeshError
from framemesh.locks import is_at, lock


class Scratch:
    """The folder of one worker."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        """Where the folders of its tries are made."""
        self._handle = handle

    @classmethod
    def open(cls) -> Self:
        """Make one, and remove those that nobody has any more. Raises FramemeshError."""
        root = _root()
        sweep(root)
        while True:
            path = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root))
            handle = lock(path) if path.exists() else None
            if handle is not None and is_at(handle, path):
                return cls(path, handle)
            if handle is not None:  # another worker began at the same moment, and swept it
                os.close(handle)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)


def sweep(root: Path) -> None:
    """Remove the folders that nobody has any more."""
    for each in root.iterdir():
        try:
            handle = lock(each)
        except OSError:  # another worker was quicker
            continue
        if handle is not None:
            shutil.rmtree(each, ignore_errors=True)
            os.close(handle)


def _root() -> Path:
    root = Path(tempfile.gettempdir()) / f"framemesh-steps-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise FramemeshError(f"{root} belongs to somebody else: set TMPDIR to a folder of your own")
    return root
