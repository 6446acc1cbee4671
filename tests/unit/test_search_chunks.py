"""Passages of transcripts: every sentence is in one, the overlap is right, and times never go back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.search.chunks import Chunk, SpokenSegment, SpokenWord, chunks, sentences

TEXTS = st.sampled_from(["so", "Dr.", "ended.", "really?", "No!", "e.g.", "3.5", "word", "ends.”", "終わり。"])


@st.composite
def transcripts(draw: st.DrawFn) -> list[SpokenSegment]:
    """Segments with words, or with a text alone; times that may lie, as a recogniser's sometimes do."""
    made, now = [], 0.0
    for _ in range(draw(st.integers(0, 8))):
        begin, words = now, []
        for text in draw(st.lists(TEXTS, max_size=25)):
            length, gap = draw(st.floats(0, 3)), draw(st.sampled_from([0.0, 0.1, 2.5, -0.5]))
            words.append(SpokenWord(text=text, start=now, end=now + length))
            now = max(0.0, now + length + gap)
        text = " ".join(word.text for word in words)
        made.append(SpokenSegment(text=text, start=begin, end=now, words=words if draw(st.booleans()) else []))
    return made


SIZES = st.integers(1, 40).flatmap(lambda most: st.tuples(st.just(most), st.integers(0, most // 2)))


@given(transcripts(), SIZES)
def test_every_sentence_is_covered_in_order(said: list[SpokenSegment], sizes: tuple[int, int]) -> None:
    most, overlap = sizes
    whole, made = sentences(said, most), chunks(said, most, overlap)
    at = 0
    for before, chunk in pairwise([Chunk(()), *made]):
        shared = _shared(before, chunk)
        for sentence in chunk.sentences[shared:]:
            assert sentence is whole[at] or sentence == whole[at]
            at += 1
    assert at == len(whole)
    words = [word.text for segment in said for word in segment.spoken()]
    assert " ".join(sentence.text for sentence in whole).split() == [
        part for text in words for part in text.split()
    ]


@given(transcripts(), SIZES)
def test_a_chunk_has_so_many_words_and_shares_so_many(said: list[SpokenSegment], sizes: tuple[int, int]) -> None:
    most, overlap = sizes
    made = chunks(said, most, overlap)
    for chunk in made:
        assert 0 < sum(sentence.words for sentence in chunk.sentences) <= most
    for before, chunk in pairwise(made):
        shared = _shared(before, chunk)
        assert shared < len(before.sentences)
        assert shared < len(chunk.sentences)
        assert sum(sentence.words for sentence in chunk.sentences[:shared]) <= overlap


@given(transcripts(), SIZES)
def test_times_never_go_back(said: list[SpokenSegment], sizes: tuple[int, int]) -> None:
    made = chunks(said, *sizes)
    assert all(chunk.start <= chunk.end for chunk in made)
    assert all(before.start <= after.start for before, after in pairwise(made))


def _shared(before: Chunk, after: Chunk) -> int:
    """How many sentences (the same ones) two chunks have in common."""
    known = {id(sentence) for sentence in before.sentences}
    return sum(id(sentence) in known for sentence in after.sentences)


def words(text: str, start: float = 0.0, each: float = 0.5) -> list[SpokenWord]:
    return [
        SpokenWord(text=w, start=start + at * each, end=start + (at + 1) * each)
        for at, w in enumerate(text.split())
    ]


def test_sentences_end_at_marks_and_at_pauses_and_not_after_abbreviations() -> None:
    said = [SpokenSegment(words=[*words("I met Dr. Ames, e.g. once. Then we"), *words("went home", 10.0)])]
    assert [s.text for s in sentences(said, 80)] == ["I met Dr. Ames, e.g. once.", "Then we", "went home"]


def test_a_chunk_begins_with_the_last_sentence_of_the_one_before() -> None:
    said = [SpokenSegment(words=words("one two three. four five. six seven eight. nine ten."))]
    made = chunks(said, 6, 3)
    assert [chunk.text for chunk in made] == [
        "one two three. four five.", "four five. six seven eight.", "six seven eight. nine ten.",
    ]  # fmt: skip
    assert made[1].start == made[0].sentences[1].start == 1.5


def test_a_segment_without_words_spreads_them_over_its_time() -> None:
    (chunk,) = chunks([SpokenSegment(text="a b c d", start=8.0, end=10.0)], 10, 0)
    assert (chunk.start, chunk.end, chunk.text) == (8.0, 10.0, "a b c d")


def test_a_script_without_blanks_is_cut_into_parts_with_times() -> None:
    made = chunks([SpokenSegment(text="\u6a4b" * 100, start=0.0, end=10.0)], 2, 0)
    assert [len(chunk.text.replace(" ", "")) for chunk in made] == [80, 20]
    assert [made[0].start, made[1].start, made[1].end] == pytest.approx([0.0, 20 / 3, 10.0])


def test_a_sentence_without_an_end_is_cut() -> None:
    said = [SpokenSegment(words=words(" ".join(["and"] * 25)))]
    assert [len(chunk.text.split()) for chunk in chunks(said, 10, 5)] == [10, 10, 5]
