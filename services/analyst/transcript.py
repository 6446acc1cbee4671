"""The transcript as the language model gets it: lines with times, in parts that are not too long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from framemesh.errors import FramemeshError
from framemesh.llm.reading import explain
from framemesh.llm.tokens import estimate


class Segment(BaseModel):
    """What was said from ``start`` to ``end``, seconds from the beginning."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    text: str
    start: float = 0.0
    end: float = 0.0

    @property
    def line(self) -> str:
        """As the model reads it: ``[1:05] and so``."""
        minutes, seconds = divmod(max(0, int(self.start)), 60)
        return f"[{minutes}:{seconds:02}] {self.text.strip()}"


class Transcript(BaseModel):
    """What the step ``transcribing`` has stored."""

    model_config = ConfigDict(extra="ignore")

    language: str = ""
    segments: list[Segment] = Field(default_factory=list)


def parse(data: bytes) -> Transcript:
    """The transcript in a blob. Raises FramemeshError."""
    try:
        return Transcript.model_validate_json(data)
    except ValidationError as error:
        raise FramemeshError(f"input transcript: {explain(error)}: want language and segments as JSON") from None


def parts(segments: Sequence[Segment], most: int) -> list[list[Segment]]:
    """Segments in order, in as few parts as hold ``most`` tokens each, of about the same length."""
    pieces = [piece for segment in segments if segment.text.strip() for piece in _pieces(segment, most)]
    sizes = [estimate(piece.line) + 1 for piece in pieces]
    wanted = sum(sizes) / max(1, -(-sum(sizes) // most))  # so that the last part is no scrap
    made: list[list[Segment]] = []
    before = room = 0.0
    for piece, size in zip(pieces, sizes, strict=True):
        if not made or size > room or before + size / 2 > wanted * len(made):
            made.append([])
            room = most
        made[-1].append(piece)
        before += size
        room -= size
    return made


def _pieces(segment: Segment, most: int) -> Iterator[Segment]:
    """A segment, cut between words where it alone is too long."""
    if estimate(segment.line) < most:
        yield segment
        return
    words, begin = _words(segment.text, most), 0
    size = 0
    for end, word in enumerate(words):
        size += estimate(word) + 1
        if size > most - _TIME and end > begin:
            yield segment.model_copy(update={"text": " ".join(words[begin:end])})
            begin, size = end, estimate(word) + 1
    yield segment.model_copy(update={"text": " ".join(words[begin:])})


_TIME = 8
"""Tokens of the time before a line, at most."""


def _words(text: str, most: int) -> list[str]:
    """Words; those of a script without blanks are cut where they must be."""
    longest = max(1, most // 4)
    return [word[at : at + longest] for word in text.split() for at in range(0, len(word), longest)]
