"""What can be found: a passage of a transcript, an event, the labels of a short time."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from framemesh.messages import SearchKind

Vector = npt.NDArray[np.float32]
"""The meaning of a text, of length 1."""
_SPACE = uuid.UUID("6f6f3b1e-7a55-4c0c-9a0e-2d6f0a3f2b11")


class Passage(BaseModel):
    """One passage, as it lies beside its vectors."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kind: SearchKind
    text: str
    start: float
    """Where to jump to: seconds in the media, or since the epoch for events and labels."""
    end: float
    time: float
    """When it was: of an event or a label; when it was first indexed, of a transcript. Since the epoch."""
    media: str = ""
    source: str = ""
    title: str = ""
    link: str = ""
    version: int = 0
    """Of two of one event the higher is the newer."""
    labels: dict[str, tuple[float, float]] = {}
    """First and last sighting of each label."""
    owner: str | None = None
    """Whose media it is of: only they find it, and who may read everything; None: everybody does."""
    ordinal: int = 0
    """Counts the passages of one media that say the same."""

    @property
    def spoken(self) -> str:
        """What keywords are looked for in, and what the vector is about."""
        return f"{self.title}. {self.text}" if self.title else self.text

    @property
    def digest(self) -> str:
        """Of what the vectors depend on."""
        return hashlib.sha256(self.spoken.encode()).hexdigest()

    @property
    def id(self) -> str:
        """The same passage always has the same."""
        match self.kind:
            case SearchKind.TRANSCRIPT:
                key = f"{self.media}/{hashlib.sha256(self.text.encode()).hexdigest()}/{self.ordinal}"
            case SearchKind.EVENT:
                key = self.media
            case _:
                key = f"{self.source}/{self.media}"
        return str(uuid.uuid5(_SPACE, f"{self.kind}/{key}"))

    def known_since(self, time: float) -> Passage:
        """The same, indexed earlier."""
        return self.model_copy(update={"time": time})


@dataclass(frozen=True)
class Point:
    """A passage with its vector."""

    passage: Passage
    vector: Vector


@dataclass(frozen=True)
class Where:
    """Which passages are meant."""

    kind: SearchKind | None = None
    media: str | None = None
    source: str | None = None
    since: float | None = None
    before: float | None = None
    reader: str | None = None
    """What this one may find; None: everything."""

    @property
    def equal(self) -> dict[str, Any]:
        """Fields that must be so."""
        wanted = {"kind": self.kind and self.kind.value, "media": self.media, "source": self.source}
        return {name: value for name, value in wanted.items() if value is not None}


INDEXED = {"kind": "keyword", "media": "keyword", "source": "keyword", "owner": "keyword", "time": "float"}
"""Fields that passages are filtered by."""


@dataclass(frozen=True)
class Found:
    """A passage that a search came upon, with how near it is."""

    passage: Passage
    score: float
    matched: Sequence[str] = field(default=())
