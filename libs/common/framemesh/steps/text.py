"""Text as it can be kept: some of what people and programs say can neither be written as UTF-8 nor be stored."""

from __future__ import annotations

import logging

from framemesh.telemetry import redact

LONGEST_LINE = 4096

_FORMATTER = logging.Formatter()


def writable(text: str, most: int) -> str:
    """The first ``most`` bytes of a text, without what UTF-8 or a database has no place for."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore").replace("\0", "?")


def line(record: logging.LogRecord) -> str:
    """A line of a log, without secrets; one whose arguments do not fit says so, and ends nobody's work."""
    try:
        text = _FORMATTER.format(record)
    except Exception as error:  # an object of the caller may raise anything
        text = f"{record.msg!r}: cannot be written with its arguments: {error}"
    return writable(redact(text[: 2 * LONGEST_LINE]), LONGEST_LINE)
