"""What is kept of a message that could not be processed."""

from __future__ import annotations

import base64
import codecs
import time
import traceback
from typing import TYPE_CHECKING

from framemesh.messages import DeadLetter
from framemesh.telemetry import redact

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from framemesh.pull import Meta

MAX_PAYLOAD = 128 * 1024
MAX_HEADERS = 4 * 1024
"""Bytes of a payload that are kept; the rest of an absurdly large one is cut. JSON may write a byte as six, and
NATS takes one MiB."""
MAX_TEXT = 8 * 1024


def letter(msg: Msg, meta: Meta, origin: str, reason: str, error: BaseException | None = None) -> DeadLetter:
    """Describe ``msg`` as a dead letter: where it came from, why it died, and the message as it came."""
    payload, encoding = _text(msg.data)
    stack = "".join(traceback.format_exception(error)) if error else ""
    return DeadLetter(
        stream=meta.stream,
        subject=msg.subject,
        stream_seq=meta.stream_seq,
        consumer=meta.consumer,
        reason=redact(reason)[:MAX_TEXT],
        stack=redact(stack)[-MAX_TEXT:],
        origin=origin,
        deliveries=meta.deliveries,
        headers=_bounded(msg.headers or {}),
        payload=payload,
        encoding=encoding,
        cut=len(msg.data) > MAX_PAYLOAD,
        timestamp=time.time(),
    )


def _text(data: bytes) -> tuple[str, str]:
    kept, whole = data[:MAX_PAYLOAD], len(data) <= MAX_PAYLOAD
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(kept, final=whole), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(kept).decode(), "base64"


def _bounded(headers: dict[str, str]) -> dict[str, str]:
    """Headers as they came, as far as they fit."""
    kept: dict[str, str] = {}
    size = 0
    for name, value in headers.items():
        size += len(name) + len(value)
        if size > MAX_HEADERS:
            break
        kept[name] = value
    return kept
