from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framemesh.audio import RATE
from services.reader import clock
from services.reader.clock import STEP, FileClock, LiveClock, LiveSound
from services.reader.pieces import Sound
from services.reader.sound import Listening, Windows

moments = st.none() | st.floats(-100, 1e6, allow_nan=False)


class Time:
    """A wall clock that can be set, and a monotonic one."""

    def __init__(self) -> None:
        self.wall, self.passed = 1_700_000_000.0, 50.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.passed


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(clock, "time", fake)
    return fake


def offsets(times: list[float | None], fps: float | None = 25) -> list[float]:
    file = FileClock(fps)
    return [round(file.stamp(pts) - file.base, 6) for pts in times]


# -- cameras ----------------------------------------------------------------------------------------------


def test_a_camera_is_stamped_when_its_frames_arrive(fake: Time) -> None:
    live = LiveClock()
    assert live.stamp(99.0) == 1_700_000_000
    fake.passed += 0.25
    assert live.stamp(None) == 1_700_000_000.25


def test_a_wall_clock_that_is_set_moves_no_frame(fake: Time) -> None:
    live = LiveClock()
    first = live.stamp(None)
    fake.wall -= 3600
    fake.passed += 1
    assert live.stamp(None) == first + 1


def test_frames_of_one_burst_are_a_step_apart(fake: Time) -> None:
    live = LiveClock()
    times = [live.stamp(None) for _ in range(5)]
    assert [b - a for a, b in pairwise(times)] == pytest.approx([STEP] * 4, abs=1e-6)
    fake.passed += 1
    assert live.stamp(None) == times[0] + 1


def test_a_camera_is_stamped_with_this_time() -> None:
    begun = time.time()
    assert begun - 0.1 <= LiveClock().stamp(None) <= time.time() + 0.1


def test_sound_is_stamped_by_its_earliest_arrival(fake: Time) -> None:
    sound = LiveSound(LiveClock())
    for late in (0.3, 0.0, 0.2):
        fake.passed += 1 + late
        sound.hear(fake.passed - 50 - late)
        fake.passed -= late
    assert sound.at(2.0) == pytest.approx(1_700_000_002.0, abs=0.002)


def test_sound_of_a_camera_that_counts_anew_is_stamped_by_its_new_arrivals(fake: Time) -> None:
    """Nobody knows how long it was away: by what was heard before, all that follows would be early."""
    times: list[float] = []
    listening = Listening(
        Windows(5, 0.5, each_channel=False), LiveSound(LiveClock()), lambda _, at: times.append(at)
    )
    for pts, away in [(80.0, 0), (81.0, 0), (82.0, 0), (0.0, 20), (1.0, 0), (2.0, 0)]:
        fake.passed += 1 + away
        listening.take(Sound(pts, np.ones((RATE, 1), np.float32)))
    listening.finish()
    assert times == pytest.approx([1_700_000_000, 1_700_000_023], abs=0.03)


# -- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 0.04, 0.08], [0, 0.04, 0.08]),
        ([10, 10.5, 12], [0, 0.5, 2]),
        ([-0.08, 0, 0.04], [0, 0.08, 0.12]),
        ([None, None, None], [0, 0.04, 0.08]),
        ([0, None, 0.12], [0, 0.04, 0.12]),
        ([0, 0, 0], [0, STEP, 2 * STEP]),
        ([0, 1, 0.5, 1.5], [0, 1, 1 + STEP, 1.5]),
    ],
)
def test_a_file_has_its_own_time_line(times: list[float | None], expected: list[float]) -> None:
    assert offsets(times) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("fps", "step"), [(10.0, 0.1), (None, 0.04), (0.0, 0.04)])
def test_a_file_without_times_goes_by_its_rate(fps: float | None, step: float) -> None:
    assert offsets([None, None], fps) == pytest.approx([0, step], abs=1e-5)


def test_a_file_begins_now(fake: Time) -> None:
    file = FileClock(25)
    assert file.offset == 0
    assert file.stamp(3.0) == fake.wall
    fake.wall += 100
    assert file.stamp(3.5) == 1_700_000_000.5
    assert file.offset == 0.5


@given(times=st.lists(moments, min_size=2, max_size=50), fps=st.none() | st.floats(0.1, 1000))
def test_a_files_times_rise_whatever_it_says(times: list[float | None], fps: float | None) -> None:
    file = FileClock(fps)
    stamps = [file.stamp(pts) for pts in times]
    assert stamps[0] == file.base
    assert all(a < b for a, b in pairwise(stamps))
    assert file.base + file.offset == stamps[-1]


@given(times=st.lists(st.integers(0, 10_000), min_size=1, max_size=50, unique=True))
def test_times_that_rise_are_kept(times: list[int]) -> None:
    rising = [value / 100 for value in sorted(times)]
    assert offsets(list(rising)) == pytest.approx([value - rising[0] for value in rising], abs=1e-5)
