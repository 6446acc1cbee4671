"""What the shape of eyes and mouth says. Landmarks are [66, 2] in pixels, as ``landmarks`` gives them."""

from __future__ import annotations

import math

import numpy as np

from framemesh.boxes import Floats

RIGHT_EYE, LEFT_EYE = 36, 42
CORNERS = 48, 54
INNER_UPPER, INNER_LOWER = (60, 61, 62), (65, 64, 63)
LIP_MIDDLES = 51, 57
OUTER_EYES = 36, 45

# From the lower to the upper value of width and lift together, the corners' share rises evenly from 0 to 1.
# Measured: 0.56 to 0.64 on five faces at rest, 0.79 and 0.80 on two broad smiles.
NO_SMILE, FULL_SMILE = 0.62, 0.78
LIFT_WEIGHT = 0.5


def eye_aspect_ratio(points: Floats) -> float:
    """Height by width, the mean of both eyes (Soukupová and Čech, CVWW 2016).

    It follows a squint, but not a blink: see ``lids``.
    """
    return (_eye(points, RIGHT_EYE) + _eye(points, LEFT_EYE)) / 2


def mouth_openness(points: Floats) -> float:
    """Mean gap between the inner lips at three places, by the width of the mouth."""
    gaps = np.linalg.norm(points[list(INNER_LOWER)] - points[list(INNER_UPPER)], axis=1)
    return float(gaps.mean()) / max(_distance(points, *CORNERS), 1e-6)


def smile(happy: float, points: Floats) -> float:
    """How much of a smile, 0 to 1: ``sqrt(happy * corners)``.

    ``happy`` is the expression model's share, ``corners`` what the corners of the mouth say. The geometric mean
    lets either veto the other: the expression flips on single frames and takes an open mouth for joy, while
    speech and chewing also pull the corners apart.
    """
    return math.sqrt(min(max(happy, 0.0), 1.0) * corners(points))


def corners(points: Floats) -> float:
    """How far the corners of the mouth are apart and up, 0 (rest) to 1 (a broad smile).

    A smile (zygomaticus major, FACS action unit 12) pulls them outwards and up. Width counts by the distance of
    the outer corners of the eyes, which no expression moves and which a turned head shortens alike; the lift is
    that of the corners over the middle of the lips, by the same distance, measured along the line of the eyes so
    that a tilted head changes nothing.
    """
    value = mouth_width(points) + LIFT_WEIGHT * corner_lift(points)
    return min(max((value - NO_SMILE) / (FULL_SMILE - NO_SMILE), 0.0), 1.0)


def mouth_width(points: Floats) -> float:
    """Width of the mouth by the distance of the outer corners of the eyes."""
    return _distance(points, *CORNERS) / max(_distance(points, *OUTER_EYES), 1e-6)


def corner_lift(points: Floats) -> float:
    """Height of the mouth's corners over the middle of its lips, by the distance of the outer eye corners."""
    across = points[OUTER_EYES[1]] - points[OUTER_EYES[0]]
    length = max(float(np.linalg.norm(across)), 1e-6)
    down = np.array([-across[1], across[0]]) / length
    middle, ends = points[list(LIP_MIDDLES)].mean(axis=0), points[list(CORNERS)].mean(axis=0)
    return float((middle - ends) @ down) / length


def _eye(points: Floats, first: int) -> float:
    heights = _distance(points, first + 1, first + 5) + _distance(points, first + 2, first + 4)
    return heights / max(2 * _distance(points, first, first + 3), 1e-6)


def _distance(points: Floats, a: int, b: int) -> float:
    return float(np.linalg.norm(points[b] - points[a]))
