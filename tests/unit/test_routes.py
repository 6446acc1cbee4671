from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from framemesh.errors import FramemeshError
from framemesh.messages import (
    AudioTask,
    Box,
    Classification,
    Delivery,
    Detection,
    Frame,
    Medium,
    Result,
    Segment,
    Task,
    Word,
)
from framemesh.settings import load
from services.router.router import RouterSettings
from services.router.routes import Route, Routes, follow_tasks, for_source, tasks
from tests import samples

DETECTION, CLASSIFICATION = "DetectionInference", "ClassificationInference"
LIVE = {DETECTION: Medium.FRAME, CLASSIFICATION: Medium.FRAME}


def routes(**values: Any) -> Routes:
    return TypeAdapter(Routes).validate_python(values)


def route(**values: Any) -> Route:
    return Route.model_validate({"model": DETECTION, **values})


def frame(seq: int = 0, delivery: Delivery = Delivery.LIVE) -> Frame:
    return samples.frame("door", seq).model_copy(update={"delivery": delivery})


def person(box: Box = (1, 2, 3, 4), label: str = "person") -> Detection:
    return Detection(label=label, class_id=0, confidence=0.9, box=box)


def found(*items: Detection | Classification, seq: int = 0, **values: Any) -> Result:
    return samples.result("door", DETECTION, seq).model_copy(update={"result": list(items), **values})


def follower(**values: Any) -> Route:
    return Route.model_validate({"model": CLASSIFICATION, "follows": DETECTION, **values})


# -- the setting ------------------------------------------------------------------------------------------


def test_a_name_alone_is_every_frame() -> None:
    assert Route.model_validate(DETECTION) == Route(model=DETECTION, stride=1)
    assert routes(door=[DETECTION]) == {"door": [Route(model=DETECTION)]}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"model": "M", "strid": 2}, "strid"),
        ({"model": "M", "stride": 0}, "stride"),
        ({"stride": 2}, "model"),
        ({"model": "two words"}, "model"),
        ({"model": "M", "follows": "a.b"}, "follows"),
        ("a.b", "model"),
        (3, "Route"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(value: object, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Route.model_validate(value)


def test_the_setting_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTES", json.dumps({"*": [DETECTION], "door": [{"model": "M", "stride": 5}]}))
    assert load(RouterSettings).routes == {"*": [route()], "door": [Route(model="M", stride=5)]}


def test_a_wrong_setting_is_one_line_that_names_the_place() -> None:
    with pytest.raises(FramemeshError, match=r"setting routes\.door\.0\.strid: ") as caught:
        load(RouterSettings, routes={"door": [{"model": "M", "strid": 2}]})
    assert "\n" not in str(caught.value)


# -- which routes -----------------------------------------------------------------------------------------


def test_a_sources_own_routes_take_the_place_of_everybodys() -> None:
    asked = routes(**{"*": ["A"], "door": ["B"], "quiet": []})
    assert for_source(asked, "door") == [Route(model="B")]
    assert for_source(asked, "yard") == [Route(model="A")]
    assert for_source(asked, "quiet") == []
    assert for_source(routes(door=["B"]), "yard") is None


def test_without_routes_every_live_model_sees_every_frame() -> None:
    made = tasks(frame(7), None, LIVE, LIVE)
    assert [(task.model, task.stride) for task in made] == [(CLASSIFICATION, 1), (DETECTION, 1)]


def test_with_empty_routes_no_model_does() -> None:
    assert tasks(frame(), [], LIVE, LIVE) == []


# -- frames -----------------------------------------------------------------------------------------------


def test_a_task_is_its_frame() -> None:
    (task,) = tasks(frame(6), [route(stride=3)], LIVE, LIVE)
    assert isinstance(task, Task)
    assert Frame(**task.model_dump(include=set(Frame.model_fields))) == frame(6)
    assert (task.model, task.stride, task.regions) == (DETECTION, 3, None)


@pytest.mark.parametrize(("stride", "seqs"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (100, [0])])
def test_a_stride_takes_every_nth_frame(stride: int, seqs: list[int]) -> None:
    assert [seq for seq in range(7) if tasks(frame(seq), [route(stride=stride)], LIVE, LIVE)] == seqs


@pytest.mark.parametrize(("delivery", "waits"), [(Delivery.LIVE, False), (Delivery.LOSSLESS, True)], ids=str)
def test_only_a_lossless_frame_waits_for_a_model_that_is_not_alive(delivery: Delivery, waits: bool) -> None:
    made = tasks(frame(delivery=delivery), [route()], {}, {})
    assert [task.delivery for task in made] == ([delivery] if waits else [])


def test_a_follower_gets_no_frames() -> None:
    assert [task.model for task in tasks(frame(), [route(), follower()], LIVE, LIVE)] == [DETECTION]


# -- results ----------------------------------------------------------------------------------------------


def test_a_follower_gets_the_boxes_of_the_model_that_it_follows() -> None:
    result = found(person((0, 0, 9, 9)), person((5, 5, 7, 8), "cat"), seq=3, delivery=Delivery.LOSSLESS)
    (task,) = follow_tasks(result, [route(), follower()])
    assert isinstance(task, Task)
    assert task.model == CLASSIFICATION
    assert task.regions == [(0, 0, 9, 9), (5, 5, 7, 8)]
    assert (task.source, task.run, task.seq, task.frame_id) == (
        result.source,
        result.run,
        result.seq,
        result.frame_id,
    )
    assert (task.url, task.timestamp, task.captured_at) == (result.frame_url, result.timestamp, result.captured_at)
    assert (task.width, task.height, task.delivery) == (result.width, result.height, Delivery.LOSSLESS)


@pytest.mark.parametrize(
    ("labels", "boxes"),
    [(None, 2), (["person"], 1), (["person", "cat", "dog"], 2), (["dog"], 0), ([], 0)],
)
def test_labels_choose_the_boxes(labels: list[str] | None, boxes: int) -> None:
    given = follow_tasks(found(person(), person(label="cat")), [follower(labels=labels)])
    assert [len(task.regions or []) for task in given if isinstance(task, Task)] == ([boxes] if boxes else [])


def test_where_there_is_nothing_to_look_at_there_is_no_task() -> None:
    tabby = Classification(label="tabby", class_id=281, confidence=0.5)
    for result in (found(), found(tabby), found(person(), model="Other")):
        assert follow_tasks(result, [follower()]) == []
    assert follow_tasks(found(person()), None) == []
    assert follow_tasks(found(person()), [route()]) == []


@pytest.mark.parametrize(
    ("followed", "stride", "seqs"),
    [
        (1, 1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        (1, 4, [0, 4, 8, 12]),
        (2, 3, [0, 6, 12]),
        (3, 3, [0, 9]),
    ],
)
def test_the_stride_of_a_follower_counts_results(followed: int, stride: int, seqs: list[int]) -> None:
    """The task says the stride in frames, by which the registrator knows what to wait for."""
    tasks = [
        task
        for seq in range(0, 13, followed)
        for task in follow_tasks(found(person(), seq=seq, stride=followed), [follower(stride=stride)])
    ]
    assert [task.seq for task in tasks] == seqs
    assert {task.stride for task in tasks} == {followed * stride}


def test_several_may_follow_one_model() -> None:
    both = [follower(), follower(model="FaceInference", labels=["person"])]
    tasks = follow_tasks(found(person()), both)
    assert [task.model for task in tasks] == [CLASSIFICATION, "FaceInference"]


# -- sound ------------------------------------------------------------------------------------------------

LISTENING = {"VoiceInference": Medium.AUDIO, DETECTION: Medium.FRAME}
WORDS = [Word(text="ask", start=1.0, end=1.2, confidence=0.9)]


def transcript(words: list[Word], **values: Any) -> Result:
    segment = Segment(confidence=0.9, text="ask", start=1, end=2, words=words)
    given = {"result": [segment] if words else [], "timing_ms": {}}
    heard = AudioTask(**dict(samples.window("door", 4)), model="TranscribeInference")
    return Result.of(heard, **given).model_copy(update=values)


def test_windows_go_to_models_that_listen_and_frames_to_those_that_look() -> None:
    assert [task.model for task in tasks(samples.window("door"), None, LISTENING, LISTENING)] == ["VoiceInference"]
    assert [task.model for task in tasks(frame(), None, LISTENING, LISTENING)] == [DETECTION]


@pytest.mark.parametrize(
    ("given", "takes_audio"),
    [
        ({"model": "TranscribeInference"}, True),  # known, though never seen
        ({"model": "MineInference"}, False),
        ({"model": "MineInference", "takes": "audio"}, True),
        ({"model": "VoiceInference", "takes": "frame"}, True),  # what it says itself counts more
    ],
)
def test_what_a_model_that_is_not_there_takes(given: dict[str, Any], takes_audio: bool) -> None:
    lossless = {"delivery": Delivery.LOSSLESS}
    chosen = [Route.model_validate(given)]
    said = {one.model: one.takes for one in chosen if one.takes} | LISTENING
    heard = tasks(samples.window("door").model_copy(update=lossless), chosen, LISTENING, said)
    seen = tasks(frame().model_copy(update=lossless), chosen, LISTENING, said)
    assert (len(heard), len(seen)) == ((1, 0) if takes_audio else (0, 1))


@pytest.mark.parametrize("words", [WORDS, []])
def test_a_follower_of_a_transcript_gets_the_words_even_none(words: list[Word]) -> None:
    chosen = [Route(model="VoiceInference", follows="TranscribeInference")]
    (task,) = follow_tasks(transcript(words), chosen)
    assert isinstance(task, AudioTask)
    window = samples.window("door", 4)
    assert (task.words, task.url, task.duration) == (words, window.url, window.duration)
    assert (task.overlap, task.tail, task.channel) == (window.overlap, window.tail, window.channel)


ROW = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3), (0, 4)]
"""Channel and number of the windows of two channels, of which one makes more; their seq is their place here."""


def test_a_stride_takes_every_nth_window_of_each_channel() -> None:
    row = [samples.window("door", seq, channel=one, number=number) for seq, (one, number) in enumerate(ROW)]
    chosen = [Route(model="VoiceInference", stride=2)]
    made = [task for window in row for task in tasks(window, chosen, LISTENING, LISTENING)]
    assert [(task.channel, task.number) for task in made if isinstance(task, AudioTask)] == [
        (channel, number) for channel, number in ROW if number % 2 == 0
    ]


def test_a_window_without_a_number_counts_by_its_row() -> None:
    chosen = [Route(model="VoiceInference", stride=2)]
    row = [samples.window("door", seq) for seq in range(5)]
    assert [w.seq for w in row if tasks(w, chosen, LISTENING, LISTENING)] == [0, 2, 4]


def test_the_stride_of_a_follower_counts_the_results_of_each_channel() -> None:
    chosen = [Route(model="VoiceInference", follows="TranscribeInference", stride=2)]
    row = [
        transcript(WORDS, seq=seq, channel=1, number=number) for seq, number in [(1, 0), (3, 1), (6, 2), (8, 4)]
    ]
    made = [task for result in row for task in follow_tasks(result, chosen)]
    assert [(task.channel, task.number) for task in made if isinstance(task, AudioTask)] == [
        (1, 0),
        (1, 2),
        (1, 4),
    ]
