"""Headers are read as the NATS client reads them."""

from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client

from framemesh.wire import Wire

LINE = st.binary(max_size=24) | st.sampled_from(
    [b"Nats-Sequence: 12", b"a:b:c", b" a : b ", b"a b: c", b":x", b"\xff: y"]
)


@given(st.lists(LINE, max_size=6).map(b"\r\n".join))
@example(b"Nats-Stream: JOBS\r\nNats-Subject: jobs.state.a\r\nNats-Sequence: 7\r\n\r\n")
@example("Gr\u00fc\u00dfe: an\r\nan: Gr\u00fc\u00dfe\r\n".encode())
def test_headers_are_read_as_the_client_reads_them(raw: bytes) -> None:
    assert Wire._parse_header_lines(raw) == Client._parse_header_lines(raw)


def test_the_client_still_reads_headers_there() -> None:
    names = Client._process_headers.__code__.co_names
    assert "_parse_header_lines" in names
