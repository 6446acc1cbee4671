"""Transcripts cut into passages: on the borders of sentences, with an overlap of whole ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

LONGEST_WORD = 40
"""Characters."""
PAUSE_S = 2.0
"""Who is silent for so long has ended a sentence, also where no mark says so."""
_END = re.compile("[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019\u00bb)\\]]*$")
_ABBREVIATION = re.compile(r"^(?:[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|vs|etc|approx|No)\.$")


class SpokenWord(BaseModel):
    """A word of a transcript, seconds from the beginning."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)

    text: str
    start: float
    end: float


class SpokenSegment(BaseModel):
    """What was said from ``start`` to ``end``; without words its text is spread evenly."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    text: str = ""
    start: float = 0.0
    end: float = 0.0
    words: list[SpokenWord] = Field(default_factory=list)

    def spoken(self) -> list[SpokenWord]:
        """Its words, each with its times."""
        if self.words:
            return [word for word in self.words if word.text.strip()]
        texts, length = self.text.split(), max(0.0, self.end - self.start)
        step = length / max(1, len(texts))
        return [
            SpokenWord(text=text, start=self.start + at * step, end=self.start + (at + 1) * step)
            for at, text in enumerate(texts)
        ]


@dataclass(frozen=True)
class Sentence:
    """A sentence, or a part of one that is too long."""

    text: str
    start: float
    end: float
    words: int


@dataclass(frozen=True)
class Chunk:
    """A passage: sentences that follow each other."""

    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        """All of them."""
        return " ".join(sentence.text for sentence in self.sentences)

    @property
    def start(self) -> float:
        """Seconds at which the first one begins."""
        return self.sentences[0].start

    @property
    def end(self) -> float:
        """Seconds at which the last one ends."""
        return self.sentences[-1].end


def chunks(segments: Sequence[SpokenSegment], most: int, overlap: int) -> list[Chunk]:
    """Passages of at most ``most`` words; each but the first begins with the last sentences of the one before.

    These are as many as have ``overlap`` words together. Times never go back, whatever the recogniser says.
    """
    made: list[Chunk] = []
    held: list[Sentence] = []
    for sentence in sentences(segments, most):
        if held and _words(held) + sentence.words > most:
            made.append(Chunk(tuple(held)))
            held = _tail(held, min(overlap, most - sentence.words))
        held.append(sentence)
    return [*made, Chunk(tuple(held))] if held else made


def sentences(segments: Sequence[SpokenSegment], most: int) -> list[Sentence]:
    """Sentences in order, none of more than ``most`` words."""
    words = _forward(word for segment in segments for word in segment.spoken())
    made: list[Sentence] = []
    held: list[SpokenWord] = []
    for word in words:
        if held and (len(held) >= most or _ends(held[-1]) or word.start - held[-1].end >= PAUSE_S):
            made.append(_sentence(held))
            held = []
        held.append(word)
    return [*made, _sentence(held)] if held else made


def _forward(words: Iterator[SpokenWord] | Sequence[SpokenWord]) -> Iterator[SpokenWord]:
    now = 0.0
    for word in words:
        start = max(now, word.start)
        yield from _parts(" ".join(word.text.split()), start, max(start, word.end))
        now = start


def _parts(text: str, start: float, end: float) -> Iterator[SpokenWord]:
    """A word; in parts where it is long, as in scripts without blanks."""
    cut = range(0, len(text), LONGEST_WORD)
    step = (end - start) / len(cut)
    for number, at in enumerate(cut):
        begin = start + number * step
        yield SpokenWord(text=text[at : at + LONGEST_WORD], start=begin, end=begin + step)


def _ends(word: SpokenWord) -> bool:
    return bool(_END.search(word.text)) and not _ABBREVIATION.match(word.text)


def _sentence(words: Sequence[SpokenWord]) -> Sentence:
    end = max(word.end for word in words)
    return Sentence(" ".join(word.text for word in words), words[0].start, end, len(words))


def _words(held: Sequence[Sentence]) -> int:
    return sum(sentence.words for sentence in held)


def _tail(held: Sequence[Sentence], most: int) -> list[Sentence]:
    """The last sentences that have no more than ``most`` words together; never all of them."""
    kept: list[Sentence] = []
    for sentence in reversed(held[1:]):
        if _words(kept) + sentence.words > most:
            break
        kept.insert(0, sentence)
    return kept
