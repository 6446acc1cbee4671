"""What the commands print, and what they refuse at once."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from framemesh import assets as pinned
from framemesh import models_cli, terminal
from framemesh.cli import _event_line, app
from framemesh.mesh import service_names
from framemesh.messages import EventState, Heartbeat
from framemesh.terminal import NoMesh, counted, joined
from tests.samples import event

WIDTH = 80
YAML = "{kind: ForkliftInference, model: forklift.onnx, decoder: yolov8, labels: [forklift]}"


@pytest.fixture
def nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_listens", lambda _: False)


def run(*args: str) -> str:
    """What a command prints on standard output."""
    result = CliRunner().invoke(app, args)
    if result.exception:
        raise result.exception
    return result.stdout


def beat(kind: str, model: str) -> Heartbeat:
    return Heartbeat(
        kind=kind, instance="local-4711-abcd", host="vm", pid=4711, started=0, version="0.1.0", model=model,
        detail={"provider": "cpu", "sha256": "ab" * 32},
    )  # fmt: skip


# -- where the mesh is --------------------------------------------------------------------------------


@pytest.mark.usefixtures("nobody_listens")
@pytest.mark.parametrize("command", ["status", "events", "results", "run reader", "worker face"])
def test_a_folder_without_a_mesh_is_named_at_once(command: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(
        NoMesh, match=f"no mesh runs in {tmp_path}; start one with `framemesh up --data {tmp_path}`"
    ):
        run(*command.split(), "--data", str(tmp_path))
    assert time.monotonic() - begun < 2


@pytest.mark.usefixtures("nobody_listens")
@pytest.mark.parametrize("name", ["nats_host", "NATS_HOST"])
def test_servers_that_the_user_names_are_tried(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "nats://elsewhere:4222")
    assert joined(tmp_path) == {}


def test_servers_at_the_usual_address_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_listens", lambda address: address == "nats://127.0.0.1:4222")
    assert joined(tmp_path) == {}


def test_every_service_is_in_the_help_of_run() -> None:
    text = " ".join(run("run", "--help").replace("│", " ").split())
    assert ", ".join(service_names()) in text


# -- events -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "step"),
    [
        ((EventState.CREATED,), "began"),
        ((EventState.CREATED, EventState.PENDING), "ended after 5.0 s"),
        ((EventState.CREATED, EventState.PENDING, EventState.DONE), "lasted 5.0 s"),
    ],
)
def test_an_event_says_its_rule_and_how_far_it_is(states: tuple[EventState, ...], step: str) -> None:
    parts = [part.strip() for part in _event_line(event("cam", *states, rule="yard")).split("  ") if part.strip()]
    assert parts[1:] == [step, "yard", "cam", states[-1], "3x person"]


def test_an_event_says_where_its_video_is_or_what_went_wrong() -> None:
    assert _event_line(event("cam", EventState.FINISHED, video_url="http://s3/1.mp4")).endswith(
        "  http://s3/1.mp4"
    )
    assert _event_line(event("cam", EventState.ERROR, reason="no frames")).endswith("  no frames")


@pytest.mark.parametrize(("count", "text"), [(0, "0 frames"), (1, "1 frame"), (2, "2 frames")])
def test_one_is_no_plural(count: int, text: str) -> None:
    assert counted(count, "frame") == text


# -- models -------------------------------------------------------------------------------------------


def test_the_list_of_models_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = [beat("ClassificationInference", "squeezenet"), beat("ForkliftInference", "forklift")]
    monkeypatch.setattr(models_cli, "_alive", lambda _: beats)
    lines = [line.rstrip() for line in run("models", "list").splitlines() if "lacks" not in line]
    assert max(map(len, lines)) <= WIDTH
    kinds = [line.split()[1] for line in lines[2:]]
    assert {"ClassificationInference", "TranscribeInference", "ForkliftInference"} <= set(kinds)
    [own] = [line for line in lines if line.startswith("forklift")]
    assert own.split() == ["forklift", "ForkliftInference", "frame", "1", "cpu", "abababab"]  # no size is known


@pytest.mark.parametrize("name", ["forklift", "ForkliftInference"])
def test_a_model_of_ones_own_that_runs_is_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_cli, "_alive", lambda _: [beat("ForkliftInference", "forklift")])
    assert run("models", "show", name).splitlines() == [
        "forklift, run by ForkliftInference, takes frame",
        f"  alive: local-4711-abcd on vm, cpu, sha256 {'ab' * 32}",
    ]


def test_a_model_by_its_yaml_is_shown_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assets: Callable[[str], Path]
) -> None:
    monkeypatch.setattr(models_cli, "_alive", lambda _: [])
    path = tmp_path / "forklift.yaml"
    path.write_text(YAML)
    assert "not here: mend the YAML" in run("models", "show", str(path))
    shutil.copy(assets("yolox-nano"), tmp_path / "forklift.onnx")
    shown = json.loads(run("models", "show", str(path), "--json"))
    assert (shown["model"], shown["kind"], shown["start"]) == (
        "forklift", "ForkliftInference", f"framemesh worker {path}",
    )  # fmt: skip
    [file] = shown["files"]
    assert file["path"] == str(tmp_path / "forklift.onnx")
    assert file["sha256"] == pinned.get("yolox-nano").sha256
    assert shown["bytes"] == file["bytes"] == (tmp_path / "forklift.onnx").stat().st_size


def test_a_model_with_the_name_of_an_installed_one_does_not_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_cli, "_alive", lambda _: [beat("MineInference", "yolox-nano")])
    assert "run by DetectionInference" in run("models", "show", "yolox-nano")


@pytest.mark.parametrize(
    ("model", "sample", "instead"),
    [("face-haar", "astronaut", "a grey ramp"), ("silero-pyin", "jfk", "a tone")],
)
def test_bench_says_what_it_measures_on(
    model: str, sample: str, instead: str, monkeypatch: pytest.MonkeyPatch, assets: Callable[[str], Path]
) -> None:
    def bench() -> str:
        return run("models", "bench", model, "--batch", "1", "--seconds", "0.1").splitlines()[-1]

    assets(sample)
    assert bench().startswith(f"{model}: measured on the ")
    assert bench().endswith(sample)
    monkeypatch.setattr(pinned, "find", lambda _: None)
    assert bench().startswith(f"{model}: measured on {instead}")
    assert f"`framemesh assets pull {sample}`" in bench()
