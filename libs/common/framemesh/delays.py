"""When a server says that one may come again: RFC 9110, Retry-After."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST_S = 3600.0
"""A server that wants more is asked again after so long: clocks differ, and a job should not hang for days."""


def asked_for(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that ``Retry-After`` (seconds, or a date) or ``Retry-After-Ms`` asks for; None where it does not."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        seconds = _number(value)
        if seconds is None and name == "retry-after":
            seconds = _until(value, time.time() if now is None else now)
        if seconds is not None:
            return min(LONGEST_S, max(0.0, seconds / divisor))
    return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _until(text: str, now: float) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
