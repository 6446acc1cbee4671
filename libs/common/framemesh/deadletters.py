"""What is kept of a message that could not be processed."""

from __future__ import annotations

import base64
import time
import traceback
from typing import TYPE_CHECKING

from framemesh.messages import DeadLetter
from framemesh.telemetry import redact

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from framemesh.pull import Meta

MAX_PAYLOAD = 256 * 1024
"""Bytes of a payload that are kept; the rest of an absurdly large one is cut."""


def letter(msg: Msg, meta: Meta, origin: str, reason: str, error: BaseException | None = None) -> DeadLetter:
    """Describe ``msg`` as a dead letter: where it came from, why it died, and the message as it came."""
    payload, encoding = _text(msg.data[:MAX_PAYLOAD])
    stack = "".join(traceback.format_exception(error)) if error else ""
    return DeadLetter(
        stream=meta.stream,
        subject=msg.subject,
        stream_seq=meta.stream_seq,
        consumer=meta.consumer,
        reason=redact(reason),
        stack=redact(stack),
        origin=origin,
        deliveries=meta.deliveries,
        headers=dict(msg.headers or {}),
        payload=payload,
        encoding=encoding,
        timestamp=time.time(),
    )


def _text(data: bytes) -> tuple[str, str]:
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), "base64"
