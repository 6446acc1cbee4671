"""Logs without secrets, and traces that hold together."""

from __future__ import annotations

import logging
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framemesh.telemetry import child_trace, configure_logging, new_trace, redact

# Whatever can be typed into a URL as one word; "://" would begin another URL.
PASSWORDS = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=4).filter(lambda p: "://" not in p)
SCHEMES = st.sampled_from(["rtsp", "nats", "http", "https", "redis", "rtsps", "s3+http"])


@given(
    SCHEMES, st.from_regex(r"\A[a-z]{0,8}\Z"), PASSWORDS, st.sampled_from(["", ":554", ":8554/a/b?c=d#e", "/x y"])
)
def test_no_password_of_a_url_is_left(scheme: str, user: str, password: str, rest: str) -> None:
    secret = f"<{password}>"  # so that it cannot be a part of the text around it
    for text in (
        f"{scheme}://{user}:{secret}@host{rest}",
        f"cannot open '{scheme}://{user}:{secret}@host{rest}': refused",
        f"{scheme}://{secret}@host{rest} and {scheme}://{user}:{secret}@other",
        f"{scheme}://{user}:{secret}@one,{scheme}://{user}:{secret}@two",
    ):
        assert secret not in redact(text)
        assert f"{scheme}://***@" in redact(text)


@pytest.mark.parametrize("password", ["p@ss", "p@ss@", "pa/ss", "pa?ss", "pa#ss", "pa:ss", "12/34", "é'\"`$%"])
def test_passwords_that_people_type_are_hidden(password: str) -> None:
    assert redact(f"lost rtsp://admin:{password}@10.0.0.7:554/1") == "lost rtsp://***@10.0.0.7:554/1"


@pytest.mark.parametrize(
    "text",
    [
        "http://camera/video?user=me&password=s3cret&channel=1",
        "http://camera/video?token=s3cret",
        "http://camera/?pwd=s3cret&x=1",
        "https://host/a?X=1&Auth=s3cret",
        "rtsp://10.0.0.7:554/user=admin&password=s3cret&channel=1&stream=0.sdp",
        "rtsp://10.0.0.7:554/user=admin_password=s3cret_channel=1_stream=0.sdp",
    ],
)
def test_secrets_in_queries_are_hidden(text: str) -> None:
    assert "s3cret" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8080/3,01637037d6: HTTP 404",
        "mail me@example.org",
        "task_key=cam/run/3/DetectionInference",
        "rtsp://camera:554/stream?channel=1",
        "see https://docs.nats.io/a#b and http://x/y",
        "",
    ],
)
def test_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_a_long_word_takes_no_time() -> None:
    begun = time.monotonic()
    assert redact("x" * 1_000_000) == "x" * 1_000_000
    assert redact("a://" * 100_000) == "a://" * 100_000
    assert time.monotonic() - begun < 5


@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


def test_log_lines_and_their_stacks_are_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers = []
    try:
        configure_logging("Reader")
        log = logging.getLogger("framemesh.test")
        log.info("reading %s", "rtsp://me:s3cret@camera/1")
        try:
            raise OSError("cannot open rtsp://me:s3cret@camera/1?token=s3cret2")
        except OSError:
            log.exception("failed")
        log.debug("not shown")
    finally:
        root.handlers, root.level = before
    text = capsys.readouterr().err
    assert "s3cret" not in text
    assert re.search(r"^\d\d:\d\d:\d\d INFO    Reader reading rtsp://\*\*\*@camera/1$", text, re.MULTILINE)
    assert "OSError: cannot open rtsp://***@camera/1?token=***" in text
    assert "Traceback" in text
    assert "not shown" not in text


def test_a_child_keeps_the_trace_and_has_a_span_of_its_own() -> None:
    parent = new_trace()
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", parent)
    child = child_trace(parent)
    assert child.split("-")[1] == parent.split("-")[1]
    assert child.split("-")[2] != parent.split("-")[2]
    assert child.split("-")[3] == "01"


@given(st.none() | st.text() | st.from_regex(r"\A00-[0-9a-f]{31}-[0-9a-f]{16}-01\Z"))
def test_what_is_no_trace_begins_a_new_one(text: str | None) -> None:
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", child_trace(text))
