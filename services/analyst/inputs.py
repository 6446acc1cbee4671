"""What the other steps measured, and how much there was to measure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PARTS = {
    "face": "face-analysis",
    "voice": "voice-analysis",
    "transcript": "transcribing",
    "gpt": "gpt-analysis",
}
"""The summaries, and the steps that they come from."""

Inputs = Mapping[str, Any]

ENOUGH_S = 30.0
ENOUGH_FRAMES = 100
LEAST_EVIDENCE = 0.25
MODELS_OPINION = 0.8


class Unknown(Exception):
    """Why a value is not known, in a few words."""


class Place(NamedTuple):
    """Where a value lies: ``voice.pause_share``, with the factor that brings it to the measure's unit."""

    path: str
    factor: float = 1.0


def number(inputs: Inputs, place: Place, low: float, high: float) -> float:
    """The number that lies there. Raises Unknown."""
    value = look_up(inputs, place.path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unknown(f"{place.path} is no number")
    try:
        found = float(value) * place.factor
    except OverflowError:  # JSON knows whole numbers of any length
        found = math.inf
    if not math.isfinite(found) or not low <= found <= high:
        raise Unknown(f"{place.path} is {found / place.factor:g}, which cannot be")
    return found


def look_up(inputs: Inputs, path: str) -> Any:
    """What lies at a path. Raises Unknown, with the reason that the summary gives, where there is nothing."""
    part, *names = path.split(".")
    value = inputs.get(part)
    if value is None:
        raise Unknown(f"no {part}: the step {PARTS[part]} gave nothing")
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        raise Unknown(_reason(inputs[part], names) or f"{path} was not told")
    return value


def _reason(summary: Any, names: Sequence[str]) -> str:
    missing = summary.get("missing") if isinstance(summary, Mapping) else None
    if not isinstance(missing, Mapping):
        return ""
    found = missing.get(".".join(names)) or missing.get(names[0])
    return found[:200] if isinstance(found, str) else ""


def evidence(inputs: Inputs, part: str) -> float:
    """How far a part's figures can be relied on, LEAST_EVIDENCE to 1; the less is known the lower."""
    try:
        return max(LEAST_EVIDENCE, min(1.0, _EVIDENCE[part](inputs)))
    except Unknown:
        return LEAST_EVIDENCE


def _spoken(inputs: Inputs) -> float:
    return number(inputs, Place("voice.speech_s"), 0, math.inf) / ENOUGH_S


def _heard(inputs: Inputs) -> float:
    return number(inputs, Place("transcript.duration_s"), 0, math.inf) / ENOUGH_S


def _seen(inputs: Inputs) -> float:
    """Share of the frames with a face, less where there are few."""
    frames = number(inputs, Place("face.frames"), 1, math.inf)
    faces = number(inputs, Place("face.frames_with_face"), 0, frames)
    return faces / frames * min(1.0, faces / ENOUGH_FRAMES)


def _read(inputs: Inputs) -> float:
    """A language model's judgement is an opinion, however long the text."""
    return MODELS_OPINION


_EVIDENCE = {"voice": _spoken, "transcript": _heard, "face": _seen, "gpt": _read}
