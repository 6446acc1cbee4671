"""What is read and written is what the NATS client itself would read and write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.protocol.parser import Parser

from framemesh.wire import Reader, Wire, read_headers

LINE = st.binary(max_size=24) | st.sampled_from(
    [b"Nats-Sequence: 12", b"a:b:c", b" a : b ", b"a b: c", b":x", b"\xff: y"]
)


@given(st.lists(LINE, max_size=6).map(b"\r\n".join))
@example(b"Nats-Stream: JOBS\r\nNats-Subject: jobs.state.a\r\nNats-Sequence: 7")
@example("Gr\u00fc\u00dfe: an\r\nan: Gr\u00fc\u00dfe".encode())
def test_headers_are_read_as_the_client_reads_them(lines: bytes) -> None:
    raw = b"NATS/1.0\r\n" + lines + b"\r\n\r\n"
    assert (read_headers(raw) or {}) == (asyncio.run(Client()._process_headers(raw)) or {})


@pytest.mark.parametrize(
    "raw",
    [
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 404 No Messages\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 10\r\nNats-Last-Stream: 7\r\n\r\n",
        b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\nNats-Pending-Bytes: 0\r\n\r\n",
    ],
)
def test_a_status_is_read_as_the_client_reads_it(raw: bytes) -> None:
    assert read_headers(raw) == asyncio.run(Client()._process_headers(raw))


# -- reading ------------------------------------------------------------------------------------------


class Taker:
    """Takes what a parser hands on."""

    def __init__(self) -> None:
        self.found: list[tuple[Any, ...]] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.found.append((sid, bytes(subject), bytes(reply), bytes(data), headers and bytes(headers)))

    async def _process_ping(self) -> None:
        self.found.append(("ping",))

    async def _process_pong(self) -> None:
        self.found.append(("pong",))


TOKEN = st.sampled_from([b"a.b", b"_INBOX.x.12", b"5", b"7.7", b"MSG"])
BODY = st.binary(max_size=40) | st.just(b"MSG a 1 2\r\nxy\r\n")


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message, with or without a reply and headers; or a ping."""
    if draw(st.booleans()) and draw(st.booleans()):
        return draw(st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n"]))
    body, reply = draw(BODY), draw(st.none() | TOKEN)
    to = b"%b %d %b" % (draw(TOKEN), draw(st.integers(1, 99)), reply + b" " if reply else b"")
    if draw(st.booleans()):
        return b"MSG %b%d\r\n%b\r\n" % (to, len(body), body)
    head = b"NATS/1.0\r\n%b\r\n" % draw(st.sampled_from([b"", b"a: b\r\n"]))
    return b"HMSG %b%d %d\r\n%b%b\r\n" % (to, len(head), len(head) + len(body), head, body)


@given(st.lists(messages(), max_size=8).map(b"".join), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_messages_are_taken_out_as_the_client_takes_them(data: bytes, sizes: list[int]) -> None:
    """However what comes is cut."""

    async def taken(kind: type[Parser]) -> list[tuple[Any, ...]]:
        taker, at, number = Taker(), 0, 0
        parser = kind(taker)
        while at < len(data):
            size = sizes[number % len(sizes)]
            await parser.parse(data[at : at + size])
            at, number = at + size, number + 1
        assert not parser.buf
        return taker.found

    assert asyncio.run(taken(Reader)) == asyncio.run(taken(Parser))


# -- writing ------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@given(
    st.sampled_from(["a.b", "a b", "", "a\r\nPUB x 0", "Gr\u00fc\u00dfe"]),
    st.binary(max_size=20),
    st.sampled_from(["", "_INBOX.1", "a b"]),
    st.none() | st.dictionaries(st.sampled_from(["A", "Nats-Msg-Id"]), TEXT, max_size=2),
)
@example("a", b"x", "", {"A": "one\r\nB: two"})
def test_messages_are_written_as_the_client_writes_them(
    subject: str, payload: bytes, reply: str, headers: dict[str, str] | None
) -> None:
    async def written(kind: type[Client]) -> bytes | str:
        client = kind()
        client._status = Client.CONNECTED
        client._flush_queue = asyncio.Queue()
        client._flush_queue.put_nowait(asyncio.Future())
        try:
            await client.publish(subject, payload, reply, headers)
        except NatsError as error:
            return type(error).__name__
        assert client._pending_data_size == sum(len(each) for each in client._pending)
        return b"".join(client._pending)

    ours, theirs = asyncio.run(written(Wire)), asyncio.run(written(Client))
    if headers is None or all(value == value.strip() for value in headers.values()):
        assert ours == theirs
