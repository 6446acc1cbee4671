"""The analysis: its plan, which statuses may follow each other, and the document."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framemesh.analysis import (
    AnalysisDocument,
    AnalysisState,
    AnalysisStatus,
    JobSummary,
    analysis_plan,
    legal,
)
from framemesh.database.jobs import Place
from framemesh.steps import advance
from framemesh.steps.advance import Failure, Order
from framemesh.steps.job import Job, JobStatus
from framemesh.steps.plan import Plan, check

S = AnalysisStatus
STEPS = [S(name) for name in analysis_plan().steps]
ENDS = [S.DONE, S.FAILED, S.CANCELLED]


def new(plan: Plan | None = None, **given: Any) -> tuple[Job, list[Order]]:
    job = Job(id="j1", plan=plan or analysis_plan(), owner="ann", input=given, created=1000.0)
    return job, advance.begin(job, 1000.0)


class Worker:
    """Works a job off, as chance will have it."""

    def __init__(self, data: st.DataObject, job: Job, orders: list[Order]) -> None:
        self.draw, self.job, self.orders, self.now = data.draw, job, orders, 1000.0

    def act(self) -> None:
        self.now += 1
        order = self.draw(st.sampled_from(self.orders), label="order")
        begun = (self.job, order.step, order.item, order.attempt)
        if self.draw(st.booleans(), label="only begin it"):
            advance.started(*begun, "w", self.now)
            return
        self.orders.remove(order)
        match self.draw(st.sampled_from(["done", "done", "again", "failed", "skipped"]), label="outcome"):
            case "done":
                self.orders += advance.done(*begun, {}, self.now, self.now)
            case "skipped":
                self.orders += advance.skipped(*begun, "nothing to do", self.now)
            case outcome:
                failure = Failure("no", retry=outcome == "again")
                self.orders += advance.failed(*begun, failure, self.now)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_happens_every_status_follows_the_one_before(data: st.DataObject) -> None:
    job, orders = new()
    worker, seen = Worker(data, job, orders), [AnalysisDocument.of(job).status]
    while worker.orders and not job.status.over:
        if data.draw(st.integers(0, 30), label="cancel at 0") == 0:
            advance.cancel(job, worker.now)
        else:
            worker.act()
        seen.append(AnalysisDocument.of(job).status)
    assert seen[0] is S.QUEUED
    assert seen[-1] in ENDS
    # Of all pairs, not only of neighbours: a client may look at any two moments.
    for before, after in itertools.combinations(seen, 2):
        assert legal(before, after), (before, after, seen)


@given(st.sampled_from(S), st.sampled_from(S), st.sampled_from(S))
def test_what_may_follow_makes_an_order(a: S, b: S, c: S) -> None:
    assert legal(a, a)
    assert a is b or not (legal(b, S.QUEUED) and b is not S.QUEUED)
    assert legal(S.QUEUED, b)
    assert legal(S.DONE, b) == (b is S.DONE)
    if a in STEPS and b in STEPS and c in STEPS and not legal(b, a) and not legal(c, b):
        assert not legal(c, a)  # what had to end before had to end before that, too


@pytest.mark.parametrize(
    ("before", "after", "may"),
    [
        (S.DOWNLOADING_VIDEO, S.FACE_ANALYSIS, True),
        (S.FACE_ANALYSIS, S.EXTRACTING_AUDIO, True),
        (S.TRANSCRIBING, S.EXTRACTING_AUDIO, False),
        (S.FACE_ANALYSIS, S.DOWNLOADING_VIDEO, False),
        (S.SAVING_RESULTS, S.CALCULATING_SCORE, False),
        (S.CALCULATING_SCORE, S.PROCESSING, True),
        (S.PROCESSING, S.QUEUED, False),
        (S.FAILED, S.TRANSCRIBING, True),
        (S.DONE, S.FAILED, False),
    ],
)
def test_the_order_of_the_statuses(before: S, after: S, may: bool) -> None:
    assert legal(before, after) is may


def test_the_plan_can_be_worked_off_with_a_url_or_an_upload() -> None:
    plan = analysis_plan()
    check(plan, {"url": "https://example.org/a.mp4"}, set(plan.steps))
    check(plan, {"upload": "http://volume/1,2#parts", "metadata": {"a": 1}}, set(plan.steps))
    assert [S(step.status or "") for step in plan.steps.values()] == STEPS
    assert [name for name, step in plan.steps.items() if not step.optional] == [
        S.DOWNLOADING_VIDEO, S.CALCULATING_SCORE, S.SAVING_RESULTS,
    ]  # fmt: skip


def test_the_furthest_step_that_runs_gives_the_status_and_all_are_listed() -> None:
    job, orders = new(url="https://example.org/a.mp4", metadata={"name": "a"})
    queued = AnalysisState.of(job, Place(3, 7))
    assert (queued.status, queued.step, queued.position, queued.waiting) == (S.QUEUED, "downloading-video", 3, 7)
    orders = advance.done(job, orders[0].step, None, 1, {"video": "v"}, 1001.0, 1002.0)
    between = JobSummary.of(job)
    assert (between.status, between.step) == (S.PROCESSING, "face-analysis")
    advance.started(job, "extracting-audio", None, 1, "w", 1003.0)
    assert AnalysisDocument.of(job).status is S.EXTRACTING_AUDIO
    advance.started(job, "face-analysis", None, 1, "w", 1004.0)
    document = AnalysisDocument.of(job)
    assert (document.status, document.step, document.metadata) == (S.FACE_ANALYSIS, "face-analysis", {"name": "a"})
    assert [step.name for step in document.steps] == STEPS
    assert document.timestamps == {
        "created": 1000.0, "started": 1001.0,
        "downloading-videoStarted": 1001.0, "downloading-videoEnded": 1002.0,
        "extracting-audioStarted": 1003.0, "face-analysisStarted": 1004.0,
    }  # fmt: skip
    assert len(orders) == 2


def test_results_come_by_name_and_what_failed_is_null() -> None:
    job, orders = new(url="https://example.org/a.mp4")
    while orders:
        order = orders.pop(0)
        if order.step == "gpt-analysis":
            orders += advance.skipped(job, order.step, None, order.attempt, "no key is set", 1002.0)
        elif order.step == "voice-analysis":
            orders += advance.failed(job, order.step, None, order.attempt, Failure("no", retry=False), 1002.0)
        else:
            orders += advance.done(job, order.step, None, order.attempt, {"of": order.step}, 1001.0, 1002.0)
    document = AnalysisDocument.of(job)
    assert (document.status, document.progress, document.step) == (S.DONE, 100, "")
    assert document.result.model_dump() == {
        "face": {"of": "face-analysis"}, "voice": None, "transcript": {"of": "transcribing"}, "gpt": None,
        "score": {"of": "calculating-score"}, "report": {"of": "saving-results"},
    }  # fmt: skip
    assert document.timestamps["done"] == 1002.0
    assert {step.name: step.error for step in document.steps if step.error} == {
        "gpt-analysis": "no key is set", "voice-analysis": "no",
    }  # fmt: skip


def test_a_job_that_failed_names_its_step() -> None:
    job, orders = new(url="https://example.org/a.mp4")
    advance.failed(job, orders[0].step, None, 1, Failure("404", retry=False), 1001.0)
    document = AnalysisDocument.of(job)
    assert (document.status, document.step, document.error) == (
        S.FAILED, "downloading-video", "downloading-video: 404",
    )  # fmt: skip
    assert document.progress == 0
    assert document.timestamps["failed"] == 1001.0
    assert document.model_dump(by_alias=True)["jobId"] == "j1"


def test_a_job_that_was_cancelled_is_as_far_as_it_came() -> None:
    job, orders = new(url="https://example.org/a.mp4")
    orders = advance.done(job, orders[0].step, None, 1, {"video": "v"}, 1001.0, 1002.0)
    advance.started(job, orders[0].step, None, 1, "w", 1003.0)
    advance.progressed(job, orders[0].step, None, 1, (40, "loading the model"))
    assert AnalysisDocument.of(job).progress == 17.5
    advance.cancel(job, 1004.0)
    assert AnalysisDocument.of(job).progress == 17.5


def test_a_step_that_is_done_is_at_nothing_any_more() -> None:
    job, orders = new(url="https://example.org/a.mp4")
    advance.started(job, orders[0].step, None, 1, "w", 1001.0)
    advance.progressed(job, orders[0].step, None, 1, (50, "7 of 11 s"))
    assert AnalysisDocument.of(job).steps[0].text == "7 of 11 s"
    advance.done(job, orders[0].step, None, 1, {"video": "v"}, 1001.0, 1002.0)
    assert AnalysisDocument.of(job).steps[0].text == ""


def test_a_job_of_another_plan_has_a_document_too() -> None:
    plan = Plan.model_validate({"name": "p", "steps": {"a": {"function": "f", "status": "own"}}})
    job, _ = new(plan)
    advance.started(job, "a", None, 1, "w", 1001.0)
    assert (AnalysisDocument.of(job).status, AnalysisDocument.of(job).step) == (S.PROCESSING, "a")
    advance.done(job, "a", None, 1, {"n": 1}, 1001.0, 1002.0)
    assert job.status is JobStatus.DONE
    assert AnalysisDocument.of(job).result.report == {"a": {"n": 1}}


def test_the_plan_needs_no_database() -> None:
    code = "import framemesh.analysis, sys; sys.exit('sqlalchemy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
