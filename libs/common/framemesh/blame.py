"""What somebody else's code raised, in one line that says where in it."""

from __future__ import annotations

import contextlib
import logging
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from framemesh.errors import FramemeshError

log = logging.getLogger(__name__)

MOST_NAMED = 3
LONGEST = 500
_LIBRARIES = (
    str(Path(__file__).parent),
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
)


@contextlib.contextmanager
def blaming(what: str) -> Iterator[None]:
    """Whatever the code inside raises becomes one line: what was done, where it failed and how.

    The stack is logged at DEBUG.
    """
    try:
        yield
    except FramemeshError:
        raise
    except (Exception, SystemExit) as error:
        log.debug("%s", what, exc_info=error)
        raise FramemeshError(f"{what}: {told(error)}") from error


def told(error: BaseException) -> str:
    """An error in one line: where in the code of whoever wrote it, its kind, and what it says."""
    return ": ".join(part for part in (where(error), type(error).__name__, said(error)) if part)


def said(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, ValidationError):
        wrong = error.errors(include_url=False)
        parts = [f"{'.'.join(map(str, item['loc']))}: {_reason(str(item['msg']))}" for item in wrong[:MOST_NAMED]]
        more = f" (and {len(wrong) - MOST_NAMED} more)" if len(wrong) > MOST_NAMED else ""
        text = f"{error.title}: {'; '.join(parts)}{more}"
    else:
        text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def where(error: BaseException) -> str:
    """File and line at which an error came up: the innermost that is in no library; empty where none is known."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<", *_LIBRARIES))]
    innermost = (own or frames)[-1:]
    return "".join(f"{_shown(frame.filename)}:{frame.lineno}{_within(frame.name)}" for frame in innermost)


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ")


def _within(function: str) -> str:
    return "" if function == "<module>" else f" in {function}"


def _shown(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
