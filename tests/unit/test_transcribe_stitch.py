"""Overlapping windows made one text: by state, and by the middle of the overlap without."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framemesh.messages import AudioTask, Segment, Word
from services.transcribe.stitch import Tail, Window, stitch, tail
from tests.samples import window

LENGTH, OVERLAP = 5.0, 0.5
JITTER = 0.07
"""Seconds by which a model errs; more, and two words that follow each other may be taken for one."""
NAMES = (
    *("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima"),
    *("mike", "november", "oscar", "papa", "quebec", "romeo", "sierra", "tango", "uniform", "victor", "whiskey"),
    *("xray", "yankee", "zulu"),
)


def word(text: str, start: float, end: float, confidence: float = 0.9) -> Word:
    return Word(text=text, start=start, end=end, confidence=confidence)


def segment(*words: Word, language: str = "en") -> Segment:
    text = " ".join(each.text for each in words)
    start, end = words[0].start, words[-1].end
    return Segment(confidence=0.9, text=text, start=start, end=end, words=list(words), language=language)


def texts(given: list[Segment]) -> list[str]:
    return [each.text for found in given for each in found.words]


ONE = Window(0.0, 5.0, 0.0, 0.5)
TWO = Window(4.5, 9.5, 0.5, 0.0)


def both(one: list[Word], two: list[Word]) -> list[str]:
    """What two windows give, and that without the first one's state the second gives no less."""
    first, second = ([segment(*words)] if words else [] for words in (one, two))
    return texts(stitch(first, ONE, None)) + texts(stitch(second, TWO, tail(first, ONE)))


def test_a_word_that_both_heard_is_given_once() -> None:
    assert both(
        [word("what", 4.0, 4.3), word("your", 4.5, 4.7), word("country", 4.75, 5.0)],
        [word("your", 4.5, 4.75), word("country", 4.8, 5.2), word("can", 5.2, 5.4)],
    ) == ["what", "your", "country", "can"]


def test_a_word_cut_at_the_end_comes_whole_from_the_next_window() -> None:
    assert both(
        [word("my", 4.0, 4.4), word("fell", 4.6, 5.0)], [word("fellow", 4.6, 5.1), word("Americans", 5.1, 5.8)]
    ) == ["my", "fellow", "Americans"]


def test_a_word_cut_at_the_beginning_comes_whole_from_the_window_before() -> None:
    assert both(
        [word("my", 4.0, 4.3), word("fellow", 4.4, 4.9)], [word("low", 4.5, 4.9), word("men", 5.0, 5.4)]
    ) == [
        "my",
        "fellow",
        "men",
    ]


def test_what_only_the_window_before_heard_is_not_lost() -> None:
    assert both([word("my", 4.0, 4.3), word("one", 4.76, 4.9)], [word("two", 5.2, 5.6)]) == ["my", "one", "two"]


def test_a_piece_of_a_word_that_was_given_is_not_given_again() -> None:
    assert both([word("ask", 4.3, 4.65)], [word("uh", 4.5, 4.6), word("not", 5.0, 5.3)]) == ["ask", "not"]


def test_a_word_that_is_said_twice_is_given_twice() -> None:
    assert both(
        [word("no", 4.1, 4.3), word("no", 4.5, 4.7), word("no", 4.8, 5.0)],
        [word("no", 4.5, 4.7), word("no", 4.8, 5.05), word("no", 5.3, 5.5)],
    ) == ["no", "no", "no", "no"]


def test_a_piece_that_is_at_the_end_of_one_and_missing_in_the_other_is_given() -> None:
    assert both([word("my", 4.0, 4.3), word("fel", 4.8, 5.0)], []) == ["my", "fel"]


def test_without_the_window_before_the_overlap_belongs_to_the_later_one() -> None:
    one = [word("my", 4.2, 4.4), word("fellow", 4.5, 4.7), word("men", 4.76, 4.9)]
    two = [word("fellow", 4.5, 4.7), word("men", 4.76, 4.9), word("ask", 5.2, 5.4)]
    given_words = texts(stitch([segment(*one)], ONE, None)) + texts(stitch([segment(*two)], TWO, None))
    assert given_words == ["my", "fellow", "men", "ask"]


@pytest.mark.parametrize(("stride", "given_words"), [(1, ["my"]), (2, ["my", "fellow"])])
def test_windows_whose_neighbours_nobody_listens_to_keep_every_word(stride: int, given_words: list[str]) -> None:
    task = AudioTask(**window("cam", 1, timestamp=4.5).model_dump() | {"model": "M", "stride": stride})
    words = [word("my", 4.52, 4.6), word("fellow", 9.1, 9.5)]
    assert texts(stitch([segment(*words)], Window.of(task), None)) == given_words


def test_a_window_after_silence_stays_as_it_is() -> None:
    found = [segment(word("my", 4.5, 4.6), word("fellow", 9.0, 9.5))]
    assert stitch(found, Window(4.5, 9.5, 0.0, 0.0), None) == found


def test_the_text_of_a_segment_keeps_its_spaces_and_points() -> None:
    words = [word("私", 4.3, 4.4), word("は", 4.45, 4.6), word("犬。", 5.2, 5.4)]
    found = Segment(confidence=1, text="私は犬。", start=4.3, end=5.4, words=words, language="ja")
    [left] = stitch([found], TWO, tail([segment(*words[:2])], ONE))
    assert (left.text, left.start, left.end) == ("犬。", 5.2, 5.4)


def test_a_window_in_which_nothing_was_said_hides_nothing() -> None:
    assert both([], [word("one", 4.6, 4.8), word("two", 5.1, 5.2)]) == ["one", "two"]


# -- whatever is said, whatever the jitter ------------------------------------------------------------


@st.composite
def speech(draw: st.DrawFn) -> list[Word]:
    """Words of 0.2 to 0.45 s, so that each is whole in one of two windows that overlap by 0.5 s."""
    at, words = 0.0, []
    for name in draw(st.permutations(NAMES)):
        at += draw(st.integers(5, 30)) / 100
        length = draw(st.integers(20, 45)) / 100
        words.append(word(name, at, at + length))
        at += length
    return words


def windows(words: list[Word]) -> list[Window]:
    end, step, cut = words[-1].end + 0.2, LENGTH - OVERLAP, [0.0]
    while cut[-1] + LENGTH < end:
        cut.append(cut[-1] + step)
    last = len(cut) - 1
    return [
        Window(
            begin,
            end if index == last else begin + LENGTH,
            OVERLAP if index else 0.0,
            OVERLAP if index < last else 0.0,
        )
        for index, begin in enumerate(cut)
    ]


def heard(draw: Callable[[Any], Any], words: list[Word], window: Window, jitter: float) -> list[Segment]:
    """What a model makes of a window: words whole in it, a piece or nothing of those that are cut."""
    spoken: list[Word] = []
    for each in words:
        if each.end <= window.begin or each.start >= window.end:
            continue
        if each.start < window.begin or each.end > window.end:
            if draw(st.booleans()):
                spoken.append(_piece(each, window))
            continue
        shift = draw(st.floats(-jitter, jitter))
        after = spoken[-1].start if spoken else window.begin  # a model's times never go back
        start = min(max(after, each.start + shift), window.end)
        spoken.append(word(each.text, start, min(window.end, max(start, each.end + shift))))
    return [segment(*spoken)] if spoken else []


def _piece(whole: Word, window: Window) -> Word:
    half = len(whole.text) // 2 + 1
    text = whole.text[-half:] if whole.start < window.begin else whole.text[:half]
    return word(text, max(whole.start, window.begin), min(whole.end, window.end))


@given(data=st.data(), words=speech())
def test_each_word_is_given_once_when_the_times_differ(data: st.DataObject, words: list[Word]) -> None:
    given_words: list[str] = []
    before: Tail | None = None
    for place in windows(words):
        found = heard(data.draw, words, place, JITTER)
        given_words += texts(stitch(found, place, before))
        before = tail(found, place)
    assert given_words == [each.text for each in words]


@given(words=speech())
def test_each_word_is_given_once_without_the_window_before_when_the_times_agree(words: list[Word]) -> None:
    given_words: list[str] = []
    for place in windows(words):
        whole = [each for each in words if place.begin <= each.start and each.end <= place.end]
        given_words += texts(stitch([segment(*whole)] if whole else [], place, None))
    assert given_words == [each.text for each in words]


@given(data=st.data(), words=speech())
def test_what_a_window_gives_is_in_the_order_of_time(data: st.DataObject, words: list[Word]) -> None:
    before: Tail | None = None
    for place in windows(words):
        found = heard(data.draw, words, place, 0.3)
        starts = [each.start for each in stitch(found, place, before)]
        before = tail(found, place)
        assert all(one <= other for one, other in pairwise(starts))
