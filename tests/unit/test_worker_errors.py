"""A model of somebody's own that fails: one line that says where, at its start and at each frame."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from framemesh import workers
from framemesh.bus import Reject
from framemesh.errors import FramemeshError
from framemesh.inference import ModelError, ModelWorker, Skipped, Work, WorkerSettings
from framemesh.messages import Found, Task
from framemesh.onnx import CPU, providers
from framemesh.processes import Process
from framemesh.supervise import last_error
from tests.samples import task

JPEG = cv2.imencode(".jpg", np.zeros((480, 640, 3), np.uint8))[1].tobytes()


class Own(ModelWorker[WorkerSettings]):
    """Raises what it is given, where it is told to."""

    kind = "OwnInference"
    settings_type = WorkerSettings
    raises: Exception | SystemExit | None = None
    place = ""

    def _come_to(self, place: str) -> None:
        if self.raises and place == self.place:
            raise self.raises

    def load(self) -> None:
        self._come_to("load")

    def preprocess(self, image: Any) -> Any:
        self._come_to("preprocess")
        return image

    def infer(self, batch: list[Any]) -> Sequence[Any]:
        self._come_to("infer")
        return batch

    def postprocess(self, output: Any, height: int, width: int) -> Sequence[Found | Skipped]:
        self._come_to("postprocess")
        return []


def own(place: str = "", raises: Exception | SystemExit | None = None) -> Own:
    worker = Own(WorkerSettings(), bus=None, registry=None)  # type: ignore[arg-type]
    worker.place, worker.raises, worker._finished = place, raises, []
    return worker


def failed(place: str, raises: Exception | SystemExit) -> Exception | None:
    """The error of a task with which the model fails at a place."""
    envelope: Any = SimpleNamespace(message=task("cam", "OwnInference"), deliveries=1)
    work: Work[Task] = Work(envelope, JPEG, places=None)  # type: ignore[arg-type]
    own(place, raises)._work([work])
    assert work.done
    return work.error


def test_a_model_without_a_name_has_that_of_its_kind() -> None:
    worker = own()
    worker.load_checked()
    assert worker.model_name == "OwnInference"


@pytest.mark.parametrize("error", [ValueError("no\nweights"), SystemExit(4)])
def test_a_model_that_cannot_be_loaded_is_not_to_be_started_again(error: Exception | SystemExit) -> None:
    with pytest.raises(
        FramemeshError, match=r"^Own cannot be loaded: .*test_worker_errors\.py:\d+ in _come_to: "
    ) as e:
        own("load", error).load_checked()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("place", ["preprocess", "infer", "postprocess"])
def test_a_task_that_fails_says_in_which_line(place: str) -> None:
    error = failed(place, KeyError("boxes"))
    assert isinstance(error, ModelError)
    assert str(error).endswith("in _come_to: KeyError: 'boxes'")
    assert isinstance(error.__cause__, KeyError)  # with its stack, for the dead letter


def test_a_model_that_rejects_a_task_is_taken_at_its_word() -> None:
    reason = Reject("too dark")
    assert failed("infer", reason) is reason


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import numpy\nnumpy.nothing", "own_{n}.py:2: AttributeError: module 'numpy' has no attribute 'nothing'"),
        ("class Own(:", "own_{n}.py:1: SyntaxError: invalid syntax"),
        ("raise SystemExit(2)", "own_{n}.py:1: SystemExit: 2"),
    ],
)
def test_a_module_that_cannot_be_imported_says_in_which_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, line: str
) -> None:
    name = f"own_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(FramemeshError) as error:
        workers.find(f"{name}:Own")
    assert str(error.value) == f"worker {name}:Own cannot be imported: {line.format(n=name[4:])}"


def test_the_last_error_is_told_without_time_level_and_service() -> None:
    process = Process("own", ["true"])
    assert last_error(process) == "own said nothing"
    process.last_lines.append("what a library prints")
    assert last_error(process) == "what a library prints"
    process.last_lines.append("12:00:00 ERROR   framemesh worker own:Own cannot be imported: own.py:1")
    process.last_lines.append("12:00:00 INFO    framemesh stopped")
    assert last_error(process) == "worker own:Own cannot be imported: own.py:1"


def test_a_provider_that_is_not_known_is_refused() -> None:
    with pytest.raises(
        FramemeshError, match=r"no provider 'cdua'; did you mean cuda\? This .* knows cpu, cuda, tens"
    ):
        providers(["cdua", "cpu"])


@pytest.mark.parametrize("name", ["CPU", "cpu", "CPUExecutionProvider", "CoreML"])
def test_a_provider_that_is_known_but_not_offered_gives_way(name: str) -> None:
    assert providers([name]) == [CPU]
