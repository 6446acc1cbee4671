"""Plans as data: which steps a job has, what each waits for, where its input comes from, and how it may fail."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from framemesh.errors import FramemeshError
from framemesh.steps.depth import MOST_DEPTH, json_bytes, too_deep
from framemesh.steps.mapping import MappingError, leads_somewhere, references, unresolved, wanted_inputs

MOST_STEPS = 64
MOST_ITEMS = 2000
MOST_AT_A_TIME = 256
DEEPEST = 4
"""Sub-jobs in sub-jobs."""
ON_FAILURE = "on-failure"
"""Name of the step that runs when a job has failed."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class PlanError(FramemeshError):
    """A plan or a job that cannot be worked off as it is, with the field and the fix."""


class _Part(BaseModel):
    """A part of a plan: a field that it does not have is a slip of the pen, so it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Retry(_Part):
    """How often a step is tried, and how long it rests in between: exponential, with jitter, up to a cap."""

    attempts: int = Field(3, ge=1, le=100, description="Tries in all, the first included")
    delay: float = Field(1.0, ge=0.05, le=86400, description="Seconds before the second try")
    factor: float = Field(2.0, ge=1, le=10, description="By which the rest grows from try to try")
    most: float = Field(300.0, ge=0.05, le=86400, description="Longest rest, seconds")
    jitter: float = Field(0.2, ge=0, le=1, description="Share of the rest that is left to chance")

    def rest(self, attempt: int, chance: float) -> float:
        """Seconds after the ``attempt``-th try; ``chance`` is from 0 to 1."""
        # By the exponent, not the product: a hundred tries must not overflow.
        grown = self.delay * self.factor ** min(attempt - 1, 64)
        return min(self.most, grown) * (1 - self.jitter * chance)


class Step(_Part):
    """One step: a function of some service's, or a plan of its own, which becomes a sub-job."""

    function: Name | None = Field(None, description="What does it, as registered by @step")
    plan: Plan | None = Field(None, description="A sub-job instead of a function")
    after: list[Name] = Field(default_factory=list, description="Steps that must have ended before")
    input: dict[str, Any] = Field(
        default_factory=dict,
        description="Its input: values, or references such as $input.url, $steps.extract.audio, $item",
    )
    retry: Retry = Retry()
    timeout: float | None = Field(
        None, gt=0, le=7 * 86400, description="Seconds of a try; null: the function's own"
    )
    optional: bool = Field(False, description="Whether the job goes on when it has failed")
    over: str | None = Field(None, description="Reference to a list: the step runs once for each of its items")
    parallel: int = Field(8, ge=1, le=MOST_AT_A_TIME, description="Most items at a time")
    tolerate: int = Field(0, ge=0, description="Items that may fail without failing the step")
    status: str | None = Field(
        None, pattern=NAME_PATTERN, description="What the job's status is called while this step runs"
    )
    remember: str | None = Field(
        None,
        description="Reference to a scope, e.g. $input.media: what the function gave in it for the same input is "
        "taken again, without doing it",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.function is None) == (self.plan is None):
            raise ValueError("give either function or plan")
        if self.remember is not None and self.plan:
            raise ValueError("remember is for functions: what a sub-job's steps give is remembered there")
        return self


class Plan(_Part):
    """Steps by name. The job's output is ``output``, or that of the steps that none waits for, by name."""

    name: Name
    steps: dict[Name, Step] = Field(min_length=1, max_length=MOST_STEPS)
    output: dict[str, Any] | None = None
    on_failure: Step | None = Field(None, description="Runs once when the job has failed; $error says why")

    @cached_property
    def state_bytes(self) -> bytes:
        """How every state of its jobs begins, as JSON."""
        return b'{"plan":' + self.model_dump_json(exclude_defaults=True).encode() + b","

    @cached_property
    def demands(self) -> Demands:
        """What it wants. Raises PlanError when it is not sound in itself."""
        return _demands(self)

    def last(self) -> list[str]:
        """The steps that none waits for."""
        awaited = {name for step in self.steps.values() for name in step.after}
        return [name for name in self.steps if name not in awaited]

    def functions(self) -> set[str]:
        """Every function that it needs, those of its sub-jobs too."""
        found: set[str] = set()
        for _, step in self._all_steps():
            found |= {step.function} if step.function else step.plan.functions() if step.plan else set()
        return found

    def _all_steps(self) -> Iterator[tuple[str, Step]]:
        yield from self.steps.items()
        if self.on_failure:
            yield ON_FAILURE, self.on_failure


Step.model_rebuild()


@dataclass(frozen=True)
class Demands:
    """What a plan that is sound in itself still wants; each with where it says so."""

    functions: list[tuple[str, str]]
    """Those that there must be."""
    inputs: list[tuple[str, str]]
    """References to the job's input that must lead somewhere."""


def check(plan: Plan, given: dict[str, Any] | None, functions: Collection[str] | None = None) -> None:
    """Raise PlanError, with the step and the fix, for a plan that could not be worked off.

    ``given`` is the job's input, None where it is only known later; ``functions`` are those that are known.
    """
    demands = plan.demands
    _check_value("input", given or {})
    for where, function in demands.functions:
        if functions is not None and function not in functions:
            known = ", ".join(sorted(functions)) or "none yet: start a worker that has it"
            raise PlanError(f"{where}: no worker has ever had a function {function!r}; known: {known}")
    for where, reference in demands.inputs:
        if given is not None and not leads_somewhere(reference, given):
            raise PlanError(
                f"{where}: {reference} is not in the job's input: give it, or write {reference}? for null"
            )


def _demands(plan: Plan, depth: int = 1) -> Demands:
    """Raises PlanError for a plan that is not sound in itself."""
    if depth > DEEPEST:
        raise PlanError(f"plan {plan.name}: sub-jobs go more than {DEEPEST} deep: flatten the plan")
    found = Demands([], [])
    before = ended_before(plan)
    if ON_FAILURE in plan.steps:
        raise PlanError(f"plan {plan.name}, step {ON_FAILURE}: that name is taken by on_failure: choose another")
    for name, step in plan.steps.items():
        _check_step(f"plan {plan.name}, step {name}", step, before[name], found, depth)
    if plan.output is not None:
        _check_references(f"plan {plan.name}, output", plan.output, set(plan.steps), found)
    if plan.on_failure:
        where = f"plan {plan.name}, {ON_FAILURE}"
        if plan.on_failure.over or plan.on_failure.after or plan.on_failure.plan:
            raise PlanError(f"{where}: over, after and plan have no place here: give a function")
        _check_step(where, plan.on_failure, set(), found, depth, roots={"error"})
    return found


def _check_step(
    where: str, step: Step, before: set[str], found: Demands, depth: int, roots: Collection[str] = ()
) -> None:
    if step.function and not step.optional:
        found.functions.append((where, step.function))
    roots = {*roots, "item", "index"} if step.over is not None else set(roots)
    _check_references(where, step.input, before, found, roots)
    _check_references(where, step.remember, before, found, roots)
    if step.over is not None:
        if not references(step.over):
            raise PlanError(f"{where}: over must be a reference to a list, e.g. $steps.split.parts")
        _check_references(where, step.over, before, found)
    if step.plan:  # its input is only known later
        found.functions.extend(_demands(step.plan, depth + 1).functions)


def _check_value(where: str, value: Any) -> None:
    """What cannot be written down and read again would take its whole job along."""
    if too_deep(value):
        raise PlanError(f"{where}: nested deeper than {MOST_DEPTH} levels: make it flatter")
    try:
        json_bytes(value)
    except (TypeError, ValueError) as error:
        raise PlanError(f"{where}: cannot be written as JSON: {error}: mend or leave out that value") from None


def _check_references(
    where: str, value: Any, before: set[str], found: Demands, roots: Collection[str] = ()
) -> None:
    _check_value(where, value)
    try:
        wrong = unresolved(value, before, roots)
        found.inputs.extend((where, reference) for reference in wanted_inputs(value))
    except MappingError as error:
        raise PlanError(f"{where}: {error}") from None
    if wrong:
        raise PlanError(f"{where}: {wrong}")


def ended_before(plan: Plan) -> dict[str, set[str]]:
    """All steps that have ended when a step begins. Raises PlanError for unknown ones and for cycles."""
    found: dict[str, set[str]] = {}
    waiting = dict(plan.steps)
    for name, step in plan.steps.items():
        for other in step.after:
            if other not in plan.steps:
                raise PlanError(f"plan {plan.name}, step {name}: after names {other!r}, which is no step")
    while waiting:
        free = [name for name, step in waiting.items() if all(other in found for other in step.after)]
        if not free:
            raise PlanError(f"plan {plan.name}: {', '.join(sorted(waiting))} wait for each other: break the cycle")
        for name in free:
            after = waiting.pop(name).after
            found[name] = set(after).union(*(found[other] for other in after))
    return found
