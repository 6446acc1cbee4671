"""The NATS client, with what the mesh needs of it made cheap."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

log = logging.getLogger(__name__)

_CRLF = 2
_BLANK = " \t\n\r\v\f"
_ROOM = 512 * 1024
"""Bytes that may wait to be written before somebody who publishes has to wait too."""
_find_space = re.compile(r"\s").search
_message = re.compile(rb"(?:MSG (\S+) (\d+) (?:(\S+) )?|HMSG (\S+) (\d+) (?:(\S+) )?(\d+) )(\d+)\r\n").match

Listener = Callable[[Msg], None]


class Wire(Client):
    """Hands messages on without a queue and a task between, and reads headers at a fifth of the price."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = Reader(self)
        self._listeners: dict[int, Listener] = {}

    async def listen(self, subject: str, listener: Listener) -> Subscription:
        """Subscribe; ``listener`` is called as soon as a message is read, so it must be short and never wait."""
        subscription = await self.subscribe(subject)
        self._listeners[subscription._id] = listener
        return subscription

    def give_up(self) -> None:
        """What waits to be sent is lost: its server has gone."""
        self._pending.clear()
        self._pending_data_size = 0

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        if sid not in self._subs:
            self._listeners.pop(sid, None)

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """As the client does it; at a third of the price where it is connected, has room and need not mend."""
        command = _command(subject, payload, reply, headers)
        has_room = self._pending_data_size + len(payload) < _ROOM and len(payload) <= self._max_payload
        if command is None or self._status != Client.CONNECTED or not has_room:
            await super().publish(subject, payload, reply, headers)
            return
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        listener = self._listeners.get(sid)
        if listener is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            listener(Delivery(self, sid, subject.decode(), reply.decode(), data, headers))
        except Exception:
            log.exception("%s: a message is lost", subject.decode())

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        return read_headers(headers) if headers else None


def _command(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> bytes | None:
    """A message as it goes over the wire; None for what has blanks or line breaks where none may be."""
    if not subject or _find_space(subject) or _find_space(reply):
        return None
    if headers is None:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload)
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not lines.count("\n") == lines.count("\r") == len(headers):
        return None
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    sizes = len(head), len(head) + len(payload)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply.encode(), *sizes, head, payload)


class Reader(Parser):
    """Takes whole messages out of what was read where it lies; the client's own parser does the rest."""

    async def parse(self, data: bytes = b"") -> None:
        """Hand on every message that is there whole; keep what is not."""
        at, handle = 0, self.nc._process_msg
        if not self.buf and self.state == AWAITING_CONTROL_LINE:
            while found := _message(data, at):
                plain, plain_sid, plain_reply, subject, sid, reply, head, size = found.groups()
                begin, end = found.end(), found.end() + int(size)
                if end + _CRLF > len(data):
                    break
                if head is None:
                    await handle(int(plain_sid), plain, plain_reply or b"", data[begin:end], None)
                else:
                    body = begin + int(head)
                    await handle(int(sid), subject, reply or b"", data[body:end], data[begin:body])
                at = end + _CRLF
        if at < len(data):
            await super().parse(data[at:])


class Delivery(Msg):
    """A message whose headers are read when somebody asks for them."""

    def __init__(self, client: Client, sid: int, subject: str, reply: str, data: bytes, raw: bytes | None) -> None:
        self._client = client
        self._sid = sid
        self.subject = subject
        self.reply = reply
        self.data = data
        self._raw = raw
        self._found: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str] | None:  # type: ignore[override]
        """By name; None where it came without."""
        if self._raw:
            self._found, self._raw = read_headers(self._raw), None
        return self._found


def read_headers(raw: bytes) -> dict[str, str] | None:
    """Of ``NATS/1.0``, a status with its meaning, and lines of ``Name: value``; what is none is passed over."""
    first, _, lines = raw.decode("utf-8", "replace").partition("\r\n")
    found: dict[str, str] = {}
    _, _, said = first.partition(" ")
    status, _, meaning = said.strip(_BLANK).partition(" ")
    if status.isdigit():
        found["Status"] = status
    if meaning:
        found["Description"] = meaning
    for line in lines.split("\r\n"):
        name, colon, value = line.partition(":")
        name = name.strip(_BLANK)
        if colon and name.isascii() and not _find_space(name):
            found[name] = value.strip(_BLANK)
    return found or None
