"""What a step is given beside its input: who it is, and ways to say how far it is."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from framemesh.steps import files
from framemesh.steps.files import Say
from framemesh.steps.job import StepTask


class Blobs(Protocol):
    """Where large things are kept."""

    async def put(self, data: bytes, /, *, content_type: str) -> str:
        """Store bytes; their address."""

    async def get(self, url: str, /) -> bytes:
        """Bytes by their address."""

    async def delete(self, url: str, /) -> None:
        """Delete what lies there; nothing is no error."""


class Cancelled(Exception):
    """Nobody wants the result any more."""


@dataclass
class Context:
    """One try of one step."""

    job: str
    step: str
    item: int | None
    attempt: int
    key: str
    """The same for every try: give it to whoever must not do a thing twice."""
    log: logging.Logger
    """Its lines are kept with the job."""
    blobs: Blobs
    say: Callable[[float, str], Awaitable[None]]
    _within: Path | None = field(default=None, repr=False)
    _cancelled: bool = False
    _scratch: Path | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        task: StepTask,
        log: logging.Logger,
        blobs: Blobs,
        say: Callable[[float, str], Awaitable[None]],
        within: Path | None = None,
    ) -> Context:
        """The context of a task, with its scratch folder in a given one."""
        return cls(task.job, task.step, task.item, task.attempt, task.key, log, blobs, say, within)

    async def progress(self, percent: float, text: str = "") -> None:
        """Say how far the step is, 0 to 100, and what it is at; as often as one likes. Raises Cancelled."""
        self.check()
        await self.say(percent, text)
        self.check()

    def check(self) -> None:
        """Raise Cancelled when nobody wants the result any more."""
        if self._cancelled:
            raise Cancelled(f"{self.key} was cancelled")

    def cancel(self) -> None:
        """Nobody wants the result any more."""
        self._cancelled = True

    async def put(self, data: bytes, name: str = "", *, content_type: str = "") -> str:
        """Store bytes; their address, for an output. Their type is guessed from a name, e.g. ``report.json``."""
        return await files.put(self.blobs, data, content_type or files.type_of(name))

    async def get(self, url: str) -> bytes:
        """Bytes by their address; a file's too, all of it in memory."""
        return await files.get(self.blobs, url)

    async def delete(self, url: str) -> None:
        """Delete bytes or a file; what the store does not delete now goes with its time to live."""
        await files.delete(self.blobs, url)

    async def put_file(self, path: Path, say: Say | None = None) -> str:
        """Store a file of any size, which ``get_file`` gives back; its address, for an output."""
        return await files.put_file(self.blobs, path, say)

    async def get_file(self, url: str, path: Path, say: Say | None = None) -> Path:
        """Write what ``put_file`` or ``put`` stored to ``path``."""
        return await files.get_file(self.blobs, url, path, say)

    @property
    def scratch(self) -> Path:
        """A folder of this try's own; it is gone with the try."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="framemesh-step-", dir=self._within))
        return self._scratch

    def use(self, folder: str) -> None:
        """Take a folder that somebody else removes."""
        self._scratch = Path(folder)

    def clean_up(self) -> None:
        """Remove the folder."""
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
