"""Windows of one sound that overlap, made one text: no word twice, none lost, cut words from where they are whole.

What is said in an overlap belongs to the later window. The earlier one gives the words that begin before it and
withholds the rest; the later one knows both sides and gives what was withheld as the better of the two heard it.
Without the earlier window's words it gives its own.

All times are seconds on one clock. Nothing here waits for anything; ``memory`` carries a window's end to the next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile

from pydantic import BaseModel, ConfigDict

from framemesh.messages import AudioTask, Segment, Word

EDGE_S = 0.08
"""A word that touches an end of its window this nearly may be cut."""
SLACK_S = 0.5
"""Words this near to the overlap are compared too: Whisper's times are not that exact."""
REACH_S = 0.6
"""Two windows never place the same word further apart."""
ALIKE = 0.6
SAME_TIME = 0.5
_LEAST_PREFIX = 3
_NO_SPACES = {"zh", "ja", "th", "lo", "my", "yue", "km"}


class Tail(BaseModel):
    """What a window heard near its end, and where it ended."""

    model_config = ConfigDict(frozen=True)

    end: float
    words: list[Word]

    def moved(self, by: float) -> Tail:
        """The same on a clock that is ``by`` seconds ahead."""
        words = [word.model_copy(update={"start": word.start + by, "end": word.end + by}) for word in self.words]
        return Tail(end=self.end + by, words=words)


@dataclass(frozen=True)
class Window:
    """Where a window lies. The next one has the last ``tail`` seconds again, unless nobody listens to that one."""

    begin: float
    end: float
    overlap: float
    tail: float

    @classmethod
    def of(cls, task: AudioTask) -> Window:
        """The window that a task is about; where windows are left out, none shares anything with another."""
        end = task.timestamp + task.duration
        if task.stride > 1:
            return cls(task.timestamp, end, 0, 0)
        return cls(task.timestamp, end, task.overlap, task.tail)


def tail(found: Sequence[Segment], window: Window) -> Tail:
    """What the next window must know of this one."""
    words = [word for word in _words(found) if word.end > window.end - window.tail - SLACK_S]
    return Tail(end=window.end, words=words)


def stitch(found: Sequence[Segment], window: Window, before: Tail | None) -> list[Segment]:
    """What a window gives: not what the one before has given, and not what is left to the next."""
    words = _words(found)
    kept, added = [True] * len(words), list[Word]()
    if window.overlap and before is not None:
        added = _settle(words, kept, window.begin, before)
    if window.tail:
        given = len(_given(words, window.end - window.tail))
        kept[given:] = [False] * (len(words) - given)
    return _rebuild(found, kept, added)


def _words(found: Sequence[Segment]) -> list[Word]:
    return [word for segment in found for word in segment.words]


def _given(words: Iterable[Word], border: float) -> list[Word]:
    """The words before the first one that begins in the overlap, which is from ``border`` on."""
    return list(takewhile(lambda word: word.start < border, words))


def _settle(words: Sequence[Word], kept: list[bool], begin: float, before: Tail) -> list[Word]:
    """Strike from ``kept`` what the window before has given, or heard better; returns what it heard better."""
    mine = [word for word in words if word.start < before.end + SLACK_S]
    theirs = [word for word in before.words if word.end > begin - SLACK_S]
    given = len(_given(theirs, begin))
    pairs = _align(mine, theirs)
    passed = max((i for i, j in pairs.items() if j < given), default=-1)
    given_until = theirs[given - 1].end if given else begin
    for i, word in enumerate(mine):
        if i <= passed or (i not in pairs and word.end < given_until + EDGE_S):  # a piece of what was given
            kept[i] = False
    heard = {j: i for i, j in pairs.items()}
    added: list[Word] = []
    for j, word in list(enumerate(theirs))[given:]:
        alone = (i for i, each in enumerate(mine) if kept[i] and i not in pairs and _collide(each, word))
        rivals = [heard[j]] if j in heard else list(alone)
        if any(i <= passed or not _better(word, before.end, mine[i], begin) for i in rivals):
            continue
        added.append(word)
        for i in rivals:
            kept[i] = False
    return added


def _better(theirs: Word, end: float, mine: Word, begin: float) -> bool:
    """Whether the window before, until ``end``, heard whole what this one, from ``begin``, heard a piece of."""
    if mine.start >= begin + EDGE_S:
        return False
    return theirs.end <= end - EDGE_S or len(theirs.text) > len(mine.text)


def _collide(one: Word, other: Word) -> bool:
    """Whether two words are said at the same time."""
    shared = min(one.end, other.end) - max(one.start, other.start)
    return shared > SAME_TIME * min(one.end - one.start, other.end - other.start)


# -- which word is which ------------------------------------------------------------------------------


def _align(mine: Sequence[Word], theirs: Sequence[Word]) -> dict[int, int]:
    """The words that are the same in both, in order, by text and time: the pairing of the highest score."""

    @cache
    def best(i: int, j: int) -> tuple[float, tuple[tuple[int, int], ...]]:
        if i == len(mine) or j == len(theirs):
            return 0.0, ()
        options = [best(i + 1, j), best(i, j + 1)]
        if (score := _likeness(mine[i], theirs[j])) > 0:
            rest, pairs = best(i + 1, j + 1)
            options.append((rest + score, ((i, j), *pairs)))
        return max(options, key=lambda option: option[0])

    return dict(best(0, 0)[1])


def _likeness(one: Word, other: Word) -> float:
    """1 for the same word at the same time; 0 for different words, or times that are too far apart."""
    near = max(0.0, 1 - abs(_centre(one) - _centre(other)) / REACH_S)
    a, b = _plain(one.text), _plain(other.text)
    if a == b:
        return near
    return near / 2 if _alike(a, b) else 0.0


def _alike(a: str, b: str) -> bool:
    """Whether one may be the other, cut or misheard."""
    shorter, longer = sorted((a, b), key=len)
    if len(shorter) >= _LEAST_PREFIX and (longer.startswith(shorter) or longer.endswith(shorter)):
        return True
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() >= ALIKE


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold() or text


def _centre(word: Word) -> float:
    return (word.start + word.end) / 2


# -- what comes out -----------------------------------------------------------------------------------


def _rebuild(found: Sequence[Segment], kept: Sequence[bool], added: Sequence[Word]) -> list[Segment]:
    """The segments with the words that are left; what the neighbour's windows heard is a segment of its own."""
    flags = iter(kept)
    segments = [part for segment in found if (part := _part(segment, [next(flags) for _ in segment.words]))]
    if added:
        segments.append(_extra(sorted(added, key=lambda word: word.start), found))
    return sorted(segments, key=lambda segment: segment.start)


def _part(segment: Segment, kept: Sequence[bool]) -> Segment | None:
    words = [word for word, keep in zip(segment.words, kept, strict=True) if keep]
    if not words:
        return None if segment.words else segment
    if len(words) == len(kept):
        return segment
    text = _excerpt(segment, kept)
    return segment.model_copy(update={"text": text, "words": words, "start": words[0].start, "end": words[-1].end})


def _excerpt(segment: Segment, kept: Sequence[bool]) -> str:
    """The kept words as they stand in the text, which knows where there are spaces."""
    text, at = "", 0
    for word, keep in zip(segment.words, kept, strict=True):
        begin = segment.text.find(word.text, at)
        if begin < 0:
            return _joined(
                [word for word, keep in zip(segment.words, kept, strict=True) if keep], segment.language
            )
        if keep:
            text += segment.text[at:begin] + word.text
        at = begin + len(word.text)
    return text.strip()


def _extra(words: Sequence[Word], found: Sequence[Segment]) -> Segment:
    language = found[0].language if found else ""
    return Segment(
        confidence=round(sum(word.confidence for word in words) / len(words), 4),
        text=_joined(words, language),
        start=words[0].start,
        end=max(word.end for word in words),
        language=language,
        words=list(words),
    )


def _joined(words: Iterable[Word], language: str) -> str:
    return ("" if language in _NO_SPACES else " ").join(word.text for word in words)
