"""Curves: from what was measured to 0 to 100."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Curve:
    """Straight lines between points (value, score), by rising value; beyond the ends the score stays."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        values = [value for value, _ in self.points]
        if not values or any(one >= other for one, other in pairwise(values)):
            raise ValueError("the values of a curve's points must rise")

    def __call__(self, value: float) -> float:
        """Score of a value."""
        first, *_, last = self.points if len(self.points) > 1 else self.points * 2
        if value <= first[0]:
            return float(first[1])
        for (low, begin), (high, end) in pairwise(self.points):
            if value <= high:
                return begin + (end - begin) * ((value - low) / (high - low))
        return float(last[1])

    def __str__(self) -> str:
        return ", ".join(f"{value:g} → {score:g}" for value, score in self.points)


def curve(*points: tuple[float, float]) -> Curve:
    """A curve through these points."""
    return Curve(points)
