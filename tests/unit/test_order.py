from __future__ import annotations

import time
from collections import Counter
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framemesh.messages import Delivery, Result
from services.registrator.order import FIRST_FRAMES, LIVE_WAIT, LOSSLESS_WAIT, REMEMBERED, Order
from tests.samples import result

Lane = tuple[str, str, int]
"""Run, model and stride."""
Key = tuple[Lane, int]
"""Lane and number of the result in it: its seq is number * stride."""


def make(seq: int, run: str = "r1", model: str = "M", stride: int = 1, **values: Any) -> Result:
    return result("cam", model, seq).model_copy(update={"run": run, "stride": stride, **values})


def push(order: Order[int], *seqs: int, now: float = 0.0, **values: Any) -> list[int]:
    return [out for seq in seqs for out in order.push(make(seq, **values), seq, now)]


@pytest.mark.parametrize(
    ("pushed", "comes"),
    [
        ([0, 1, 2], [0, 1, 2]),
        ([2, 1, 0], [0, 1, 2]),
        ([1, 0, 3, 2], [0, 1, 2, 3]),
        ([0, 0, 1, 1], [0, 1]),
        ([1, 1, 0], [0, 1]),
        ([1, 2], []),
        ([FIRST_FRAMES - 1], []),
        ([FIRST_FRAMES], [FIRST_FRAMES]),
        ([100, 102, 101], [100, 101, 102]),
        ([100, 99, 101], [100, 99, 101]),
        ([100, 99, 99], [100, 99]),
    ],
)
def test_what_comes_at_once(pushed: list[int], comes: list[int]) -> None:
    assert push(Order(), *pushed) == comes


@pytest.mark.parametrize(
    ("delivery", "wait"), [(Delivery.LIVE, LIVE_WAIT), (Delivery.LOSSLESS, LOSSLESS_WAIT)], ids=str
)
def test_a_gap_is_skipped_after_its_wait(delivery: Delivery, wait: float) -> None:
    order: Order[int] = Order()
    assert push(order, 0, 2, 3, now=10, delivery=delivery) == [0]
    assert order.due(10 + wait) == []
    assert list(order.waiting()) == [2, 3]
    assert order.due(10 + wait + 0.01) == [2, 3]
    assert push(order, 4, now=99, delivery=delivery) == [4]


def test_what_comes_after_its_gap_was_skipped_comes_once() -> None:
    order: Order[int] = Order()
    push(order, 0, 3)
    assert order.due(2) == [3]
    assert push(order, 2, 2, 1, 3, 0, 1, 4) == [2, 1, 4]


def test_only_what_has_waited_long_enough_is_given_up_for() -> None:
    order: Order[int] = Order()
    push(order, 2, now=0)
    push(order, 5, now=0.9)
    assert order.due(1.5) == [2]
    assert order.due(2.0) == [5]


def test_an_older_arrival_takes_those_before_it_along() -> None:
    order: Order[int] = Order()
    push(order, 5, now=0)
    push(order, 2, now=0.9)
    assert order.due(1.5) == [2, 5]


def test_flush_empties() -> None:
    order: Order[int] = Order()
    push(order, 1, 5, 3)
    push(order, 2, model="N")
    assert sorted(order.waiting()) == [1, 2, 3, 5]
    assert order.flush() == [1, 3, 5, 2]
    assert list(order.waiting()) == []
    assert order.flush() == []


def test_strides_are_no_gaps() -> None:
    assert push(Order(), 10, 0, 5, stride=5) == [0, 5, 10]


def test_a_stride_that_changes_in_the_middle_of_a_run_loses_nothing() -> None:
    order: Order[int] = Order()
    assert push(order, 0, 5, 10, stride=5) == [0, 5, 10]
    assert push(order, 21, 22, 20, 23, stride=1) == [21, 22, 20, 23]
    assert push(order, 250, 255, stride=5) == []
    assert push(order, 24) == [24]
    assert order.due(2) == [250, 255]


def test_each_channel_counts_its_own_windows() -> None:
    order: Order[int] = Order()
    row = [(0, 0), (1, 0), (0, 4), (1, 2), (0, 2), (1, 4), (1, 6), (0, 6)]  # channel and number, of every second
    given = [
        out
        for seq, (channel, number) in enumerate(row)
        for out in order.push(make(seq, stride=2, channel=channel, number=number), seq, 0.0)
    ]
    assert given == [0, 1, 3, 4, 2, 5, 6, 7]


def test_many_channels_are_no_old_runs() -> None:
    order: Order[int] = Order()
    for number in (0, 0, 1, 1):  # each comes twice
        for channel in range(16):
            order.push(make(16 * number + channel, channel=channel, number=number), number, 0.0)
    assert len(order._lanes) == 16
    assert {lane.next for lane in order._lanes.values()} == {2}


def test_the_last_results_of_a_run_hold_up_nothing_of_the_next() -> None:
    order: Order[int] = Order()
    assert push(order, *range(100, 103)) == [100, 101, 102]
    assert push(order, 0, run="r2") == [0]
    assert push(order, 103) == [103]
    assert push(order, 1, run="r2") == [1]
    assert push(order, 104, 104) == [104]
    assert push(order, 2, 1, run="r2") == [2]


def test_old_runs_are_forgotten() -> None:
    order: Order[int] = Order()
    for number in range(1000):
        push(order, 0, run=f"r{number}")
    assert len(order._lanes) < 10


def test_runs_that_wait_are_not_forgotten() -> None:
    order: Order[int] = Order()
    for number in range(20):
        push(order, 1, run=f"r{number}")
    assert len(order.flush()) == 20


def test_a_day_without_a_model_costs_neither_time_nor_memory() -> None:
    order: Order[int] = Order()
    push(order, 0, 3_000_000)
    begun = time.perf_counter()
    assert order.due(2) == [3_000_000]
    assert time.perf_counter() - begun < 0.2
    assert push(order, 3_000_000 - REMEMBERED, 2_999_999, 2_999_999) == [3_000_000 - REMEMBERED, 2_999_999]


def test_many_gaps_are_flushed_fast() -> None:
    order: Order[int] = Order()
    push(order, *range(1, 20_000, 2))
    begun = time.perf_counter()
    assert order.flush() == list(range(1, 20_000, 2))
    assert time.perf_counter() - begun < 1


# -- any order of arrival ---------------------------------------------------------------------------------

lanes = st.tuples(st.sampled_from(["r1", "r2"]), st.sampled_from(["M", "N"]), st.sampled_from([1, 3]))
results = st.lists(st.tuples(lanes, st.integers(0, FIRST_FRAMES - 1)), max_size=60)
"""Results as they arrive: any lanes, any order, with gaps and with duplicates."""


def arrive(order: Order[Key], keys: list[Key], now: float = 0.0) -> list[Key]:
    out: list[Key] = []
    for lane, number in keys:
        run, model, stride = lane
        out += order.push(make(number * stride, run, model, stride), (lane, number), now)
    return out


def numbers(keys: list[Key], lane: Lane) -> list[int]:
    return [number for found, number in keys if found == lane]


@given(data=st.data(), sizes=st.dictionaries(lanes, st.integers(1, FIRST_FRAMES), max_size=8))
def test_what_is_whole_comes_at_once_each_once_and_in_order(data: st.DataObject, sizes: dict[Lane, int]) -> None:
    whole = [(lane, number) for lane, size in sizes.items() for number in range(size)]
    again = data.draw(st.lists(st.sampled_from(whole), max_size=10)) if whole else []
    order: Order[Key] = Order()
    out = arrive(order, data.draw(st.permutations(whole + again)))
    for lane, size in sizes.items():
        assert numbers(out, lane) == list(range(size))
    assert list(order.waiting()) == []


@given(arrived=results)
def test_with_gaps_each_comes_once_and_in_order(arrived: list[Key]) -> None:
    order: Order[Key] = Order()
    out = arrive(order, arrived)
    for lane in {lane for lane, _ in arrived}:
        assert numbers(out, lane) == list(range(len(numbers(out, lane))))
    out += order.due(LIVE_WAIT + 0.01)
    assert Counter(out) == Counter(set(arrived))
    for lane in {lane for lane, _ in arrived}:
        assert numbers(out, lane) == sorted(numbers(out, lane))
    assert list(order.waiting()) == []


@given(first=results, late=results)
def test_late_ones_come_once_and_nothing_waits_for_ever(first: list[Key], late: list[Key]) -> None:
    order: Order[Key] = Order()
    out = arrive(order, first)
    out += order.due(LIVE_WAIT + 0.01)
    out += arrive(order, late, now=5)
    out += order.flush()
    assert Counter(out) == Counter({*first, *late})
    assert order.flush() == []


@given(
    arrived=st.lists(
        st.tuples(st.booleans(), st.integers(0, 200), st.floats(0, 0.5), st.sampled_from(["r1", "r2", "r3"])),
        max_size=60,
    )
)
def test_joining_in_the_middle_loses_and_doubles_nothing(arrived: list[tuple[bool, int, float, str]]) -> None:
    order: Order[tuple[str, int]] = Order()
    out: list[tuple[str, int]] = []
    now = 0.0
    for look, seq, pause, run in arrived:
        now += pause
        out += order.push(make(seq, run), (run, seq), now)
        out += order.due(now) if look else []
    out += order.flush()
    assert Counter(out) == Counter({(run, seq) for _, seq, _, run in arrived})


delays = st.lists(st.integers(0, 40), max_size=40)
"""How many places late each result of a lane comes."""


@given(
    lanes=st.fixed_dictionaries({"M": delays, "N": delays}), come=st.integers(0, 80), horizon=st.integers(0, 40)
)
def test_who_goes_on_after_another_hands_out_the_same_in_the_same_order(
    lanes: dict[str, list[int]], come: int, horizon: int
) -> None:
    late = sorted((seq + by, model, seq) for model, lane in lanes.items() for seq, by in enumerate(lane))
    arrived = [make(seq, model=model) for _, model, seq in late]

    def handed(order: Order[int], begin: int, end: int) -> list[int]:
        return [out for place in range(begin, end) for out in order.push(arrived[place], place, 0.0)]

    order: Order[int] = Order()
    come = min(come, len(arrived))
    whole = handed(order, 0, come)
    done = list(takewhile(lambda place: arrived[place].seq < horizon, whole))  # the rules need no more of these
    floor = min([*whole[len(done) :], *order.waiting()], default=come)
    whole += handed(order, come, len(arrived))
    again: Order[int] = Order()
    for each in arrived[:floor]:
        again.passed(each)
    replayed = handed(again, floor, len(arrived))
    assert [place for place in replayed if place not in done] == whole[len(done) :]
    assert list(again.waiting()) == []
