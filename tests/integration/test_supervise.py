"""Processes that are kept running: whatever ends them, and though they cannot be started for a while."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from framemesh import mesh as mesh_module
from framemesh.embedded import RedisServer, choose_ports
from framemesh.mesh import Mesh
from framemesh.processes import Process
from framemesh.registry import Registry
from framemesh.supervise import Supervised
from tests.e2e.mesh import framemesh
from tests.integration.test_service import SERVICE
from tests.samples import until


def shell(*lines: str) -> list[str]:
    return ["/bin/sh", "-c", "\n".join(lines)]


@asynccontextmanager
async def kept(process: Process, **given: Any) -> AsyncIterator[Supervised]:
    supervised = Supervised(process, **given)
    await supervised.start()
    try:
        yield supervised
    finally:
        await supervised.stop(2)


async def test_what_cannot_be_started_for_a_while_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script, here, away = tmp_path / "script", "#!/bin/sh\nexec sleep 60\n", "#!/bin/sh\nrm $0\nexit 1\n"

    def write(text: str) -> None:
        script.with_suffix(".new").write_text(text)
        script.with_suffix(".new").chmod(0o700)
        script.with_suffix(".new").rename(script)

    async def said_twice() -> bool:
        return len([line for line in caplog.messages if "cannot be started" in line]) >= 2

    write(away)
    async with kept(Process("one", [script])) as one:
        await until(said_twice)
        write(here)
        await until(lambda: runs(one))
        assert one.restarts == 1
        assert not one.failed


async def runs(one: Supervised) -> bool:
    return one.process.pid is not None


@pytest.mark.parametrize("ends", [False, True])
async def test_an_end_in_good_order_is_an_end_only_of_what_ends_by_itself(
    ends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def again() -> bool:
        return one.restarts > 0

    async with kept(Process("one", shell("exit 0")), ends=ends) as one:
        if ends:
            await asyncio.wait_for(one.wait(), 5)
        else:
            await until(again)
        assert one.ended is ends
    assert ("one ended with status 0; starting it again" in " ".join(caplog.messages)) is not ends


@pytest.mark.parametrize(("name", "ends"), [("reader", True), ("router", False)])
async def test_of_the_services_a_reader_ends_by_itself(
    name: str, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_module, "command", lambda _: shell("exit 0"))

    async def told() -> bool:
        return one.ended or one.restarts > 0

    async with Mesh(tmp_path) as mesh:
        one = await mesh.start_service(name)
        await until(told)
        assert one.ended is ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_service_that_somebody_else_stops_is_started_again(
    number: signal.Signals, tmp_path: Path, servers: Mapping[str, str], registry: Registry
) -> None:
    """Even one that may end by itself: a camera's reader ends as a file's does, but for the signal."""
    script = tmp_path / "tiny.py"
    script.write_text(SERVICE)
    instance = f"tiny-{os.urandom(3).hex()}"
    process = Process("tiny", [sys.executable, script], env={**servers, "instance": instance, "routing_ttl": "2"})

    async def alive() -> bool:
        beats = await registry.alive("Tiny")
        return process.pid in [beat.pid for beat in beats if beat.instance == instance]

    async with kept(process, ends=True) as tiny:
        await until(alive)
        process.signal(number)
        await until(lambda: is_again(tiny))
        await until(alive)
        assert not tiny.ended


async def is_again(one: Supervised) -> bool:
    return one.restarts == 1


async def test_a_server_that_cannot_be_started_for_a_while_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Server(RedisServer):
        missing = False

        def command(self) -> list[str]:
            return [str(tmp_path / "missing")] if self.missing else super().command()

    async def said_twice() -> bool:
        return len([line for line in caplog.messages if "cannot be started" in line]) >= 2

    async def works() -> bool:
        return bool(server.process and server.process.pid)

    server = Server(tmp_path, choose_ports({}, {}))
    async with Mesh(tmp_path / "mesh") as mesh:
        await server.start()
        await server.ready()
        watching = asyncio.create_task(mesh._watch_server(server))
        try:
            server.missing = True
            assert server.process
            server.process.signal(signal.SIGKILL)
            await until(said_twice)
            server.missing = False
            await until(works)
            await server.ready()
        finally:
            watching.cancel()
            await server.stop()


async def test_a_full_disk_holds_up_no_process(tmp_path: Path) -> None:
    """Its output is read on, though nobody can keep it."""

    def full(name: str, line: str) -> None:
        raise OSError(28, "No space left on device")

    process = Process("talks", shell("yes | head -c 1000000"), on_line=full)
    await process.start()
    assert await asyncio.wait_for(process.wait(), 10) == 0
    await process.close()


@pytest.mark.parametrize(
    "command",
    [("worker", "examples.brightness:Brightness", "--replicas", "2"), ("up", "--services", "uploader,router")],
    ids=lambda command: command[0],
)
def test_one_port_for_two_processes_is_refused(command: tuple[str, ...], tmp_path: Path) -> None:
    done = framemesh(*command, "--data", str(tmp_path), health_port="9100", timeout=20)
    assert done.returncode == 1
    assert "setting health_port: 2 processes cannot share port 9100; leave it out" in done.stderr
    assert "Traceback" not in done.stderr
