"""A small real service as a process of its own: life, health, signals and exit statuses."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from framemesh.embedded import HOST, free_port
from framemesh.registry import Registry
from tests.samples import until

SERVICE = """
import asyncio
from pydantic import Field
from framemesh import subjects
from framemesh.errors import FramemeshError
from framemesh.messages import Frame
from framemesh.service import Service, main
from framemesh.settings import Settings

class TinySettings(Settings):
    mood: str = Field("fine", pattern="^(fine|done|broken|wrong|stuck)$", description="What it does")

class Tiny(Service[TinySettings]):
    kind = "Tiny"
    settings_type = TinySettings

    async def prepare(self):
        if self.settings.mood == "wrong":
            raise FramemeshError("setting mood: no service works like that")
        await self.bus.declare(*subjects.EVERYWHERE)

    async def run(self):
        if self.settings.mood == "done":
            return
        if self.settings.mood == "broken":
            raise ZeroDivisionError("oops at rtsp://me:s3cret@camera/1")
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if self.settings.mood != "stuck":
                    raise

    async def finish(self):
        print("put away", flush=True)

main(Tiny)
"""


class Tiny:
    """The service as a process."""

    def __init__(self, folder: Path, servers: Mapping[str, str], **settings: str) -> None:
        self.instance = f"tiny-{os.urandom(3).hex()}"
        script = folder / "tiny.py"
        script.write_text(SERVICE)
        environment = dict(os.environ) | dict(servers) | {"instance": self.instance, "routing_ttl": "2"} | settings
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, within: float = 15) -> tuple[int, str]:
        """Its exit status and all that it said."""
        output, _ = self.process.communicate(timeout=within)
        return self.process.returncode, output


Start = Callable[..., Tiny]


@pytest.fixture
def start(tmp_path: Path, servers: Mapping[str, str]) -> Iterator[Start]:
    made: list[Tiny] = []

    def begin(**settings: str) -> Tiny:
        made.append(Tiny(tmp_path, servers, **settings))
        return made[-1]

    yield begin
    for tiny in made:
        if tiny.process.poll() is None:
            tiny.process.kill()
        tiny.process.communicate()


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""


async def alive(registry: Registry, tiny: Tiny) -> bool:
    return tiny.instance in {beat.instance for beat in await registry.alive("Tiny")}


async def test_a_service_is_alive_healthy_and_ends_in_order(registry: Registry, start: Start) -> None:
    port = free_port()
    tiny = start(health_port=str(port))
    await until(lambda: alive(registry, tiny))
    [beat] = [beat for beat in await registry.alive("Tiny") if beat.instance == tiny.instance]
    assert beat.pid == tiny.process.pid
    assert await get(f"http://{HOST}:{port}/healthz") == (200, '{"status": "alive"}')
    assert await get(f"http://{HOST}:{port}/readyz") == (200, '{"status": "ready"}')
    status, metrics = await get(f"http://{HOST}:{port}/metrics")
    assert status == 200
    assert "framemesh_consumed_total" in metrics
    await asyncio.sleep(2.5)  # beyond the time to live
    assert await alive(registry, tiny)
    begun = time.monotonic()
    tiny.process.send_signal(signal.SIGTERM)
    status, output = await asyncio.to_thread(tiny.end)
    assert status == -signal.SIGTERM
    assert time.monotonic() - begun < 5
    assert "put away" in output
    assert "stopped" in output
    assert "Traceback" not in output
    assert not await alive(registry, tiny)


async def test_a_service_is_not_ready_while_nats_is_away(tmp_path: Path, start: Start) -> None:
    from framemesh.embedded import NatsServer, choose_ports

    nats = NatsServer(tmp_path, choose_ports({}, {}))
    await nats.start()
    await nats.ready()
    port = free_port()
    start(health_port=str(port), **nats.environment())
    await until(lambda: is_ready(port))
    await nats.stop()

    async def not_ready() -> bool:
        return await get(f"http://{HOST}:{port}/readyz") == (503, '{"status": "not ready"}')

    await until(not_ready)
    assert (await get(f"http://{HOST}:{port}/healthz"))[0] == 200
    await nats.start()
    await until(lambda: is_ready(port))
    await nats.stop()


async def is_ready(port: int) -> bool:
    return (await get(f"http://{HOST}:{port}/readyz"))[0] == 200


def one_error(output: str) -> str:
    """The only line of an output that says what is wrong."""
    assert "Traceback" not in output
    [line] = [line for line in output.splitlines() if "ERROR" in line]
    return line


def test_a_taken_health_port_is_one_clear_line(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, output = start(health_port=str(port)).end()
    assert status == 2
    assert f"setting health_port: port {port} is taken" in one_error(output)
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"redis_port": "many"}, "setting redis_port: "),
        ({"mood": "sad"}, "setting mood: "),
        ({"mood": "wrong"}, "setting mood: no service works like that"),
        ({"ttl_buckets": "15m"}, "setting ttl_buckets (environment) is not known; did you mean ttl_bucket?"),
        ({"nats_host": f"nats://me:s3cret@{HOST}:1", "connect_patience": "0.2"}, "nats_host: no NATS server"),
        ({"redis_port": "1", "connect_patience": "0.2"}, "redis_host, redis_port: no Redis answers"),
    ],
)
def test_what_the_user_can_mend_is_one_line(start: Start, settings: dict[str, str], wanted: str) -> None:
    status, output = start(**settings).end()
    assert status == 2
    assert wanted in one_error(output)
    assert "s3cret" not in output


def test_a_service_that_has_nothing_left_to_do_ends_well(start: Start) -> None:
    status, output = start(mood="done").end()
    assert status == 0
    assert "put away" in output


def test_a_service_that_breaks_says_where_without_secrets(start: Start) -> None:
    status, output = start(mood="broken").end()
    assert status == 1
    assert "ZeroDivisionError: oops at rtsp://***@camera/1" in output
    assert "s3cret" not in output
    assert "put away" in output


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_service_that_is_stuck_ends_all_the_same(registry: Registry, start: Start, signals: int) -> None:
    tiny = start(mood="stuck")
    await until(lambda: alive(registry, tiny))
    begun = time.monotonic()
    for _ in range(signals):
        tiny.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
    status, _ = await asyncio.to_thread(tiny.end)
    assert status == 1
    assert time.monotonic() - begun < (5 if signals == 1 else 2)
