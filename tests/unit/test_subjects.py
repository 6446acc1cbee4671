"""Subjects: every name is one token, and no two streams claim the same one."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.api import AckPolicy, DiscardPolicy, RetentionPolicy, StorageType

from framemesh import subjects
from framemesh.messages import SOURCE_PATTERN


@given(st.text())
def test_any_text_makes_a_source_name(text: str) -> None:
    name = subjects.source_name(text)
    assert re.fullmatch(SOURCE_PATTERN, name)
    assert subjects.source_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [("Front door #1", "Front-door-1"), ("a.b/c>*", "a-b-c"), ("", "source"), ("é", "source"), ("cam_1", "cam_1")],
)
def test_a_source_name_is_near_to_the_text(text: str, name: str) -> None:
    assert subjects.source_name(text) == name


def test_subjects_are_what_people_subscribe_to() -> None:
    assert subjects.captured("node") == "frames.captured.node"
    assert subjects.frames("frames-stream", "cam") == "frames-stream.cam"
    assert subjects.tasks("DetectionInference", "cam", lossless=False) == "DetectionInference.cam"
    assert subjects.tasks("DetectionInference", "cam", lossless=True) == "DetectionInference-lossless.cam"
    assert subjects.results("DetectionInference", "cam") == "inference.results.DetectionInference.cam"
    assert subjects.events("cam") == "events.cam"
    assert subjects.source_state("cam") == "sources.cam"
    assert subjects.dead("FRAMES", "frames-stream.cam") == "dead.FRAMES.frames-stream.cam"
    assert subjects.RESULTS_FEED == "inference.results"


def test_streams_do_not_overlap() -> None:
    streams = [*subjects.EVERYWHERE, subjects.frames_stream("frames-stream", 60), *subjects.task_streams("A")]
    for one, other in combinations(streams, 2):
        assert one.name != other.name
        for a in one.config.subjects or []:
            for b in other.config.subjects or []:
                assert not overlap(a.split("."), b.split(".")), (a, b)
    # What the server republishes must be in no stream, or it would go round for ever.
    assert all(
        not overlap(["inference", "results"], s.split(".")) for x in streams for s in x.config.subjects or []
    )


def overlap(a: list[str], b: list[str]) -> bool:
    if ">" in (a[:1] + b[:1]):
        return True
    if not a or not b:
        return a == b
    return (a[0] == b[0] or "*" in (a[0], b[0])) and overlap(a[1:], b[1:])


def test_live_tasks_forget_and_lossless_tasks_push_back() -> None:
    live, lossless = subjects.task_streams("A")
    assert live.config.retention is lossless.config.retention is RetentionPolicy.WORK_QUEUE
    assert (live.config.max_msgs_per_subject, live.config.discard) == (1, DiscardPolicy.OLD)
    assert live.config.storage is StorageType.MEMORY
    assert (lossless.config.discard, lossless.config.storage) == (DiscardPolicy.NEW, StorageType.FILE)
    assert lossless.config.max_msgs


def test_claim_checks_live_as_long_as_their_frames() -> None:
    assert subjects.frames_stream("frames-stream", 900).config.max_age == 900
    assert subjects.frames_stream("frames-stream", 900).name == "FRAMES"
    assert subjects.frames_stream("my-frames", 900).name == "MY-FRAMES"


def test_only_the_registrator_acks_cumulatively() -> None:
    workers = subjects.worker_consumers("A")
    assert all(consumer.config.ack_policy is AckPolicy.EXPLICIT for consumer in workers)
    keeper = subjects.registrator_consumer("cam")
    assert keeper.config.ack_policy is AckPolicy.ALL
    assert keeper.config.filter_subject == "inference.results.*.cam"
    assert (keeper.name, keeper.ack_wait) == ("registrator-cam", 3600)
