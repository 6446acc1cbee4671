"""Scores from 0 to 100: a pure function of what the other steps measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from services.analyst.inputs import Inputs, Unknown
from services.analyst.measures import MEASURES, VERSION, WEIGHTS, Measure

MOST = 100.0
_NOTHING = "none of its inputs is known"


@dataclass(frozen=True)
class Item:
    """Something that counts for a score, with its own score, or the reason for having none."""

    name: str
    weight: float
    score: float | None
    confidence: float
    """0 to 1; 0 where there is no score."""
    low: float
    high: float
    """Between which the score lies whatever the missing inputs are."""
    details: dict[str, Any]


@dataclass(frozen=True)
class Score:
    """A weighted mean of what is known."""

    items: Sequence[Item]

    @property
    def known(self) -> list[Item]:
        """What counts."""
        return [item for item in self.items if item.score is not None and item.weight > 0]

    @property
    def value(self) -> float | None:
        """The mean of what is known by its weights, so never beyond the known ones; None when nothing is."""
        parts = [self.share(item) * (item.score or 0.0) for item in self.known]
        return min(MOST, max(0.0, fsum(parts))) if parts else None

    def share(self, item: Item) -> float:
        """Weight of an item among those that are known: these sum to 1."""
        return item.weight / fsum(other.weight for other in self.known)

    @property
    def confidence(self) -> float:
        """Of each item by its weight; what is missing counts 0."""
        return min(1.0, fsum(item.weight * item.confidence for item in self.items))

    @property
    def low(self) -> float:
        """If all that is missing were 0."""
        return fsum(item.weight * item.low for item in self.items)

    @property
    def high(self) -> float:
        """If all that is missing were 100."""
        return min(MOST, fsum(item.weight * item.high for item in self.items))

    def told(self) -> dict[str, Any]:
        """For the output."""
        return {
            "score": _rounded(self.value),
            "confidence": round(self.confidence, 4),
            "range": [_rounded(self.low), _rounded(self.high)],
            "inputs": [self._told(item) for item in self.known],
            "missing": [
                {"name": item.name, "weight": item.weight, "reason": item.details["reason"]}
                for item in self.items
                if item.score is None
            ],
        }

    def _told(self, item: Item) -> dict[str, Any]:
        share, score = self.share(item), item.score or 0.0
        return {
            "name": item.name,
            **item.details,
            "score": _rounded(score),
            "weight": item.weight,
            "share": round(share, 6),
            "contribution": round(share * score, 4),
            "confidence": round(item.confidence, 4),
        }


def score(inputs: Inputs) -> dict[str, Any]:
    """Every score with the contribution of each input, and an overall one.

    ``inputs`` has the summaries face, voice, transcript and gpt, each an object or None. What is not known is
    listed with its reason; it lowers the confidence and counts for nothing else.
    """
    scores = {
        name: Score([_measured(each, inputs) for each in MEASURES if each.score == name]) for name in WEIGHTS
    }
    overall = Score([_part(name, scores[name]) for name in WEIGHTS])
    return {
        "version": VERSION,
        "overall": overall.told(),
        "scores": {name: found.told() for name, found in scores.items()},
        "missing": [
            {"score": name, "input": item.name, "reason": item.details["reason"]}
            for name, found in scores.items()
            for item in found.items
            if item.score is None
        ],
    }


def _measured(measure: Measure, inputs: Inputs) -> Item:
    try:
        reading = measure.read(inputs)
    except Unknown as reason:
        return Item(measure.name, measure.weight, None, 0.0, 0.0, MOST, {"reason": str(reason)})
    found = measure.curve(reading.value)
    details = {"value": round(reading.value, 6), "unit": measure.unit, "source": reading.source}
    return Item(measure.name, measure.weight, found, reading.evidence, found, found, details)


def _part(name: str, found: Score) -> Item:
    details = {"value": _rounded(found.value)} if found.value is not None else {"reason": _NOTHING}
    return Item(name, WEIGHTS[name], found.value, found.confidence, found.low, found.high, details)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
