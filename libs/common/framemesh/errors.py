"""Errors that a user can mend, and those that a new start mends."""

from __future__ import annotations

from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class FramemeshError(Exception):
    """One clear line that names the thing and the fix. The CLI and the services print it without a stack."""


class StartAgain(Exception):
    """One line that says why this process is of no more use; whoever watches it starts another."""


def inside(error: BaseException, kind: type[E]) -> E | None:
    """The error of that kind, also where it ended a group of tasks."""
    if isinstance(error, kind):
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next((found for each in inner if (found := inside(each, kind))), None)


def mendable(error: BaseException) -> FramemeshError | None:
    """What a user can mend."""
    return inside(error, FramemeshError)
