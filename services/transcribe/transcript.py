"""The transcript of a whole sound, piece by piece, and what it comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from framemesh.audio import RATE, Cut, Samples
from framemesh.messages import Segment
from services.transcribe.engine import moved
from services.transcribe.stitch import Tail, Window, stitch, tail

LONGEST_TEXT = 8000
"""Characters that a summary has of the text: with six bytes each it still fits in a step's output."""
LEAST_TALKING_S = 1.0
NO_WORDS = "no words"
TOO_SHORT = f"less than {LEAST_TALKING_S:.0f} s from the first to the last word"

Transcribe = Callable[[Samples], list[Segment]]


class Transcript:
    """What is said in a sound that comes in pieces, in seconds from its beginning."""

    def __init__(self, transcribe: Transcribe) -> None:
        self._transcribe = transcribe
        self._before: Tail | None = None
        self.segments: list[Segment] = []
        self.seconds = 0.0
        """How far it is."""

    def add(self, cut: Cut) -> None:
        """Listen to the next piece; what it shares with the one before is given once."""
        begin = cut.begin / RATE
        self.seconds = begin + len(cut.samples) / RATE
        window = Window(begin, self.seconds, cut.overlap_s, cut.tail_s)
        found = [moved(segment, begin) for segment in self._transcribe(cut.samples)]
        self.segments += stitch(found, window, self._before)
        self._before = tail(found, window)

    @property
    def words(self) -> int:
        """How many words there are."""
        return sum(len(segment.words) for segment in self.segments)

    @property
    def language(self) -> str:
        """What most of the words are in; empty without any."""
        counts: Counter[str] = Counter()
        for segment in self.segments:
            counts[segment.language] += len(segment.words)
        return counts.most_common(1)[0][0] if counts else ""

    def whole(self) -> dict[str, Any]:
        """All of it, every word with its times."""
        return {
            "language": self.language,
            "duration_s": round(self.seconds, 3),
            "segments": [_plain(segment) for segment in self.segments],
        }

    def summary(self) -> dict[str, Any]:
        """What fits in a step's output. What cannot be told is null, and ``missing`` says why."""
        text = " ".join(segment.text for segment in self.segments)
        values = {"words_per_minute": self._rate(), "confidence": self._confidence()}
        return {
            "language": self.language,
            "text": text[:LONGEST_TEXT],
            "text_cut": len(text) > LONGEST_TEXT,
            "segments": len(self.segments),
            "words": self.words,
            "duration_s": round(self.seconds, 3),
            **{name: None if isinstance(value, str) else value for name, value in values.items()},
            "missing": {name: value for name, value in values.items() if isinstance(value, str)},
        }

    def _rate(self) -> float | str:
        """Words a minute from the first to the last word, pauses and all; or why that cannot be told."""
        if not self.words:
            return NO_WORDS
        talking = self.segments[-1].end - self.segments[0].start
        return round(60 * self.words / talking, 1) if talking >= LEAST_TALKING_S else TOO_SHORT

    def _confidence(self) -> float | str:
        """The mean over the words."""
        if not self.words:
            return NO_WORDS
        total = sum(word.confidence for segment in self.segments for word in segment.words)
        return round(total / self.words, 4)


def _plain(segment: Segment) -> dict[str, Any]:
    words = [
        {"text": w.text, "start": round(w.start, 3), "end": round(w.end, 3), "confidence": w.confidence}
        for w in segment.words
    ]
    return {
        "text": segment.text, "start": round(segment.start, 3), "end": round(segment.end, 3),
        "language": segment.language, "confidence": segment.confidence, "words": words,
    }  # fmt: skip
