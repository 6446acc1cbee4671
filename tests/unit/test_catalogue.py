from __future__ import annotations

import time

import pytest

from framemesh.messages import EventState, Transition
from services.registrator.catalogue import ENDED, NEXT, _moved, describe
from services.registrator.rules import Opened, Rule, RuleWatch
from tests.samples import event, result

CREATED, PENDING, DONE = EventState.CREATED, EventState.PENDING, EventState.DONE
FINISHED, ERROR = EventState.FINISHED, EventState.ERROR


def after(state: EventState | None) -> set[EventState]:
    """Every state that can come after this one, by any number of steps."""
    found: set[EventState] = set()
    waiting = [*NEXT[state]]
    while waiting:
        following = waiting.pop()
        if following not in found:
            found.add(following)
            waiting += NEXT[following]
    return found


def test_the_table_knows_every_state() -> None:
    assert set(NEXT) == {None, *EventState}
    assert after(None) == set(EventState)


@pytest.mark.parametrize(
    ("before", "state", "allowed"),
    [
        (None, CREATED, True),
        (None, PENDING, False),
        (CREATED, PENDING, True),
        (CREATED, DONE, False),
        (CREATED, CREATED, False),
        (PENDING, DONE, True),
        (PENDING, FINISHED, False),
        (DONE, FINISHED, True),
        (DONE, PENDING, False),
        (FINISHED, ERROR, False),
        (ERROR, CREATED, False),
    ],
)
def test_the_steps(before: EventState | None, state: EventState, allowed: bool) -> None:
    assert (state in NEXT[before]) == allowed


@pytest.mark.parametrize("state", EventState)
def test_no_state_comes_twice(state: EventState) -> None:
    assert state not in after(state)


@pytest.mark.parametrize("state", EventState)
def test_what_has_ended_stays_and_all_else_may_fail(state: EventState) -> None:
    assert (state in ENDED) == (not NEXT[state])
    assert (ERROR in NEXT[state]) == (state not in ENDED)


def test_a_step_is_added_to_those_before() -> None:
    known = event("cam", CREATED, PENDING)
    made = known.model_copy(update={"transitions": [], "video_proofs": "/tmp/e.mp4"})
    begun = time.time()
    moved = _moved(made, known, DONE, "")
    assert moved.state is DONE
    assert moved.transitions[:2] == known.transitions
    (step,) = moved.transitions[2:]
    assert (step.state, step.reason) == (DONE, "")
    assert begun <= step.timestamp <= time.time()
    assert moved.video_proofs == "/tmp/e.mp4"
    assert (known.state, len(known.transitions), made.transitions) == (PENDING, 2, [])


def test_a_reason_is_kept_in_the_event_and_in_the_step() -> None:
    moved = _moved(event("cam", CREATED), event("cam", CREATED), ERROR, "no frames")
    assert moved.reason == "no frames"
    assert moved.transitions[-1].reason == "no frames"


def test_the_first_step_of_an_event_begins_its_history() -> None:
    new = event("cam", CREATED).model_copy(update={"transitions": [Transition(state=ERROR, timestamp=1)]})
    assert [step.state for step in _moved(new, None, CREATED, "").transitions] == [CREATED]


def test_sightings_are_described() -> None:
    watch = RuleWatch(Rule(name="intruder", hits=2))
    seen = [result("cam", "DetectionInference", seq) for seq in range(2)]
    (opened,) = [decision for each in seen for decision in watch.feed(each)]
    assert isinstance(opened, Opened)
    described = describe(opened.event, "intruder")
    assert described.id == opened.event.id
    assert (described.source, described.run, described.rule, described.label) == (
        "cam",
        seen[0].run,
        "intruder",
        "person",
    )
    assert (described.start, described.end) == (seen[0].timestamp, seen[1].timestamp)
    assert described.counts == {"person": 2}
    assert described.task_key == seen[1].task_key
    assert described.message == seen[0]
    assert (described.state, described.transitions) == (CREATED, [])
