"""The demo as a user runs it, whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import psutil
import pytest

from framemesh import assets
from tests.e2e.mesh import PRESENCES, environment, framemesh, overlap


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """``framemesh demo --json`` once, for every test of this module."""
    keep = tmp_path_factory.mktemp("demo")
    done = framemesh("demo", "--keep", str(keep), "--json", timeout=170)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), keep


def test_everything_is_accounted_for(sample: tuple[dict[str, Any], Path]) -> None:
    summary, _ = sample
    assert summary["frames_stored"] == summary["frames_read"] > 100
    assert summary["tasks"] == summary["frames_stored"] * len(summary["results_by_model"])
    assert sum(summary["results_by_model"].values()) == summary["tasks"]
    assert summary["dropped"] == summary["dead_letters"] == 0
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    assert summary["seconds"] > 0
    assert summary["fps"] == pytest.approx(summary["frames_stored"] / summary["seconds"], rel=0.01)  # of one span


def test_events_are_what_the_clip_shows(sample: tuple[dict[str, Any], Path]) -> None:
    summary, _ = sample
    events = [(event["start_s"], event["end_s"]) for event in summary["events"]]
    if "yolox-nano" not in summary["models"]:
        assert len(events) == 1
        assert summary["events"][0]["label"] == "face"
        return
    shown = [presence for presence in PRESENCES if presence[1] < 50]
    assert len(events) == len(shown) == 2
    for event, presence in zip(events, shown, strict=True):
        assert overlap(event, presence) > 0.9
        assert presence[0] - 0.1 <= event[0] <= presence[0] + 1
        assert presence[1] - 1 <= event[1] <= presence[1] + 0.1


def test_evidence_opens(sample: tuple[dict[str, Any], Path]) -> None:
    summary, keep = sample
    for event in summary["events"]:
        video, image = Path(event["video_proofs"]), Path(event["image_proof_path"])
        assert video == keep / "evidence" / event["id"] / f"{event['id']}.mp4"
        assert image == keep / "evidence" / event["id"] / f"{event['id']}.jpg"
        with av.open(video) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate or 0)) == (
                "h264",
                "yuv420p",
                10.0,
            )
            frames = sum(1 for _ in container.decode(stream))
        length = event["end"] - event["start"]
        assert length <= frames / 10 <= length + 4.2
        picture = cv2.imread(str(image))
        assert picture is not None
        assert picture.shape[:2] == (event_size(video)[1], event_size(video)[0])


def event_size(video: Path) -> tuple[int, int]:
    with av.open(video) as container:
        return container.streams.video[0].width, container.streams.video[0].height


def test_every_event_went_through_the_catalogue(sample: tuple[dict[str, Any], Path]) -> None:
    summary, keep = sample
    log = (keep / "logs" / "registrator.log").read_text()
    for event in summary["events"]:
        states = [step["state"] for step in event["transitions"]]
        assert states == ["CREATED", "PENDING", "DONE", "FINISHED"]
        assert all(f"event {event['id']} {event['source']} {event['label']}: {state}" in log for state in states)
        assert event["video_url"].endswith(f"/evidence/{event['id']}/{event['id']}.mp4")


def test_nothing_is_left_running(sample: tuple[dict[str, Any], Path]) -> None:
    _, keep = sample
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(keep) in " ".join(p.info["cmdline"] or [])]


def test_without_any_download(tmp_path: Path) -> None:
    done = framemesh(
        "demo", "--keep", str(tmp_path), "--json", timeout=170,
        FRAMEMESH_ASSETS="", FRAMEMESH_OFFLINE="1", XDG_CACHE_HOME=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [notice] = [line for line in done.stderr.splitlines() if "framemesh assets pull" in line]
    assert "cannot be downloaded here" in notice
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["frames_stored"] == sum(summary["results_by_model"].values()) == 120
    assert [event["label"] for event in summary["events"]] == ["face"]
    assert all(Path(event["video_proofs"]).stat().st_size for event in summary["events"])


def test_people_hog_behind_the_same_interface(tmp_path: Path) -> None:
    clip = assets.ensure("bikes")
    arguments = ("--models", "people-hog", "--source", str(clip), "--duration", "3", "--keep", str(tmp_path))
    done = framemesh("demo", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["frames_stored"] == summary["results_by_model"]["DetectionInference"] > 50


def test_a_second_demo_in_the_same_folder_counts_for_itself(tmp_path: Path) -> None:
    arguments = (
        "demo",
        "--models",
        "face-haar",
        "--source",
        str(assets.ensure("carphone")),
        "--keep",
        str(tmp_path),
    )
    first, second = (framemesh(*arguments, "--json") for _ in range(2))
    one, other = (json.loads(done.stdout.splitlines()[-1]) for done in (first, second))
    assert one["frames_stored"] == other["frames_stored"] == 120
    assert one["results_by_model"] == other["results_by_model"]
    assert [event["counts"] for event in one["events"]] == [event["counts"] for event in other["events"]]
    assert one["events"][0]["id"] != other["events"][0]["id"]
    assert abs(one["events"][0]["start_s"] - other["events"][0]["start_s"]) < 0.1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--source", "/nowhere/at all.mp4"], "/nowhere/at all.mp4: no such file: check the path"),
        (["--source", __file__], "no video in it|not a video"),
        (["--models", "yolox-nan"], "--models: there is no model 'yolox-nan'; choose from yolox-nano"),
        (["--models", "people-hog,face-haar"], "only one detector"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = framemesh("demo", *arguments, "--keep", str(tmp_path), timeout=60)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert any(part in last for part in says.split("|")), done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "assets" / "models"
    folder.mkdir(parents=True)
    (folder / "yolox_nano.onnx").write_bytes(b"not a model")
    done = framemesh(
        "demo", "--models", "yolox-nano", "--source", str(assets.ensure("carphone")),
        timeout=60, FRAMEMESH_ASSETS=str(tmp_path / "assets"),
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "yolox_nano.onnx" in last
    assert "sha256" in last


def test_a_misspelt_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("vidoe_source=cam.mp4\n")
    done = subprocess.run(
        [sys.executable, "-m", "services.reader"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "setting vidoe_source (.env) is not known; did you mean video_source?" in done.stderr
