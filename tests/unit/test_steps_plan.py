"""Plans: what is refused, and where inputs come from."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from framemesh.steps.mapping import MappingError, references, resolve
from framemesh.steps.plan import Plan, PlanError, Retry, check

FUNCTIONS = {"fetch", "cut", "tell"}


def plan(**steps: dict[str, Any]) -> Plan:
    return Plan.model_validate({"name": "p", "steps": steps})


def refused(wrong: Plan, given: dict[str, Any] | None = None) -> str:
    with pytest.raises(PlanError) as caught:
        check(wrong, given or {}, FUNCTIONS)
    return str(caught.value)


def test_a_plan_that_can_be_worked_off_is_accepted() -> None:
    check(
        plan(
            fetch={"function": "fetch", "input": {"url": "$input.url", "name": "$input.name?"}},
            cut={"function": "cut", "after": ["fetch"], "over": "$steps.fetch.parts", "input": {"part": "$item"}},
            tell={"function": "tell", "after": ["cut"], "input": {"all": "$steps.fetch.parts", "cost": "$$5"}},
        ),
        {"url": "http://a"},
        FUNCTIONS,
    )


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            {"a": {"function": "fetch", "after": ["b"]}, "b": {"function": "cut", "after": ["a"]}},
            "break the cycle",
        ),
        ({"a": {"function": "fetch", "after": ["a"]}}, "break the cycle"),
        ({"a": {"function": "fetch", "after": ["c"]}}, "after names 'c', which is no step"),
        ({"a": {"function": "fly"}}, "no worker has ever had a function 'fly'; known: cut, fetch, tell"),
        ({"a": {"function": "fetch", "input": {"u": "$input.url"}}}, r"$input.url is not in the job's input"),
        ({"a": {"function": "fetch"}, "b": {"function": "cut", "input": {"x": "$steps.a"}}}, "add it to after"),
        ({"a": {"function": "fetch", "input": {"x": "$item"}}}, "$item has no meaning here"),
        ({"a": {"function": "fetch", "input": {"x": "$nothing.x"}}}, "is no reference"),
        ({"a": {"function": "fetch", "over": "five"}}, "over must be a reference to a list"),
        ({"on-failure": {"function": "fetch"}}, "that name is taken"),
    ],
)
def test_a_plan_that_cannot_be_worked_off_is_refused_with_the_step_and_the_fix(
    steps: dict[str, Any], said: str
) -> None:
    assert said in refused(plan(**steps))


def test_sub_plans_are_checked_too_and_go_only_so_deep() -> None:
    inner: dict[str, Any] = {"name": "inner", "steps": {"x": {"function": "fly"}}}
    assert "plan inner, step x" in refused(plan(a={"plan": inner}))
    for _ in range(5):
        inner = {"name": "deeper", "steps": {"x": {"plan": inner}}}
    assert "more than 4 deep" in refused(plan(a={"plan": inner}))


@pytest.mark.parametrize(
    "step", [{}, {"function": "a", "plan": {"name": "x", "steps": {}}}, {"function": "a", "retires": 3}]
)
def test_a_step_that_says_too_little_too_much_or_something_unknown_is_none(step: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plan(a=step)


@given(st.integers(1, 200), st.floats(0, 1), st.floats(1, 10))
def test_a_rest_stays_between_nothing_and_the_most(attempt: int, chance: float, factor: float) -> None:
    retry = Retry(attempts=100, factor=factor, most=60)
    assert 0 < retry.rest(attempt, chance) <= 60
    assert retry.rest(attempt, 0) <= retry.rest(attempt + 1, 0)


def test_references_are_filled_in_wherever_they_stand() -> None:
    known = {"input": {"a": [1, {"b": 2}]}, "steps": {"x": None}, "item": "i"}
    value = {"one": "$input.a.1.b", "many": ["$item", "$$item", "plain", 3, None], "gone": "$steps.x.y?"}
    assert resolve(value, known) == {"one": 2, "many": ["i", "$item", "plain", 3, None], "gone": None}
    assert references(value) == ["$input.a.1.b", "$item", "$steps.x.y?"]
    with pytest.raises(MappingError, match=r"\$steps.x.y: there is no steps.x.y"):
        resolve("$steps.x.y", known)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text().filter(lambda text: not text.startswith("$")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_a_value_without_references_stays_as_it_is(value: Any) -> None:
    assert resolve(value, {}) == value
