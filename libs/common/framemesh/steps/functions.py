"""Functions that do steps: plain ``async def`` with a name, registered by ``@step``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from framemesh.errors import FramemeshError
from framemesh.steps.plan import NAME_PATTERN

if TYPE_CHECKING:
    from framemesh.steps.context import Context

Body = Callable[["Context", Any], Awaitable[Any]]

TIMEOUT = 600.0


class StepFailed(Exception):
    """A step says that it failed; whether another try may help, and after how many seconds.

    Any other exception is tried again as the plan says, except FramemeshError, which only a user can mend.
    """

    def __init__(self, reason: str, *, retry: bool = True, delay: float | None = None) -> None:
        super().__init__(reason)
        self.retry = retry
        self.delay = delay


def failure(error: Exception) -> StepFailed:
    """What an exception of a step means for its job."""
    if isinstance(error, StepFailed):
        return error
    if isinstance(error, FramemeshError):
        return StepFailed(str(error), retry=False)
    return StepFailed(f"{type(error).__name__}: {error}")


def unexpected(error: Exception) -> bool:
    """Whether a step did not mean to raise it: then its stack is worth keeping."""
    return not isinstance(error, StepFailed | FramemeshError)


class Skip(Exception):
    """A step says that there is nothing for it to do in this job, and why; the job goes on without its output."""


@dataclass(frozen=True)
class Function:
    """What does a step."""

    name: str
    body: Body
    timeout: float = TIMEOUT
    """Seconds of a try, where the plan says nothing."""
    process: bool = False
    """Whether each try is a process of its own: for what keeps the processor busy, and can only so be ended."""
    concurrency: int = 0
    """Most at a time in the whole mesh; 0 for no bound. Only what a function begins with: users may change it."""
    rate: float = 0.0
    """Most begun a second in the whole mesh; 0 for no bound. As above."""
    description: str = ""
    depends: Callable[[], Any] | None = None
    """Says what the output depends on beside the input, such as a model: with another one it is not the same."""

    @property
    def spec(self) -> str:
        """Where it is found, for a process of its own."""
        return f"{self.body.__module__}:{self.body.__qualname__}"


_registered: dict[str, Function] = {}


def step(
    name: str,
    *,
    timeout: float = TIMEOUT,
    process: bool = False,
    concurrency: int = 0,
    rate: float = 0.0,
    depends: Callable[[], Any] | None = None,
) -> Callable[[Body], Body]:
    """Register ``async def (ctx, input) -> output`` as a function. Its docstring's first line describes it.

    ``input`` is what the plan's mapping gives, an object; ``output`` is anything that JSON can say, to 64 KiB.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise FramemeshError(
            f"@step({name!r}): a name is letters, digits, - and _, 64 at most, e.g. face-analysis"
        )

    def register(body: Body) -> Body:
        if not inspect.iscoroutinefunction(body):
            raise FramemeshError(f"@step({name!r}): {body.__qualname__} must be async def (ctx, input)")
        text = (inspect.getdoc(body) or "").partition("\n")[0]
        function = Function(name, body, timeout, process, concurrency, rate, text, depends)
        if (other := _registered.get(name)) and other.spec != function.spec:
            raise FramemeshError(f"@step({name!r}) is there twice: in {other.spec} and in {function.spec}")
        _registered[name] = function
        return body

    return register


def functions_of(module: str) -> list[Function]:
    """The functions that a module registers, by name. Raises FramemeshError."""
    try:
        import_module(module)
    except ImportError as error:
        raise FramemeshError(
            f"{module}: cannot be imported ({error}): give a module, e.g. examples.steps"
        ) from error
    found = [each for each in _registered.values() if each.body.__module__ == module]
    if not found:
        raise FramemeshError(f"{module}: no function in it is registered with @step")
    return sorted(found, key=lambda each: each.name)
