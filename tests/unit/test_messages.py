"""The messages: what they refuse, and how they travel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from framemesh.messages import WIRE, Captured, EventState, Frame, Message, Result, Task
from tests.samples import event, frame, result, task

SAMPLES: list[Message] = [
    frame("cam"),
    Captured(entries=["a.r1.000000000000.frame"]),
    task("cam", "DetectionInference"),
    result("cam", "DetectionInference"),
    event("cam", EventState.CREATED, EventState.PENDING),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_reads_as_it_was_written(message: Message) -> None:
    assert type(message).model_validate_json(message.model_dump_json()) == message


def test_identities_are_source_run_seq_and_model() -> None:
    assert frame("cam", 7).key == "cam/run-1/7"
    assert task("cam", "A", 7).task_key == result("cam", "A", 7).task_key == "cam/run-1/7/A"


def test_a_field_of_a_newer_sender_is_left_out() -> None:
    made = Frame.model_validate(frame("cam").model_dump() | {"colour": "red"})
    assert made == frame("cam")
    assert Task.model_validate(task("cam", "A").model_dump() | {"x": 1}) == task("cam", "A")


@pytest.mark.parametrize(
    "wrong",
    [{"source": "a.b"}, {"source": ""}, {"source": "a b"}, {"source": "x" * 65}, {"source": "a\n"}, {"run": "a/b"},
     {"seq": -1}, {"width": 0}, {"bytes": -1}, {"delivery": "sometimes"}, {"timestamp": "yesterday"}],
)  # fmt: skip
def test_a_frame_that_could_not_travel_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        frame("cam", **wrong)


@given(st.floats(allow_nan=True).filter(lambda x: not 0 <= x <= 1))
def test_a_confidence_is_from_nothing_to_one(confidence: float) -> None:
    made = result("cam", "A").model_dump()
    made["result"][0]["confidence"] = confidence
    with pytest.raises(ValidationError):
        Result.model_validate(made)


def test_detections_and_classifications_are_told_apart() -> None:
    found = result("cam", "A").model_dump()["result"][0]
    other = {"label": "cat", "class_id": 1, "confidence": 0.5, "region": 0}
    made = Result.model_validate(result("cam", "A").model_dump() | {"result": [found, other]})
    assert [type(item).__name__ for item in made.result] == ["Detection", "Classification"]
    again = Result.model_validate_json(made.model_dump_json())
    assert again == made


def test_messages_do_not_change_and_say_what_their_fields_are() -> None:
    with pytest.raises(ValidationError):
        frame("cam").seq = 3  # type: ignore[misc]
    for kind in WIRE:
        assert kind.__doc__
        assert kind.model_config["frozen"]
