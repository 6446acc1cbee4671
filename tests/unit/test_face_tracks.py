from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framemesh.messages import Box, Face, Gaze, HeadPose
from services.face.blinks import LEAST_SECONDS, TOO_SLOW, TOO_YOUNG, Blinks
from services.face.sighting import Sighting
from services.face.tracks import EYES_CLOSED, EYES_UNSEEN, LATE, MOST_RUNS, MOST_TRACKS, Smooth, Times, Tracks

BOX: Box = (100, 100, 180, 200)
OPEN, SHUT = 0.4, 0.1


def moved(box: Box, x: float, y: float = 0) -> Box:
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def sighting(box: Box = BOX, **values: Any) -> Sighting:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return Sighting(confidence=0.9, box=box, points=[(x, y)] * 5, **values)


def numbers(faces: list[Face]) -> list[int | None]:
    return [face.track for face in faces]


def pose(yaw: float) -> HeadPose:
    return HeadPose(yaw=yaw, pitch=0, roll=0)


def gaze(yaw: float) -> Gaze:
    return Gaze(yaw=yaw, pitch=0, eye_contact=False)


# -- numbers ----------------------------------------------------------------------------------------


def test_a_face_keeps_its_number_while_it_moves() -> None:
    tracks = Tracks()
    for step in range(50):
        assert numbers(tracks.follow("a/1", step / 25, [sighting(moved(BOX, 8 * step))])) == [0]


def test_a_face_of_a_slow_source_keeps_its_number_over_a_leap() -> None:
    tracks = Tracks()
    assert numbers(tracks.follow("a/1", 0, [sighting()])) == [0]
    assert numbers(tracks.follow("a/1", 1, [sighting(moved(BOX, 48))])) == [0]


def test_two_faces_that_pass_in_other_orders_keep_their_numbers() -> None:
    tracks = Tracks()
    left, right = BOX, moved(BOX, 300)
    assert numbers(tracks.follow("a/1", 0, [sighting(left), sighting(right)])) == [0, 1]
    assert numbers(tracks.follow("a/1", 0.1, [sighting(moved(right, 5)), sighting(moved(left, 5))])) == [1, 0]


def test_another_face_and_another_size_get_new_numbers() -> None:
    tracks = Tracks()
    tracks.follow("a/1", 0, [sighting()])
    assert numbers(tracks.follow("a/1", 0.1, [sighting(moved(BOX, 200))])) == [1]
    assert numbers(tracks.follow("a/1", 0.2, [sighting((0, 0, 400, 400))])) == [2]


def test_a_face_that_was_away_for_long_gets_a_new_number() -> None:
    tracks = Tracks(Times(forget=2))
    tracks.follow("a/1", 0, [sighting()])
    tracks.follow("a/1", 1.9, [])
    assert numbers(tracks.follow("a/1", 2.0, [sighting()])) == [0]
    assert numbers(tracks.follow("a/1", 4.1, [sighting()])) == [1]


def test_runs_know_nothing_of_each_other() -> None:
    tracks = Tracks()
    tracks.follow("a/1", 10, [sighting(moved(BOX, 300)), sighting(pose=pose(40))])
    (face,) = tracks.follow("a/2", 1, [sighting(pose=pose(0))])
    assert (face.track, face.pose) == (0, pose(0))


def test_a_late_frame_gets_numbers_and_changes_nothing() -> None:
    tracks = Tracks()
    tracks.follow("a/1", 1.0, [sighting(pose=pose(0))])
    late, stranger = tracks.follow("a/1", 0.9, [sighting(pose=pose(40), edges=0.1), sighting(moved(BOX, 500))])
    assert (late.track, late.pose, stranger.track) == (0, pose(40), None)
    assert late.missing["blinks_per_minute"] == LATE
    (face,) = tracks.follow("a/1", 1.01, [sighting(pose=pose(0))])
    assert (face.track, face.pose) == (0, pose(0))


def test_memory_is_bounded() -> None:
    tracks = Tracks(Times(forget=1e9))
    for run in range(MOST_RUNS + 50):
        tracks.follow(f"a/{run}", 0, [sighting()])
    for step in range(MOST_TRACKS + 50):
        tracks.follow("b/1", step, [sighting(moved(BOX, 500 * step))])
    assert len(tracks._runs) == MOST_RUNS
    assert len(tracks._runs["b/1"].tracks) == MOST_TRACKS


# -- smoothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [5, 10, 30])
def test_values_follow_by_time_and_not_by_frames(rate: int) -> None:
    tracks = Tracks(Times(expression=0.5, pose=0.2))
    found = tracks.follow("a/1", 0, [sighting(pose=pose(0), expressions={"happy": 0.0, "sad": 1.0}, smile=0)])
    for frame in range(1, rate + 1):
        shares = {"happy": 1.0, "sad": 0.0}
        found = tracks.follow("a/1", frame / rate, [sighting(pose=pose(10), expressions=shares, smile=1)])
    (face,) = found
    assert face.pose
    assert face.expressions
    assert face.pose.yaw == pytest.approx(10 * (1 - math.exp(-1 / 0.2)), abs=0.01)
    assert face.expressions["happy"] == pytest.approx(1 - math.exp(-1 / 0.5), abs=0.001)
    assert face.smile == pytest.approx(1 - math.exp(-1 / 0.5), abs=0.001)
    assert face.expression == "happy"


def test_one_flipped_frame_does_not_flip_the_expression() -> None:
    tracks = Tracks()
    for frame in range(10):
        shares = {"happy": 0.0, "neutral": 1.0} if frame != 5 else {"happy": 1.0, "neutral": 0.0}
        (face,) = tracks.follow("a/1", frame / 25, [sighting(expressions=shares, expression="happy")])
        assert face.expression == "neutral"


def test_what_a_frame_does_not_show_stays_null_with_its_reason() -> None:
    tracks = Tracks()
    tracks.follow("a/1", 0, [sighting(pose=pose(5), smile=0.5)])
    (face,) = tracks.follow("a/1", 0.1, [sighting(missing={"pose": "why", "smile": "not"})])
    assert (face.pose, face.smile) == (None, None)
    assert face.missing == {"pose": "why", "smile": "not", "blinks_per_minute": EYES_UNSEEN}


def test_eye_contact_is_told_by_the_smoothed_gaze() -> None:
    tracks = Tracks(Times(pose=0.2), eye_contact_degrees=10)
    contacts = []
    for frame, yaw in enumerate([0, 0, 15, 0, 15, 15, 15, 15, 15, 15]):
        (face,) = tracks.follow("a/1", frame / 10, [sighting(gaze=gaze(yaw))])
        assert face.gaze
        contacts.append(face.gaze.eye_contact)
    assert contacts[:5] == [True] * 5  # one frame aside is noise
    assert contacts[-3:] == [False] * 3


def test_closed_eyes_have_no_gaze_and_no_openness() -> None:
    tracks = Tracks()
    for frame in range(5):
        tracks.follow("a/1", frame / 25, [sighting(gaze=gaze(0), eye_openness=0.3, edges=OPEN)])
    eyes: dict[str, Any] = {"gaze": gaze(40), "pupils": [(1, 2), (3, 4)], "eye_openness": 0.3}
    (shut,) = tracks.follow("a/1", 0.2, [sighting(edges=SHUT, **eyes)])
    assert (shut.gaze, shut.pupils, shut.eye_openness) == (None, None, 0)
    assert shut.missing["gaze"] == shut.missing["pupils"] == EYES_CLOSED
    (opened,) = tracks.follow("a/1", 0.24, [sighting(gaze=gaze(0), eye_openness=0.3, edges=OPEN)])
    assert opened.gaze == Gaze(yaw=0, pitch=0, eye_contact=True)
    assert opened.eye_openness == 0.3


def test_what_only_the_tracks_need_never_travels() -> None:
    (face,) = Tracks().follow("a/1", 0, [sighting(edges=0.4)])
    assert type(face) is Face
    assert "edges" not in face.model_dump()


FRAMES = st.lists(
    st.tuples(
        st.floats(-0.2, 3),  # seconds since the frame before, which may be late
        st.lists(
            st.tuples(
                st.floats(0, 600),
                st.floats(0, 400),
                st.floats(10, 200),
                st.floats(0, 1),
                st.floats(-90, 90),
                st.none() | st.floats(0, 1),
            ),
            max_size=5,
        ),
    ),
    max_size=20,
)


@given(FRAMES)
def test_whatever_comes_faces_stay_as_they_are_and_values_in_their_bounds(frames: list[Any]) -> None:
    tracks, at = Tracks(), 0.0
    for step, seen in frames:
        at += step
        faces = [
            sighting(
                (x, y, x + side, y + side),
                expressions={"happy": share, "neutral": 1 - share},
                pose=pose(yaw),
                smile=share,
                edges=edges,
                eye_openness=0.3,
            )
            for x, y, side, share, yaw, edges in seen
        ]
        found = tracks.follow("a/1", at, faces)
        assert [face.box for face in found] == [tuple(round(v, 2) for v in face.box) for face in faces]
        known = [face.track for face in found if face.track is not None]
        assert len(set(known)) == len(known)
        for face in found:
            assert face.expressions
            assert face.pose
            assert sum(face.expressions.values()) == pytest.approx(1, abs=2e-4)
            assert abs(face.pose.yaw) <= 90
            assert (face.blinks_per_minute is None) == ("blinks_per_minute" in face.missing)


@given(st.lists(st.tuples(st.floats(0.001, 5), st.floats(-100, 100)), min_size=1), st.floats(0, 5))
def test_smooth_values_never_leave_the_range_of_what_came(steps: list[tuple[float, float]], tau: float) -> None:
    smooth, at = Smooth(), 0.0
    for step, value in steps:
        at += step
        (now,) = smooth.follow([value], at, tau)
    values = [value for _, value in steps]
    assert min(values) - 1e-6 <= now <= max(values) + 1e-6


# -- blinks -----------------------------------------------------------------------------------------


def watch(seconds: float, rate: float, shut: Any, noise: float = 0.0) -> Blinks:
    blinks = Blinks()
    for frame in range(round(seconds * rate) + 1):
        at = frame / rate
        wobble = noise * math.sin(frame * 12.9898)
        blinks.feed(at, (SHUT if shut(at) else OPEN) * (1 + wobble))
    return blinks


def test_blinks_are_counted_per_minute() -> None:
    blinks = watch(40, 25, lambda at: at % 4 > 3.85, noise=0.15)
    assert blinks.per_minute(40) == pytest.approx(15, rel=0.05)


def test_only_the_last_minute_counts() -> None:
    blinks = watch(130, 25, lambda at: at < 60 and at % 4 > 3.85)
    assert blinks.per_minute(130) == 0
    assert len(blinks._seconds) <= 62


def test_no_rate_until_the_eyes_were_watched_for_long_enough() -> None:
    assert watch(LEAST_SECONDS - 0.1, 25, lambda _: False).per_minute(LEAST_SECONDS - 0.1) == TOO_YOUNG
    assert watch(LEAST_SECONDS + 0.1, 25, lambda _: False).per_minute(LEAST_SECONDS + 0.1) == 0


@pytest.mark.parametrize("rate", [1, 5, 7])
def test_no_rate_of_a_source_too_slow_to_show_blinks(rate: int) -> None:
    assert watch(30, rate, lambda at: at % 4 > 3.8).per_minute(30) == TOO_SLOW


@pytest.mark.parametrize("rate", [8, 10, 15, 60])
def test_fast_enough_sources_have_a_rate(rate: int) -> None:
    assert watch(40, rate, lambda at: at % 4 > 3.7).per_minute(40) == pytest.approx(15, rel=0.1)


def test_eyes_closed_for_long_are_no_blink() -> None:
    assert watch(20, 25, lambda at: 5 < at < 7).per_minute(20) == 0


def test_a_closure_with_a_gap_in_it_is_no_blink() -> None:
    blinks = watch(5, 25, lambda at: at >= 4.9)
    blinks.feed(5.5, OPEN)
    assert not blinks.closed
    assert sum(second.blinks for second in blinks._seconds) == 0


def test_another_light_becomes_the_new_level() -> None:
    blinks = Blinks()
    for frame in range(25 * 60):
        at = frame / 25
        level = OPEN if at < 10 else OPEN * 0.45
        blinks.feed(at, level * (0.3 if at > 40 and at % 4 > 3.85 else 1))
    assert blinks.per_minute(60) == pytest.approx(5, abs=1)
