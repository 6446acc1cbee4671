"""Logs without secrets, W3C trace context, and the metrics every service has."""

from __future__ import annotations

import logging
import re
import secrets
import sys

from prometheus_client import Counter, Histogram

CONSUMED = Counter(
    "framemesh_consumed_total", "Messages taken from a consumer, by how they ended", ["consumer", "outcome"]
)
PUBLISHED = Counter("framemesh_published_total", "Messages accepted by JetStream", ["stream"])
STAGE_SECONDS = Histogram(
    "framemesh_stage_seconds",
    "Time a frame spends in one stage of a worker",
    ["model", "stage"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)

# Everything between the scheme and the last @ of the word: people type passwords with @, /, ? and # as they are,
# and a path with an @ that is hidden too does less harm than a password that is not. The scheme has a bound, or a
# long word would take forever.
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30}://)(?:(?!://)\S)*@")
# Cameras take passwords in queries and, some makes, in the path: /user=admin_password=secret_channel=1.
_SECRET_VALUE = re.compile(
    r"(?i)([?&](?:pass|token|access_token|secret|key|auth|signature)=|(?:password|passwd|pwd)=)[^&\s'\"]+"
)


def redact(text: str) -> str:
    """Hide user names, passwords and tokens of every URL in ``text``."""
    return _SECRET_VALUE.sub(r"\1***", _USERINFO.sub(r"\g<scheme>***@", text))


class _Formatter(logging.Formatter):
    """One line a record; a stack, when there is one, follows it. Nothing leaves unredacted."""

    def __init__(self, service: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {service} %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure_logging(service: str, level: str = "INFO") -> None:
    """Send the process's logs to stderr, redacted, with the service's name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("aiohttp.access", "nats", "faster_whisper", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def new_trace() -> str:
    """A ``traceparent`` that begins a trace (W3C Trace Context, version 00)."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def child_trace(traceparent: str | None) -> str:
    """A ``traceparent`` of the same trace with a span of its own; a new trace when there is none to follow."""
    parts = (traceparent or "").split("-")
    if len(parts) != 4 or len(parts[1]) != 32:  # noqa: PLR2004 - the standard's four fields
        return new_trace()
    return f"00-{parts[1]}-{secrets.token_hex(8)}-{parts[3]}"
