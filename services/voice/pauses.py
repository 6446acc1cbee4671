"""Pauses: the silences between stretches of speech."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from services.voice.sound import Stretch, clipped, length
from services.voice.untold import Untold


class Pauses(NamedTuple):
    """How many, their share of the time from the first to the last speech, and the longest in seconds."""

    number: int
    share: float
    longest_s: float


def pauses(stretches: Sequence[Stretch], begin: float, end: float) -> Pauses:
    """The gaps between ``stretches``, of which those count that end between ``begin`` and ``end``.

    So windows that overlap count each pause once, and one that begins in the overlap has its whole length. The
    share is about what lies after ``begin``. Raises Untold where nobody speaks there.
    """
    inside = clipped(stretches, begin, end)
    if not inside:
        raise Untold("no speech")
    gaps = [(before[1], after[0]) for before, after in pairwise(stretches) if begin <= after[0] < end]
    since = max(begin, stretches[0][0])
    share = length(clipped(gaps, begin, end)) / (inside[-1][1] - since)
    return Pauses(len(gaps), min(1.0, share), max((last - first for first, last in gaps), default=0.0))
