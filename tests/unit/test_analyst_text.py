"""What the language model is given, and what is made of what it says: no server is needed for that."""

from __future__ import annotations

import math
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framemesh.delays import LONGEST_S, asked_for
from framemesh.errors import FramemeshError
from framemesh.llm.tokens import estimate
from framemesh.llm.usage import Usage, total
from framemesh.memo import Memo
from framemesh.settings import load
from services.analyst.answer import schema
from services.analyst.prompts import PROMPTS
from services.analyst.quotes import Spoken
from services.analyst.settings import AnalystSettings
from services.analyst.transcript import Segment, parse, parts

NOW = 1_800_000_000.0


# -- tokens and parts ------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("word", 1), ("words", 2), ("слово", 3), ("你好吗", 3)])
def test_tokens_are_estimated_by_script(text: str, tokens: int) -> None:
    assert estimate(text) == tokens


segments = st.lists(
    st.builds(Segment, text=st.text(max_size=300), start=st.floats(0, 9000), end=st.floats(0, 9000)), max_size=40
)


@given(segments, st.integers(20, 400))
def test_parts_hold_every_word_once_and_in_order_and_are_not_too_long(given: list[Segment], most: int) -> None:
    made = parts(given, most)
    said = ["".join(segment.text.split()) for segment in given]
    assert "".join("".join(piece.text.split()) for part in made for piece in part) == "".join(said)
    for part in made:
        assert part
        assert estimate("\n".join(piece.line for piece in part)) <= most
    assert not made or len(made) <= 3 * math.ceil(sum(estimate(s.line) + 1 for s in given) / most) + 1


def test_parts_are_of_about_the_same_length() -> None:
    made = parts([Segment(text="ten little words are in this sentence that goes on")] * 210, 1500)
    assert len(made) == 3
    assert max(map(len, made)) - min(map(len, made)) <= 20


def test_what_has_no_words_has_no_parts() -> None:
    assert parts([], 500) == []
    assert parts([Segment(text=" "), Segment(text="")], 500) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"not JSON", "Invalid JSON"),
        (b'{"segments": [{"text": 1}]}', r"segments\.0\.text"),
        (b'{"segments": [{"text": "a", "start": NaN}]}', r"segments\.0\.start"),
    ],
)
def test_what_is_no_transcript_is_refused_by_its_field(data: bytes, said: str) -> None:
    with pytest.raises(FramemeshError, match=f"^input transcript: .*{said}"):
        parse(data)


# -- quotes ----------------------------------------------------------------------------------------

SPOKEN = Spoken(
    [
        Segment(text="And so, my fellow Americans:", start=0),
        Segment(text=" ... ", start=3),
        Segment(text="ask not what your country can do", start=4),
        Segment(text="don\u2019t ask twice", start=8),
        Segment(text="今天天气很好", start=12),
    ]
)


@pytest.mark.parametrize(
    ("quote", "start"),
    [
        ("and so", 0),
        ("“And so my fellow AMERICANS”", 0),
        ("fellow Americans ask not", 0),
        ("ask not what", 4),
        ("dont ask", 8),
        ("don't ask", 8),
        ("天气很好", 12),
        ("and so my brothers", None),
        ("fellow American", None),
        ("ask", None),
        ("", None),
        ("…", None),
        ("明天天气", None),
    ],
)
def test_a_quote_is_found_where_it_was_said(quote: str, start: float | None) -> None:
    assert SPOKEN.find(quote) == start


# -- prompts ---------------------------------------------------------------------------------------


def test_a_version_of_the_prompts_never_changes() -> None:
    """Make a new folder and a new VERSION for another text: outputs say by which one they were made."""
    assert PROMPTS.version() == {
        "version": "v1",
        "sha256": "cb3c6f245a592d465512e92a19b7c4397c4fe1342ff50ccaae42dff0bddd0aef",
    }


def test_what_is_put_into_a_prompt_stays_as_it_is() -> None:
    filled = PROMPTS.fill(
        "analysis", metadata='{"a": "{transcript}"}', language="{language}", transcript="\\1 {x}"
    )
    assert 'Metadata (JSON): {"a": "{transcript}"}' in filled
    assert "Language of the transcript: {language}" in filled
    assert "<transcript>\n\\1 {x}\n</transcript>" in filled


def test_the_schema_is_as_strict_servers_want_it() -> None:
    def check(node: object) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object":
                assert node["additionalProperties"] is False
                assert set(node["required"]) == set(node["properties"])
            for value in node.values():
                check(value)
        elif isinstance(node, list):
            for value in node:
                check(value)

    check(schema())


# -- delays, usage, memo -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": " 2.5 "}, 2.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, LONGEST_S),
        ({"retry-after": "1e400"}, LONGEST_S),
        ({"retry-after": formatdate(NOW + 20, usegmt=True)}, 20),
        ({"retry-after": formatdate(NOW - 20, usegmt=True)}, 0),
        ({"retry-after": "Tue, 99 Nov 2026 00:00:00 GMT"}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "4"}, 4),
    ],
)
def test_a_delay_is_read_as_it_is_meant(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_for(headers, NOW) == seconds


@given(st.text(max_size=60))
def test_no_header_breaks_the_reading(value: str) -> None:
    found = asked_for({"retry-after": value, "retry-after-ms": value}, NOW)
    assert found is None or 0 <= found <= LONGEST_S


def test_tokens_add_up_and_cost() -> None:
    usage = total([Usage(1, 1000, 200), Usage(2, 500, 100, 1)])
    assert usage == Usage(3, 1500, 300, 1)
    assert usage.told()["estimated"]
    assert usage.cost(2.0, 10.0) == pytest.approx(0.006)
    assert usage.cost(0.0, 0.0) is None


def test_a_memo_forgets_what_was_not_asked_for_the_longest() -> None:
    memo = Memo[int](2)
    memo.keep("a", 1)
    memo.keep("b", 2)
    assert memo.get("a") == 1
    memo.keep("c", 3)
    assert (memo.get("a"), memo.get("b"), memo.get("c")) == (1, None, 3)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gpt_base_url", "localhost:8000/v1", "setting gpt_base_url: want http://"),
        ("gpt_base_url", "http://me:secret@host/v1", "setting gpt_base_url: leave user, password and keys out"),
        ("gpt_base_url", "http://host/v1?key=secret", "setting gpt_base_url: leave user, password and keys out"),
        ("gpt_timeout", "0", "setting gpt_timeout"),
        ("gpt_chunk_tokens", "10", "setting gpt_chunk_tokens"),
        ("gpt_price_input", "-1", "setting gpt_price_input"),
    ],
)
def test_a_wrong_setting_is_named_without_secrets(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(FramemeshError, match=f"^{said}") as caught:
        load(AnalystSettings)
    assert "secret" not in str(caught.value)


def test_the_key_is_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("gpt_api_key=' sk-hidden '\ngpt_base_url=http://host/v1/\n")
    settings = load(AnalystSettings)
    assert settings.gpt_api_key.get_secret_value() == "sk-hidden"
    assert settings.gpt_base_url == "http://host/v1"
    assert "sk-hidden" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert settings.unset == ""
