"""Dead letters: what is kept of a message, and that it always fits into one."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from framemesh.deadletters import MAX_PAYLOAD, letter
from framemesh.pull import Meta

META = Meta("FRAMES", "router", 3, 42, 1.0, 0)
MAX_NATS = 1 << 20


def message(data: bytes) -> Msg:
    return Msg(_client=Client(), subject="frames-stream.cam", data=data, headers={"traceparent": "00-a-b-01"})


@given(st.binary(max_size=500))
def test_the_payload_can_be_had_back(data: bytes) -> None:
    dead = letter(message(data), META, "me", "broken")
    back = dead.payload.encode() if dead.encoding == "utf-8" else base64.b64decode(dead.payload)
    assert back == data


def test_a_letter_says_where_from_why_and_who() -> None:
    try:
        raise ZeroDivisionError("nats://me:s3cret@host")
    except ZeroDivisionError as error:
        dead = letter(message(b"x"), META, "router-1", f"failed: {error}", error)
    assert (dead.stream, dead.subject, dead.stream_seq) == ("FRAMES", "frames-stream.cam", 42)
    assert (dead.consumer, dead.deliveries, dead.origin) == ("router", 3, "router-1")
    assert dead.headers == {"traceparent": "00-a-b-01"}
    assert dead.reason == "failed: nats://***@host"
    assert "test_deadletters.py" in dead.stack
    assert "ZeroDivisionError" in dead.stack
    assert "s3cret" not in dead.stack


@pytest.mark.parametrize("byte", [b"\0", b"x", b"\xff", "é".encode(), b'"', "😀".encode()])
def test_a_letter_always_fits_into_a_message(byte: bytes) -> None:
    error = ValueError("x" * 2_000_000)
    dead = letter(message(byte * (MAX_NATS // len(byte))), META, "me", "y" * 2_000_000, error)
    assert len(dead.model_dump_json().encode()) < MAX_NATS - 64 * 1024
    assert len(dead.payload) > MAX_PAYLOAD // 5
    assert dead.stack.endswith("xxx\n")


def test_a_letter_that_is_cut_within_a_character_stays_text() -> None:
    dead = letter(message(b"a" + "é".encode() * MAX_PAYLOAD), META, "me", "too large")
    assert dead.encoding == "utf-8"
    assert dead.payload == "a" + "é" * (MAX_PAYLOAD // 2 - 1)
