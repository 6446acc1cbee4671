from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from framemesh.messages import Classification, Detection, Medium, Result
from services.registrator.rules import Closed, Decision, Opened, Rule, RuleWatch

BASE = 1_700_000_000.0
Seen = list[tuple[str, float]]
PERSON: Seen = [("person", 0.9)]


def result(time: float, seen: Seen | None = None, seq: int | None = None, **fields: Any) -> Result:
    seen = PERSON if seen is None else seen
    seq = round(time * 10) if seq is None else seq
    found = [Detection(label=label, class_id=0, confidence=c, box=(0, 0, 9, 9)) for label, c in seen]
    values = {
        "model": "DetectionInference",
        "source": "cam",
        "run": "r1",
        "seq": seq,
        "frame_id": f"frame_{seq:06}",
        "timestamp": BASE + time,
        "frame_url": "",
        "result": found,
        "timing_ms": {},
        "captured_at": 0.0,
        "width": 640,
        "height": 480,
    }
    return Result.model_validate(values | fields)


def rule(**fields: Any) -> Rule:
    return Rule.model_validate({"window_s": 1.0, "idle_s": 3.0, "cooldown_s": 5.0} | fields)


def empty(time: float, **fields: Any) -> Result:
    return result(time, [], **fields)


def feed(watch: RuleWatch, results: Iterable[Result]) -> list[Decision]:
    return [decision for each in results for decision in watch.feed(each)]


def summary(decisions: Iterable[Decision]) -> list[tuple[str, float]]:
    """(opened, start) and (closed, end), seconds after BASE."""
    return [
        ("opened", round(each.event.start - BASE, 6))
        if isinstance(each, Opened)
        else ("closed", round(each.event.end - BASE, 6))
        for each in decisions
    ]


def times(*spans: tuple[float, float], step: float = 0.25) -> Iterator[float]:
    for begin, end in spans:
        for index in range(round((end - begin) / step) + 1):
            yield begin + index * step


@pytest.mark.parametrize(
    "field",
    ["confidence", "hits", "window_s", "idle_s", "max_length_s", "cooldown_s", "pre_roll_s", "post_roll_s"],
)
def test_a_value_out_of_bounds_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Rule.model_validate({field: -1})


@pytest.mark.parametrize("field", ["window_s", "idle_s", "max_length_s", "hits"])
def test_zero_is_refused_where_it_makes_no_sense(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Rule.model_validate({field: 0})


@pytest.mark.parametrize(
    "values",
    [{"name": ""}, {"labels": []}, {"models": []}, {"confidence": 1.1}, {"idle_s": "inf"}, {"colour": "red"}],
)
def test_other_nonsense_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        Rule.model_validate(values)


def test_a_length_shorter_than_the_window_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_length_s must not be shorter than window_s"):
        Rule(max_length_s=1, window_s=2)


def test_zero_cooldown_is_allowed() -> None:
    assert Rule(cooldown_s=0).cooldown_s == 0


def test_opens_at_the_hit_that_completes_the_window_and_starts_at_the_first() -> None:
    watch = RuleWatch(rule())
    assert feed(watch, [result(0), result(0.5)]) == []
    [opened] = watch.feed(result(1.0))
    assert isinstance(opened, Opened)
    assert opened.event.start == BASE
    assert opened.event.end == BASE + 1
    assert opened.event.task_key == "cam/r1/10/DetectionInference"
    assert opened.event.first.seq == 0


@pytest.mark.parametrize(
    ("moments", "opens"),
    [
        ([0, 0.5, 1.0], True),
        ([0, 0.5, 1.25], False),
        ([0, 0.5, 1.25, 1.5], True),
        ([0, 2, 4, 6], False),
        ([0, 0, 0], True),
        ([0.5, 0.25, 0.75], True),
        ([3, 1, 1.5], False),
    ],
)
def test_hits_must_lie_within_the_window(moments: list[float], opens: bool) -> None:
    watch = RuleWatch(rule())
    assert bool(feed(watch, [result(t, seq=i) for i, t in enumerate(moments)])) is opens


@pytest.mark.parametrize(
    ("other", "counts"),
    [
        (result(0.5), True),
        (result(0.5, [("person", 0.5)]), True),
        (result(0.5, [("person", 0.49)]), False),
        (result(0.5, [("dog", 0.9)]), False),
        (result(0.5, [("dog", 0.9), ("person", 0.6)]), True),
        (empty(0.5), False),
        (result(0.5, error="no model"), False),
        (result(0.5, model="Other"), False),
        (result(0.5, result=[Classification(label="person", class_id=0, confidence=0.6)]), True),
    ],
)
def test_what_a_sighting_is(other: Result, counts: bool) -> None:
    watch = RuleWatch(rule(hits=2, models={"DetectionInference"}))
    assert bool(feed(watch, [result(0), other])) is counts


def test_any_model_counts_when_none_is_named() -> None:
    assert feed(RuleWatch(rule(hits=2)), [result(0), result(0.1, model="Other")])


def test_closes_once_idle_with_the_end_at_the_last_sighting() -> None:
    watch = RuleWatch(rule(hits=1))
    assert summary(feed(watch, [result(0), result(2), empty(5)])) == [("opened", 0)]
    assert summary(watch.feed(empty(5.1))) == [("closed", 2)]


def test_stays_open_while_sightings_come() -> None:
    watch = RuleWatch(rule(hits=1))
    assert summary(feed(watch, map(result, times((0, 30), step=3)))) == [("opened", 0)]
    assert summary(watch.finish()) == [("closed", 30)]


def test_an_error_is_no_sighting_but_time_passes() -> None:
    watch = RuleWatch(rule(hits=1))
    assert summary(feed(watch, [result(0), result(3.5, error="boom")])) == [("opened", 0), ("closed", 0)]


def test_another_models_results_do_not_pass_time() -> None:
    watch = RuleWatch(rule(hits=1, models={"DetectionInference"}))
    assert summary(feed(watch, [result(0), empty(9, model="Fast"), result(1)])) == [("opened", 0)]


def test_closes_at_max_length_and_opens_again_after_the_cooldown() -> None:
    watch = RuleWatch(rule(max_length_s=10))
    decisions = feed(watch, map(result, times((0, 27))))
    assert summary(decisions) == [("opened", 0), ("closed", 10), ("opened", 15), ("closed", 25)]


def test_max_length_comes_first_however_few_results_come() -> None:
    watch = RuleWatch(rule(hits=1, max_length_s=10))
    assert summary(feed(watch, [result(0), *map(result, times((1, 9))), empty(100)]))[-1] == ("closed", 10)


@pytest.mark.parametrize(("again", "opens"), [(7.9, False), (8.0, True), (9.0, True)])
def test_sightings_in_the_cooldown_do_not_count(again: float, opens: bool) -> None:
    watch = RuleWatch(rule(hits=2, cooldown_s=8))
    feed(watch, [result(0), result(0), empty(3.5)])
    decisions = feed(watch, [result(again), result(again)])
    assert bool(decisions) is opens
    assert bool(feed(watch, [result(10)])) is False


def test_without_a_cooldown_the_closing_result_counts_towards_the_next_event() -> None:
    watch = RuleWatch(rule(hits=1, cooldown_s=0))
    assert summary(feed(watch, [result(0), result(4)])) == [("opened", 0), ("closed", 0), ("opened", 4)]


def test_a_result_that_steps_back_counts_and_moves_nothing_back() -> None:
    watch = RuleWatch(rule(hits=1))
    feed(watch, [result(0), result(2)])
    assert watch.feed(result(1.9, model="Other")) == []
    [closed] = watch.finish()
    assert (closed.event.end, closed.event.counts) == (BASE + 2, Counter(person=3))


def test_finish_closes_what_is_open_once() -> None:
    watch = RuleWatch(rule(hits=1))
    assert watch.finish() == []
    watch.feed(result(0))
    assert summary(watch.finish()) == [("closed", 0)]
    assert watch.finish() == []
    assert watch.feed(result(1)) == []  # it cools down as after any other closing


def test_an_event_goes_on_across_a_new_run() -> None:
    watch = RuleWatch(rule(hits=1))
    assert summary(feed(watch, [result(0), result(1, seq=0, run="r2")])) == [("opened", 0)]
    [closed] = watch.finish()
    assert (closed.event.first.run, closed.event.end) == ("r1", BASE + 1)


def test_counts_best_and_label() -> None:
    watch = RuleWatch(rule(labels={"person", "dog"}))
    frames: list[Seen] = [
        [("dog", 0.6), ("cat", 1.0)],
        [("person", 0.8), ("person", 0.7), ("dog", 0.5)],
        [("person", 0.8)],
        [("person", 0.4)],
        [("person", 0.6)],
    ]
    feed(watch, [result(0.2 * i, seen, seq=i) for i, seen in enumerate(frames)])
    [closed] = watch.finish()
    assert closed.event.counts == Counter(person=3, dog=2)
    assert closed.event.label == "person"
    assert (closed.event.best.seq, closed.event.confidence) == (1, 0.8)


def test_of_equal_labels_the_first_seen_is_the_events() -> None:
    watch = RuleWatch(rule(labels={"person", "dog"}, hits=2))
    [opened] = feed(watch, [result(0, [("dog", 0.6)]), result(0.1)])
    assert opened.event.label == "dog"


def test_an_opened_event_does_not_change_afterwards() -> None:
    watch = RuleWatch(rule(hits=1))
    [opened] = watch.feed(result(0))
    before = replace(opened.event, counts=opened.event.counts.copy())
    watch.feed(result(1))
    assert opened.event == before


def test_the_id_follows_source_run_rule_and_first_hit_only() -> None:
    def identity(rule: str = "person", **fields: Any) -> str:
        [opened] = RuleWatch(Rule(name=rule, hits=1)).feed(result(0, **fields))
        return opened.event.id

    assert identity() == identity(model="Other") == "4d63aac6-c67d-5ee8-b411-1ed3ab24db07"
    others = {identity("x"), identity(source="x"), identity(run="x"), identity(seq=7)}
    others.add(identity(medium=Medium.AUDIO))  # a window and a frame may have the same number
    assert len(others | {identity()}) == 6


def test_the_horizon() -> None:
    watch = RuleWatch(rule())
    steps = [
        (empty(0), None),
        (result(1), 1),
        (result(1.5), 1),
        (empty(2.25), 1.5),
        (empty(3), None),
        (result(4), 4),
        (result(4.1), 4),
        (result(4.2), 4),
        (result(6), 4),
        (empty(9.5), 4),
        (empty(10.9), 4),
        (empty(11), None),
    ]
    for each, expected in steps:
        watch.feed(each)
        assert watch.horizon == (None if expected is None else BASE + expected), each.timestamp


def is_sighting(rule: Rule, each: Result) -> bool:
    wanted = rule.models is None or each.model in rule.models
    seen = [found for found in each.result if found.label in rule.labels and found.confidence >= 0.5]
    return wanted and each.error is None and bool(seen)


RULES = st.builds(
    Rule,
    labels=st.sampled_from([{"person"}, {"person", "dog"}]),
    models=st.sampled_from([None, {"A"}]),
    hits=st.integers(1, 4),
    window_s=st.sampled_from([0.25, 1.0, 2.0]),
    idle_s=st.sampled_from([0.25, 1.0, 3.0]),
    max_length_s=st.sampled_from([2.0, 5.0, 60.0]),
    cooldown_s=st.sampled_from([0.0, 1.0, 4.0]),
)
SEEN = st.lists(st.tuples(st.sampled_from(["person", "dog"]), st.sampled_from([0.3, 0.5, 0.7, 0.9])), max_size=2)
FRAMES = st.tuples(
    st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.5, 6.0]), st.floats(0, 2)),
    SEEN,
    st.sampled_from(["A", "B"]),
    st.sampled_from([None, None, None, "boom"]),
    st.one_of(st.just(0.0), st.floats(0, 1)),  # steps back by
)


@st.composite
def streams(draw: st.DrawFn, *, in_order: bool = False) -> list[Result]:
    now, results = 0.0, []
    for seq, (step, seen, model, error, back) in enumerate(draw(st.lists(FRAMES, max_size=40))):
        now += step
        time = now if in_order else max(0.0, now - back)
        run = "r1" if seq < 20 else "r2"
        results.append(result(time, seen, seq=seq, model=model, error=error, run=run))
    return results


@settings(max_examples=300, deadline=None)
@given(RULES, streams(), st.data())
def test_a_replay_from_the_horizon_goes_on_alike(rule: Rule, results: list[Result], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(results)))
    watch = RuleWatch(rule)
    feed(watch, results[:cut])
    oldest = watch.oldest
    begin = cut if oldest is None else results.index(oldest)
    replay = RuleWatch(rule)
    feed(replay, results[begin:cut])
    for each in results[cut:]:
        assert replay.feed(each) == watch.feed(each)
        assert replay.oldest == watch.oldest
    assert replay.finish() == watch.finish()


@settings(max_examples=200, deadline=None)
@given(RULES, streams())
def test_one_event_at_a_time_and_sane(rule: Rule, results: list[Result]) -> None:
    watch = RuleWatch(rule)
    decisions = [*feed(watch, results), *watch.finish()]
    for opened, closed in zip(decisions[::2], decisions[1::2], strict=True):
        assert isinstance(opened, Opened)
        assert isinstance(closed, Closed)
        event = closed.event
        assert (event.id, event.start, event.first) == (opened.event.id, opened.event.start, opened.event.first)
        assert event.start <= event.end
        assert event.end - event.start <= rule.max_length_s + 1e-6
        assert set(event.counts) <= rule.labels
    assert len({each.event.id for each in decisions}) == len(decisions) / 2


@settings(max_examples=200, deadline=None)
@given(RULES, streams(in_order=True))
def test_events_of_ordered_results_have_their_hits_and_their_rest(rule: Rule, results: list[Result]) -> None:
    watch = RuleWatch(rule)
    decisions = [*feed(watch, results), *watch.finish()]
    for opened in decisions[::2]:
        event = opened.event
        assert event.end - event.start <= rule.window_s
        within = [each for each in results if event.start <= each.timestamp <= event.end]
        assert sum(is_sighting(rule, each) for each in within) >= rule.hits
    for closed, opened in zip(decisions[1::2], decisions[2::2], strict=False):
        assert opened.event.start >= closed.event.end + rule.cooldown_s
