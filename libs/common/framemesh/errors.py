"""Errors that a user can mend."""


class FramemeshError(Exception):
    """One clear line that names the thing and the fix. The CLI and the services print it without a stack."""


def mendable(error: BaseException) -> FramemeshError | None:
    """What a user can mend, also where it ended a group of tasks."""
    if isinstance(error, FramemeshError):
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next((found for each in inner if (found := mendable(each))), None)
