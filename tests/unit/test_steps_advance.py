"""What happens to jobs, by themselves and whatever happens in whatever order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framemesh.steps import advance
from framemesh.steps.advance import Failure, Order
from framemesh.steps.job import MOST_STATE_BYTES, Job, JobStatus, StepStatus
from framemesh.steps.plan import ON_FAILURE, Plan, check

S, J = StepStatus, JobStatus


def job(steps: dict[str, Any], given: dict[str, Any] | None = None, **more: Any) -> Job:
    plan = Plan.model_validate({"name": "p", "steps": steps, **more})
    return Job(id="j", plan=plan, input=given or {}, created=0)


def places(orders: list[Order]) -> list[str]:
    return [order.place for order in orders]


def finish(of: Job, order: Order, output: Any = None, at: float = 1) -> list[Order]:
    return advance.done(of, order.step, order.item, order.attempt, output, at, at)


def fail(of: Job, order: Order, *, retry: bool = False) -> list[Order]:
    return advance.failed(of, order.step, order.item, order.attempt, Failure("why", retry), 1.0)


CHAIN = {"a": {"function": "f"}, "b": {"function": "f", "after": ["a"], "input": {"x": "$steps.a.n"}}}


def test_a_chain_goes_step_by_step_and_ends_with_the_last_output() -> None:
    it = job(CHAIN)
    (a,) = advance.begin(it, 0)
    assert (a.place, a.attempt, it.status) == ("a", 1, J.QUEUED)
    (b,) = finish(it, a, {"n": 5})
    assert it.status is J.PROCESSING
    assert advance.step_input(it, "b", None) == {"x": 5}
    assert finish(it, b, "end", at=7) == []
    assert (it.status, it.output, it.ended, it.progress) == (J.DONE, {"b": "end"}, 7, 100)


def test_an_event_that_comes_again_changes_nothing_and_tells_what_it_set_free() -> None:
    it = job(CHAIN)
    (a,) = advance.begin(it, 0)
    first = finish(it, a, {"n": 5})
    before = it.model_dump()
    assert finish(it, a, {"n": 6}) == first
    assert fail(it, a) == first
    assert it.model_dump() == before


def test_a_step_is_tried_again_with_a_rest_and_then_fails_the_job() -> None:
    it = job({"a": {"function": "f", "retry": {"attempts": 2, "delay": 3}}, "b": {"function": "f"}})
    a, _ = advance.begin(it, 0)
    (again,) = fail(it, a, retry=True)
    assert (again.attempt, again.due) == (2, 4.0)
    assert it.steps["a"].status is S.RETRYING
    assert fail(it, again, retry=True) == []
    assert (it.status, it.error, it.failed_step) == (J.FAILED, "a: why", "a")
    assert it.steps["b"].status is S.CANCELLED


def test_an_optional_step_and_one_that_skips_do_not_fail_the_job() -> None:
    it = job(
        {
            "a": {"function": "f", "optional": True},
            "b": {"function": "f"},
            "c": {"function": "f", "after": ["a", "b"]},
        }
    )
    a, b = advance.begin(it, 0)
    assert fail(it, a) == []
    (c,) = advance.skipped(it, b.step, b.item, b.attempt, "no key", 1)
    finish(it, c)
    assert it.status is J.DONE
    assert (it.steps["a"].status, it.steps["b"].status, it.steps["b"].error) == (S.FAILED, S.SKIPPED, "no key")


FAN = {
    "a": {"function": "f"},
    "b": {
        "function": "g",
        "after": ["a"],
        "over": "$steps.a",
        "parallel": 2,
        "tolerate": 1,
        "input": {"n": "$item"},
    },
}


def test_items_are_done_so_many_at_a_time_and_their_outputs_come_in_order() -> None:
    it = job(FAN)
    (a,) = advance.begin(it, 0)
    first = finish(it, a, [10, 20, 30])
    assert places(first) == ["b:0", "b:1"]
    assert advance.step_input(it, "b", 1) == {"n": 20}
    (third,) = finish(it, first[1], "two")
    assert third.place == "b:2"
    assert fail(it, first[0]) == []  # one is tolerated
    assert finish(it, third, "three") == []
    assert it.output == {"b": [None, "two", "three"]}


def test_too_many_failures_end_the_step_and_the_others_with_it() -> None:
    it = job(FAN)
    (a,) = advance.begin(it, 0)
    first = finish(it, a, [10, 20, 30])
    fail(it, first[0])
    fail(it, first[1])
    assert it.status is J.FAILED
    assert it.steps["b"].error == "2 of 3 items failed; item 0: why"
    assert [item.status for item in it.steps["b"].items or []] == [S.FAILED, S.FAILED, S.CANCELLED]
    again = advance.retry(it, 2)
    assert places(again) == ["b:0", "b:1"]
    assert [order.attempt for order in again] == [2, 2]


@pytest.mark.parametrize(
    ("output", "said"), [("text", "is no list"), ([0] * 2001, "at most 2000"), (None, "is no list")]
)
def test_what_is_no_list_fails_the_step(output: Any, said: str) -> None:
    it = job(FAN)
    (a,) = advance.begin(it, 0)
    assert finish(it, a, output) == []
    assert it.status is J.FAILED
    assert said in it.error


def test_an_empty_list_is_done_at_once() -> None:
    it = job(FAN)
    (a,) = advance.begin(it, 0)
    assert finish(it, a, []) == []
    assert (it.status, it.output) == (J.DONE, {"b": []})


def test_the_step_for_failures_runs_once_before_the_job_has_failed() -> None:
    it = job({"a": {"function": "f"}}, on_failure={"function": "tell", "input": {"why": "$error"}})
    (a,) = advance.begin(it, 0)
    (last,) = fail(it, a)
    assert (last.step, it.status) == (ON_FAILURE, J.PROCESSING)
    assert advance.step_input(it, ON_FAILURE, None) == {"why": "a: why"}
    finish(it, last)
    assert (it.status, it.error) == (J.FAILED, "a: why")
    (again,) = advance.retry(it, 2)
    finish(it, again)
    assert it.status is J.DONE


def test_a_cancelled_job_takes_nothing_in_any_more_until_it_is_retried() -> None:
    it = job(CHAIN)
    (a,) = advance.begin(it, 0)
    assert advance.started(it, "a", None, 1, "w", 1)
    assert advance.cancel(it, 2, "why not")
    assert not advance.cancel(it, 3)
    assert finish(it, a) == []
    assert not advance.progressed(it, "a", None, 1, (50, "half"))
    assert (it.status, it.error) == (J.CANCELLED, "why not")
    (again,) = advance.retry(it, 4)
    assert again.attempt == 2


def test_an_output_that_the_plan_cannot_make_fails_the_job() -> None:
    it = job({"a": {"function": "f"}}, output={"x": "$steps.a.y"})
    (a,) = advance.begin(it, 0)
    finish(it, a, {})
    assert (it.status, it.error) == (J.FAILED, "output: $steps.a.y: there is no steps.a.y")


def test_the_step_for_failures_is_another_try_each_time_that_the_job_fails() -> None:
    """Its tries are told apart by their number: the server would drop a second first one."""
    it = job({"a": {"function": "f"}}, on_failure={"function": "tell", "retry": {"attempts": 2}})
    (a,) = advance.begin(it, 0)
    (last,) = fail(it, a)
    (again,) = fail(it, last, retry=True)
    assert (last.attempt, again.attempt) == (1, 2)
    finish(it, again)
    (a,) = advance.retry(it, 2)
    (last,) = fail(it, a)
    (again,) = fail(it, last, retry=True)
    assert (last.attempt, again.attempt) == (3, 4)


def test_a_retry_does_not_do_again_what_the_job_went_on_without() -> None:
    steps = {
        "face": {"function": "f", "optional": True},
        "scenes": {"function": "f", "over": "$input.list", "tolerate": 1},
        "score": {"function": "f", "after": ["face", "scenes"]},
        "late": {"function": "f", "after": ["face"], "optional": True},
        "save": {"function": "f", "after": ["score"]},
    }
    it = job(steps, {"list": [1, 2]})
    face, first, second = advance.begin(it, 0)
    fail(it, first)
    finish(it, second, "two")
    score, late = fail(it, face)
    fail(it, late)
    (save,) = finish(it, score)
    fail(it, save)
    assert (it.status, it.failed_step) == (J.FAILED, "save")
    assert places(advance.retry(it, 2)) == ["late", "save"]
    assert (it.steps["face"].status, it.steps["scenes"].output) == (S.FAILED, [None, "two"])


def test_a_job_that_is_retried_before_it_began_begins_then() -> None:
    it = job(CHAIN)
    advance.begin(it, 0)
    advance.cancel(it, 1)
    advance.retry(it, 5)
    assert (it.status, it.started) == (J.PROCESSING, 5)


@pytest.mark.parametrize(
    ("delay", "due"), [(float("nan"), 2.0), (float("inf"), 2.0), (-5, 1.0), (0, 1.0), (1e18, 86401.0), (None, 2.0)]
)
def test_a_rest_that_a_step_asks_for_is_one(delay: float | None, due: float) -> None:
    it = job({"a": {"function": "f", "retry": {"delay": 1}}})
    advance.begin(it, 0)
    (again,) = advance.failed(it, "a", None, 1, Failure("why", delay=delay), 1.0)
    assert again.due == due


def test_a_reason_is_kept_as_far_as_it_can_be_written_down() -> None:
    it = job({"a": {"function": "f"}})
    (a,) = advance.begin(it, 0)
    advance.failed(it, a.step, None, 1, Failure("caf\xe9 \udcff \0" + "\u20ac" * 5000, retry=False), 1.0)
    assert it.error.startswith("a: caf\xe9 ? ?\u20ac")
    assert len(it.error.encode()) <= 4100
    assert Job.model_validate_json(it.model_dump_json()) == it


def test_the_state_of_two_thousand_items_stays_small_however_they_end() -> None:
    """Their outputs are kept once; so the message stays below what NATS takes."""
    count = 2000
    fan = {
        "a": {"function": "f", "over": "$input.list", "parallel": 256, "tolerate": count, "retry": {"attempts": 1}}
    }
    it = job(fan, {"list": [f"http://10.0.0.1:8080/3,{n:08x}{n:08x}" for n in range(count)]})
    orders, most = advance.begin(it, 0), 0
    output = {"url": "http://10.0.0.1:8080/3,0123456789abcdef", "labels": ["person", "bicycle"], "score": 0.123456}
    while orders:
        order = orders.pop()
        now = 1764293703.123456 + (order.item or 0)
        advance.started(it, "a", order.item, 1, "worker-with-a-long-name-1a2b3c4d", now)
        advance.progressed(it, "a", order.item, 1, (50, "half of it is done"))
        if (order.item or 0) % 2:
            orders += advance.failed(it, "a", order.item, 1, Failure("x" * 4000), now)
        else:
            orders += finish(it, order, output, at=now)
        if (order.item or 0) % 100 == 0 or not orders:
            most = max(most, len(it.model_dump_json(exclude_defaults=True)))
    assert it.status is J.DONE
    assert it.output["a"][:2] == [output, None]
    assert 300_000 < most < MOST_STATE_BYTES * 0.8


def test_outputs_of_items_survive_a_failure_and_a_retry() -> None:
    it = job(FAN | {"c": {"function": "f"}})
    a, c = advance.begin(it, 0)
    first = finish(it, a, [10, 20, 30])
    (third,) = fail(it, first[0])
    finish(it, first[1], "two")
    finish(it, third, "three")
    fail(it, c)
    assert it.status is J.FAILED
    again = advance.retry(it, 2)
    assert places(again) == ["b:0", "c"]
    for order in again:
        finish(it, order, "again")
    assert it.output == {"b": ["again", "two", "three"], "c": "again"}


# -- whatever happens ---------------------------------------------------------------------------------


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    steps: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 6))):
        after = draw(st.lists(st.sampled_from(sorted(steps)), unique=True, max_size=3)) if steps else []
        step: dict[str, Any] = {
            "function": "f",
            "after": after,
            "optional": draw(st.booleans()),
            "retry": {"attempts": draw(st.integers(1, 3))},
        }
        if draw(st.booleans()):
            step |= {
                "over": "$input.list",
                "parallel": draw(st.integers(1, 3)),
                "tolerate": draw(st.integers(0, 2)),
            }
        steps[f"s{number}"] = step
    whole: dict[str, Any] = {"steps": steps, "given": {"list": draw(st.lists(st.integers(), max_size=4))}}
    if draw(st.booleans()):
        whole["on_failure"] = {"function": "f"}
    return whole


ENDS = {J.DONE, J.FAILED, J.CANCELLED}


class World:
    """Workers that get every order once or twice, in any order, and do with it what they like."""

    def __init__(self, whole: dict[str, Any], seed: int) -> None:
        self.random = random.Random(seed)
        self.job = job(whole["steps"], whole["given"], on_failure=whole.get("on_failure"))
        check(self.job.plan, self.job.input, {"f"})
        self.queue = advance.begin(self.job, 0)
        self.effects: dict[tuple[str, int | None], int] = {}
        self.sent: set[tuple[str, int]] = set()
        self.retried = 0

    def turn(self) -> None:
        order = self.queue.pop(self.random.randrange(len(self.queue)))
        if self.random.random() < 0.2:
            self.queue.append(order)  # it comes twice
        if self.random.random() < 0.1:  # as if it had been read from the stream
            self.job = Job.model_validate_json(self.job.model_dump_json(exclude_defaults=True))
        before = self.job.model_copy(deep=True)
        how = self.random.random()
        if how < 0.25:
            advance.started(self.job, order.step, order.item, order.attempt, "w", 1)
            self.queue.append(order)
        elif how < 0.45:
            self.queue += fail(self.job, order, retry=self.random.random() < 0.7)
        elif how < 0.5:
            self.queue += advance.skipped(self.job, order.step, order.item, order.attempt, "no", 1)
        elif how < 0.51:
            advance.cancel(self.job, 1)
        else:
            self.queue += finish(self.job, order, "out")
        self.compare(before)

    def compare(self, before: Job) -> None:
        """What had an end keeps it, and no step begins before its turn."""
        if before.status in ENDS:
            assert self.job == before
        for name, state in self.job.steps.items():
            old = before.steps.get(name)
            if old and old.status.over:
                assert (state.status, state.output) == (old.status, old.output)
            if name != ON_FAILURE and state.status not in {S.WAITING, S.CANCELLED}:
                assert all(self.job.steps[other].status.over for other in self.job.plan.steps[name].after)
            active = sum(item.status.active for item in state.items or [])
            assert active <= self.job.step_of(name).parallel


@settings(max_examples=400, deadline=None)
@given(plans(), st.integers(0, 2**32))
def test_every_job_comes_to_an_end_whatever_its_workers_do(whole: dict[str, Any], seed: int) -> None:
    world = World(whole, seed)
    for _ in range(2000):
        if not world.queue:
            break
        world.turn()
    it = world.job
    assert it.status in ENDS, it.steps
    assert all(state.status.over for state in it.steps.values())
    assert it.ended is not None
    if it.status is J.DONE:
        bad = [name for name, state in it.steps.items() if state.status is S.FAILED]
        assert all(it.plan.steps[name].optional for name in bad)
        assert not advance.retry(it, 2)
    else:
        world.queue = advance.retry(it, 2)
        while world.queue:  # this time everything works
            world.queue += finish(world.job, world.queue.pop(), "out")
        assert world.job.status is J.DONE


@settings(max_examples=200, deadline=None)
@given(plans(), st.integers(0, 2**32))
def test_what_is_still_to_be_done_can_always_be_told_from_the_job_alone(whole: dict[str, Any], seed: int) -> None:
    world = World(whole, seed)
    for _ in range(2000):
        if not world.queue or world.random.random() < 0.02:
            break
        world.turn()
    for _ in range(200):  # whatever was sent is lost, and sent again from the job alone
        missing = [
            advance.Order("j", name, number, work.attempt, "f", world.job.priority)
            for name, state in world.job.steps.items()
            for number, work in ([(None, state)] if state.items is None else list(enumerate(state.items)))
            if work.status.active
        ]
        if world.job.status in ENDS or not missing:
            break
        for order in missing:
            finish(world.job, order, "out")
    assert world.job.status in ENDS
