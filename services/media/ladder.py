"""Which renditions a medium has: the rungs of a ladder that it is large enough for. Nothing is ever scaled up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from services.media.probe import Probe

MOST_FPS = 60.0
LEAST_FPS = 1.0
USUAL_FPS = 25.0
LEAST_SIDE = 16


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rung(_Part):
    """A step of the ladder: the shorter side of the picture in pixels, and most kilobits a second."""

    height: int = Field(ge=LEAST_SIDE, le=4320)
    kbps: int = Field(ge=20, le=100_000)


class Rendition(_Part):
    """One way to play a medium: pictures or sound, a playlist of its own."""

    name: str
    kind: Literal["video", "audio"]
    kbps: int
    width: int = 0
    height: int = 0
    fps: float = 0


def renditions(found: Probe, ladder: Sequence[Rung], audio: Sequence[int]) -> list[Rendition]:
    """Of a file that was looked into, the best first; pictures before sound."""
    made: list[Rendition] = []
    if found.has_video:
        made += _pictures(found, ladder)
    if found.has_audio:
        made += [Rendition(name=f"a{kbps}", kind="audio", kbps=kbps) for kbps in sorted(set(audio), reverse=True)]
    return made


def _pictures(found: Probe, ladder: Sequence[Rung]) -> list[Rendition]:
    """A rung counts by the shorter side, so that an upright film has the same ladder as one that lies.

    A film that is between two rungs, or smaller than all, has its own size with the bits of the rung above it.
    """
    side = min(found.width, found.height)
    rungs = sorted({rung.height: rung for rung in ladder}.values(), key=lambda rung: -rung.height)
    fitting = [rung for rung in rungs if rung.height <= side]
    if not fitting or (fitting[0].height < side and fitting[0] is not rungs[0]):
        above = next(rung for rung in reversed(rungs) if rung.height > side)
        fitting = [Rung(height=max(LEAST_SIDE, side), kbps=above.kbps), *fitting]
    fps = min(MOST_FPS, max(LEAST_FPS, found.fps or USUAL_FPS))
    made = []
    for rung in fitting:
        width, height = (_even(each * rung.height / side) for each in (found.width, found.height))
        made.append(
            Rendition(
                name=f"v{rung.height}", kind="video", kbps=rung.kbps, width=width, height=height, fps=round(fps, 3)
            )
        )
    return made


def _even(length: float) -> int:
    """Colours are stored for two pixels each way."""
    return max(LEAST_SIDE, 2 * round(length / 2))
