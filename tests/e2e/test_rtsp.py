"""A camera that goes away and comes back: a real RTSP server, killed and started again."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg

from framemesh import assets, subjects
from framemesh.bus import Bus
from framemesh.embedded import free_port
from framemesh.mesh import LogFiles, Mesh
from framemesh.messages import Frame, Result, SourceState

SYSTEM_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).parents[1] / "rtsp_server.py"
PASSWORD = "s3cret-pass"


def rtsp_is_here() -> bool:
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    python = shutil.which(SYSTEM_PYTHON)
    return (
        bool(python)
        and not subprocess.run([SYSTEM_PYTHON, "-c", check], capture_output=True, check=False).returncode
    )


def require_rtsp() -> None:
    if rtsp_is_here():
        return
    reason = "no gst-rtsp-server: apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def camera(clip: Path, port: int, *options: str, repeat: int = 50) -> Iterator[subprocess.Popen[str]]:
    server = subprocess.Popen(
        [SYSTEM_PYTHON, str(SERVER), str(clip), "--port", str(port), "--repeat", str(repeat), *options],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout
    try:
        assert server.stdout.readline().strip() == "ready"
        yield server
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


async def until(done: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.1)


async def stops(results: list[Result]) -> None:
    """Wait until nothing new has come for two seconds."""
    deadline = time.monotonic() + 30
    before = -1
    while before != len(results):
        assert time.monotonic() < deadline, "results go on without a camera"
        before = len(results)
        await asyncio.sleep(2)


async def test_camera_is_killed_and_comes_back(tmp_path: Path) -> None:
    require_rtsp()
    clip, port = assets.ensure("bikes"), free_port()
    results: list[Result] = []

    async def listen(message: Msg) -> None:
        results.append(Result.model_validate_json(message.data))

    logs = LogFiles(tmp_path / "logs")
    async with Mesh(tmp_path, on_line=logs) as mesh:
        await mesh.start_servers()
        for name in ("uploader", "router"):
            await mesh.start_service(name)
        await mesh.start_service("detection", {"detection_model": "face-haar"})
        client = await nats.connect(mesh.environment()["nats_host"])
        await client.subscribe(subjects.RESULTS_FEED, cb=listen)
        reader = {
            "video_source": f"rtsp://admin:{PASSWORD}@127.0.0.1:{port}/live",
            "source": "gate",
            "video_skip_frames": "2",
            "read_timeout": "3",
            "retry_seconds": "1",
        }
        # No camera yet: the reader keeps trying.
        await mesh.start_service("reader", reader)
        await asyncio.sleep(3)
        assert mesh.services["reader"].restarts == 0
        with camera(clip, port):
            await until(lambda: len(results) >= 20, 40, "results of the first camera")
        await stops(results)
        first = len(results)
        with camera(clip, port):
            await until(lambda: len(results) >= first + 20, 40, "results after it came back")
        await mesh.services["reader"].process.stop(3)
        bus = await Bus.connect(mesh.environment()["nats_host"], "test")
        stream = subjects.frames_stream("frames-stream", 0).name
        frames = [stored.message async for stored in bus.read(stream, "frames-stream.gate", 1, Frame)]
        state = await bus.last(subjects.SOURCES.name, "sources.gate", SourceState)
        everything = [data for name in ("FRAMES", "RESULTS", "SOURCES") async for data in bus.raw(name, ">")]
        await bus.close()
        await client.close()
    logs.close()

    assert len({frame.run for frame in frames}) == 1
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    times = [frame.timestamp for frame in frames]
    assert all(one < other for one, other in itertools.pairwise(times))
    assert max(other - one for one, other in itertools.pairwise(times)) > 2
    assert any(frame.pts is not None for frame in frames)
    assert len({result.task_key for result in results}) == len(results)
    assert state is not None
    assert state.message.state == "ended"
    text = (tmp_path / "logs" / "reader.log").read_text()
    assert "trying again in" in text
    assert f"rtsp://***@127.0.0.1:{port}/live" in text
    written = b"".join(path.read_bytes() for path in (tmp_path / "logs").iterdir())
    assert PASSWORD.encode() not in written + b"".join(everything)
    assert json.loads(everything[-1])
