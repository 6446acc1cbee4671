"""What the API takes: addresses, keys, queries; and how it says what is wrong."""

from __future__ import annotations

import re
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.app import shown
from services.gateway.bodies import checked, parse_json, read_query
from services.gateway.documents import (
    KEY_PATTERN,
    URL_PATTERN,
    JobsQuery,
    LogsQuery,
    NewAnalysis,
    NoQuery,
    matches,
)
from services.gateway.problems import Problem, away
from services.gateway.rooms import Room


@given(st.from_regex(URL_PATTERN, fullmatch=True))
def test_every_address_that_is_taken_can_be_fetched(url: str) -> None:
    url = url.removesuffix("\n")
    assert matches(URL_PATTERN, url)
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets around what is no IPv6: the download says so
        assert "[" in url
        return
    assert parts.scheme in {"http", "https"}
    assert parts.hostname
    assert parts.username is parts.password is None
    assert parts.port is None or 0 <= parts.port <= 65535


@given(st.text())
def test_other_texts_are_no_address_unless_they_begin_like_one(text: str) -> None:
    assert matches(URL_PATTERN, text) <= bool(re.match("(?i)https?://", text))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org", "HTTP://EXAMPLE.org:8080/a?b=c#d", "http://192.0.2.1/a.mp4", "http://[2001:db8::1]/a",
        "https://bücher.example/ü.mp4", "https://example.org?X-Amz-Signature=a/b%20c", "http://localhost:0/",
    ],
)  # fmt: skip
def test_addresses_of_all_kinds_are_taken(url: str) -> None:
    assert checked(NewAnalysis, {"videoURL": url}).video_url == url


@given(st.text(max_size=300))
def test_a_key_has_no_spaces_and_no_control_characters(text: str) -> None:
    fits = 1 <= len(text) <= 200 and text.isascii() and text.isprintable() and " " not in text
    assert matches(KEY_PATTERN, text) is fits


@given(st.binary(max_size=200))
def test_bytes_are_json_or_a_problem(data: bytes) -> None:
    try:
        parse_json(data, "the body")
    except Problem as problem:
        assert (problem.status, "the body is no JSON" in str(problem)) == (400, True)


def test_the_metadata_is_bounded_as_json() -> None:
    url = "https://example.org"
    assert checked(NewAnalysis, {"videoURL": url, "metadata": {"a": "é" * 32_000}}).metadata
    with pytest.raises(Problem, match=r"metadata: 65\d+ bytes as JSON, 65536 are allowed"):
        checked(NewAnalysis, {"videoURL": url, "metadata": {"a": "é" * 32_800}})


def test_queries_have_defaults() -> None:
    assert read_query(make_mocked_request("GET", "/jobs"), JobsQuery).limit == 50
    assert read_query(make_mocked_request("GET", "/jobs/a/logs?cursor=7"), LogsQuery).cursor == 7
    with pytest.raises(Problem, match="a: no parameter of this path; it takes: none"):
        read_query(make_mocked_request("GET", "/queues?a=1"), NoQuery)


def test_a_problem_is_one_line_without_secrets() -> None:
    document = Problem(400, "no\n\tuse of https://me:s3cret@example.org/" + "x" * 2000, field="f").document
    assert (document.type, document.field) == ("urn:framemesh:problem:invalid", "f")
    assert document.detail.startswith("no use of https://***@example.org/xxx")
    assert len(document.detail) == 1000
    assert away("later").headers == {"Retry-After": "5"}


def test_a_room_is_left_whatever_happens() -> None:
    room = Room(1, "guests")
    with pytest.raises(ZeroDivisionError), room.entered("ann"):
        raise ZeroDivisionError
    with room.entered("ann"), pytest.raises(Problem, match="1 guests are under way"), room.entered("ann"):
        pass
    assert room.inside == 0


def test_one_owner_does_not_keep_all_others_out() -> None:
    room = Room(8, "guests")
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(room.entered("ann"))
        with pytest.raises(Problem, match="6 guests are under way"):
            stack.enter_context(room.entered("ann"))
        stack.enter_context(room.entered("bob"))
        stack.enter_context(room.entered("eve"))
        with pytest.raises(Problem, match="8 guests are under way"):
            stack.enter_context(room.entered("joe"))
    assert room.inside == 0


def test_a_ticket_is_not_logged() -> None:
    path = "/play/me.1795858042.CckDFN3E/kennedy/index.m3u8"
    assert shown(make_mocked_request("GET", path)) == "/play/.../kennedy/index.m3u8"
    assert shown(make_mocked_request("GET", "/media/a%0Ab")) == "/media/a%0Ab"
