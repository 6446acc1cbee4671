"""Quotes: only what was really said counts as one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.analyst.transcript import Segment

_WORD = re.compile(r"\w+", re.UNICODE)
_APOSTROPHE = re.compile("['\u2019]")
_LEAST_WORDS = 2
"""One word alone is found in nearly any transcript."""


class Spoken:
    """The words of a transcript, to look quotes up in."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._starts: list[tuple[int, float]] = []
        pieces: list[str] = []
        length = 1
        for segment in segments:
            self._starts.append((length, segment.start))
            plain = _plain(segment.text)
            pieces.append(plain)
            length += len(plain) + 1 if plain else 0
        self._text = f" {' '.join(piece for piece in pieces if piece)} "

    def find(self, quote: str) -> float | None:
        """Second at which the segment begins in which a quote does; None for what nobody said."""
        plain = _plain(quote)
        if not plain or (plain.count(" ") + 1 < _LEAST_WORDS and plain.isascii()):
            return None
        at = self._text.find(f" {plain} ")
        if at < 0 and not plain.isascii():  # scripts without blanks have no edges of words
            at = self._text.find(plain) - 1
        if at < 0:
            return None
        return max((start for start in self._starts if start[0] <= at + 1), default=(0, 0.0))[1]


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(_APOSTROPHE.sub("", text.casefold())))
