"""The gateway as a process: what it takes of memory, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import psutil
import pytest

from framemesh.bus import Bus
from framemesh.database.engine import open_database
from framemesh.database.tokens import TokenTable
from framemesh.embedded import free_port
from framemesh.processes import Process
from framemesh.steps.client import Jobs
from framemesh.tokens import Scope
from tests.integration.gateways import Client, Pipeline, working
from tests.integration.stepping import Begin
from tests.samples import until

MIB = 1 << 20


@pytest.fixture
async def pipeline(begin: Begin, jobs: Jobs, bus: Bus) -> AsyncIterator[Pipeline]:
    async with working(begin, jobs, bus) as made:
        yield made


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
async def process(servers: Mapping[str, str], tmp_path: Path, port: int) -> AsyncIterator[Process]:
    own = {"jobs_database": f"sqlite:///{tmp_path}/jobs.db", "gateway_port": str(port)}
    made = Process("gateway", [sys.executable, "-m", "services.gateway"], env=dict(servers) | own)
    await made.start()
    yield made
    await made.stop()
    await made.close()


@pytest.fixture
async def client(process: Process, tmp_path: Path, port: int) -> AsyncIterator[Client]:
    engine = await open_database(f"sqlite:///{tmp_path}/jobs.db")
    token = await TokenTable(engine).create("ann", Scope.OPERATOR)
    await engine.dispose()
    async with aiohttp.ClientSession() as session:
        made = Client(session, f"http://127.0.0.1:{port}", token, "ann")

        async def alive() -> bool:
            try:
                return (await made.get("/healthz")).status == 200
            except aiohttp.ClientError:
                return False

        await until(alive, within=30)
        yield made


async def test_an_upload_takes_no_more_memory_than_its_parts(
    client: Client, process: Process, pipeline: Pipeline
) -> None:
    assert process.pid
    gateway, peak = psutil.Process(process.pid), [0]
    before = gateway.memory_info().rss

    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(160):
            yield bytes(MIB)
            peak[0] = max(peak[0], gateway.memory_info().rss)

    form = aiohttp.FormData()
    form.add_field("video", zeros(), filename="talk.mp4")
    assert (await client.post("/analysis", data=form)).status == 202
    assert peak[0] - before < 64 * MIB, f"{(peak[0] - before) // MIB} MiB more"


async def test_it_ends_soon_though_somebody_listens(client: Client, process: Process, pipeline: Pipeline) -> None:
    pipeline.gate.clear()
    job_id = await client.submit()
    url = f"{client.base}/analysis/{job_id}/events"
    async with client.session.get(url, headers=client.headers) as answer:
        await answer.content.readline()
        begun = time.monotonic()
        await asyncio.gather(process.stop(grace=10), answer.content.read(), return_exceptions=True)
        assert time.monotonic() - begun < 3.5
    assert process.returncode == -signal.SIGTERM, list(process.last_lines)
