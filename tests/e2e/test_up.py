"""``framemesh up``, ``status``, ``run``, ``events``, ``results``, ``down``; and an end however it comes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from framemesh import assets
from framemesh.embedded import Servers
from framemesh.mesh import MeshState, remove_data, running
from tests.e2e.mesh import environment, framemesh


def children_of(folder: Path) -> list[int]:
    """Processes that a mesh in ``folder`` started, by its own account."""
    state = MeshState.read(folder)
    return [*state.services.values(), *state.servers.values()] if state else []


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not alive:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mesh in the background whose detector needs no download."""
    folder = tmp_path_factory.mktemp("up")
    started = framemesh(
        "up", "--data", str(folder), "--detach", "--services", "uploader,router,detection,registrator",
        detection_model="face-haar", event_rules='[{"name": "faces", "labels": ["face"]}]',
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    yield folder
    pids = children_of(folder)
    begun = time.monotonic()
    stopped = framemesh("down", "--data", str(folder))
    assert stopped.returncode == 0, stopped.stderr
    assert time.monotonic() - begun < 7
    assert gone(pids, 1)


@pytest.fixture(scope="module")
def filled(mesh: Path) -> Path:
    """The same mesh, after a file was read."""
    read = framemesh(
        "run", "reader", "--data", str(mesh), video_source=str(assets.ensure("carphone")), pace="fast"
    )
    assert read.returncode == 0, read.stderr
    deadline = time.monotonic() + 30
    while "FINISHED" not in framemesh("events", "--data", str(mesh)).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return mesh


def test_status(mesh: Path) -> None:
    status = json.loads(framemesh("status", "--data", str(mesh), "--json").stdout)
    kinds = {service["kind"] for service in status["services"]}
    assert kinds == {"Uploader", "Router", "DetectionInference", "Registrator"}
    assert {"FRAMES", "RESULTS", "EVENTS", "DetectionInference"} <= {
        stream["name"] for stream in status["streams"]
    }
    assert "face-haar" in framemesh("status", "--data", str(mesh)).stdout


def test_a_second_mesh_in_the_same_folder_is_refused(mesh: Path) -> None:
    second = framemesh("up", "--data", str(mesh))
    assert second.returncode == 1
    assert "a mesh is running in" in second.stderr


def test_events_and_results(filled: Path) -> None:
    [event] = [
        json.loads(line) for line in framemesh("events", "--data", str(filled), "--json").stdout.splitlines()
    ]
    assert event["label"] == "face"
    assert event["state"] == "FINISHED"
    lines = framemesh("results", "--data", str(filled)).stdout.splitlines()
    assert len(lines) == 120
    assert {json.loads(line)["model"] for line in lines} == {"DetectionInference"}


@pytest.mark.parametrize("what", ["events", "results"])
def test_following(what: str, filled: Path) -> None:
    """What is kept comes first, then what is new."""
    following = subprocess.Popen(
        [sys.executable, "-m", "framemesh", what, "--follow", "--data", str(filled)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(PYTHONUNBUFFERED="1"),
    )  # fmt: skip
    assert following.stdout
    try:
        kept = 1 if what == "events" else 120
        for _ in range(kept):
            assert following.stdout.readline()
        framemesh("run", "reader", "--data", str(filled), video_source=str(assets.ensure("carphone")), pace="fast")
        fresh = following.stdout.readline()
    finally:
        following.send_signal(signal.SIGINT)
        _, trouble = following.communicate(timeout=10)
    assert ("CREATED" if what == "events" else "DetectionInference") in fresh
    assert "Traceback" not in trouble
    assert following.returncode == 130


def test_the_users_own_addresses_win(filled: Path, tmp_path: Path) -> None:
    address = "nats://127.0.0.1:1"
    for variable, dotenv in ((address, ""), ("", f"nats_host={address}\n")):
        (tmp_path / ".env").write_text(dotenv)
        done = framemesh("status", "--data", str(filled), NATS_HOST=variable)
        assert done.returncode == 1
        assert "no NATS server answers at nats://127.0.0.1:1" in done.stderr


def test_events_are_projected_again(filled: Path) -> None:
    state = running(filled)
    assert state
    redis = subprocess.run(
        [sys.executable, "-c", "import redis,sys; redis.Redis(port=int(sys.argv[1])).flushall()",
         state.environment["redis_port"]], check=True, capture_output=True,
    )  # fmt: skip
    assert redis.returncode == 0
    assert framemesh("events", "--data", str(filled)).stdout == ""
    assert "FINISHED" in framemesh("events", "--data", str(filled), "--rebuild").stdout


def test_doctor(filled: Path) -> None:
    done = framemesh("doctor", "--data", str(filled))
    assert "nats-server" in done.stdout
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not shutil.which("npm"), reason="no npm: apt-get install nodejs npm")
def test_a_client_in_another_language_sees_results(mesh: Path, tmp_path: Path) -> None:
    """The command of docs/results.md: the ``nats`` package of npm, plain NATS without JetStream."""
    subprocess.run(["npm", "install", "--silent", "nats@2"], cwd=tmp_path, check=True, timeout=120)
    script = Path(__file__).parents[2] / "docs" / "examples" / "results.mjs"
    shutil.copy(script, tmp_path / "results.mjs")
    state = running(mesh)
    assert state
    client = subprocess.Popen(
        ["node", "results.mjs", state.environment["nats_host"], "5"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout
    assert client.stdout.readline().startswith("listening")
    framemesh("run", "reader", "--data", str(mesh), video_source=str(assets.ensure("carphone")), pace="fast")
    printed, _ = client.communicate(timeout=30)
    assert len(printed.splitlines()) == 5
    assert "DetectionInference carphone_pristine frame_0000" in printed


def test_services_run_from_dotenv_alone(mesh: Path, tmp_path: Path) -> None:
    state = running(mesh)
    assert state
    settings = state.environment | {"detection_model": "face-haar", "instance": "from-dotenv"}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    service = subprocess.Popen(
        [sys.executable, "-m", "services.detection"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
    )  # fmt: skip
    assert service.stderr
    try:
        deadline = time.monotonic() + 20
        while "from-dotenv" not in framemesh("status", "--data", str(mesh), "--json").stdout:
            assert time.monotonic() < deadline
    finally:
        service.send_signal(signal.SIGTERM)
        log = service.communicate(timeout=10)[1]
    assert service.returncode == -signal.SIGTERM, log
    assert "stopped" in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_it(number: signal.Signals, tmp_path: Path) -> None:
    up = subprocess.Popen(
        [sys.executable, "-m", "framemesh", "up", "--data", str(tmp_path), "--services", "uploader,router"],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not ((state := running(tmp_path)) and state.ready):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pids = children_of(tmp_path)
    assert len(pids) == 5
    begun = time.monotonic()
    up.send_signal(number)
    up.wait(timeout=10)
    assert gone(pids, 5)
    assert time.monotonic() - begun < 5.5
    for server in Servers(tmp_path, state.ports).servers:
        server.remove_leftovers()  # what SIGKILL leaves; the next start in this folder would do it
    remove_data(tmp_path)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = framemesh("up", "--data", str(tmp_path), "--nats-port", str(port), timeout=30)
    assert done.returncode == 1
    assert f"port {port} for nats is taken" in done.stderr
    assert "--nats-port" in done.stderr


def test_unknown_service(tmp_path: Path) -> None:
    done = framemesh("run", "detecton", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "there is no service 'detecton'; there are:" in done.stderr


def test_nothing_to_talk_to(tmp_path: Path) -> None:
    done = framemesh("status", "--data", str(tmp_path), nats_host="nats://user:hidden@127.0.0.1:1")
    assert done.returncode == 1
    assert "no NATS server answers at nats://***@127.0.0.1:1" in done.stderr
    assert "framemesh up" in done.stderr
    assert "hidden" not in done.stderr
