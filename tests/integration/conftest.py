"""Fixtures of the tests of durable jobs."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from framemesh.bus import Bus
from framemesh.registry import Registry
from framemesh.steps.client import Jobs
from framemesh.steps.functions import Function
from framemesh.steps.worker import StepSettings
from tests.integration.gateways import Client
from tests.integration.medias import Studio, studio
from tests.integration.stepping import AnyWorker, Begin, at_work


@pytest.fixture
def name() -> str:
    """A function's name that no other test has."""
    return f"f{secrets.token_hex(4)}"


@pytest.fixture
def begin(bus: Bus, registry: Registry, servers: Mapping[str, str]) -> Begin:
    """Runs a worker with some functions for the length of a block."""

    @asynccontextmanager
    async def running(*functions: Function, **settings: Any) -> AsyncIterator[AnyWorker]:
        given = StepSettings(**servers, instance=f"w-{secrets.token_hex(3)}", **settings)  # type: ignore[arg-type]
        worker = AnyWorker(given, bus, registry)
        worker.functions = functions
        async with at_work(worker):
            yield worker

    return running


@pytest.fixture
async def jobs(bus: Bus, redis: Redis) -> Jobs:
    """The mesh's jobs."""
    made = Jobs(bus, redis)
    await made.store.declare()
    return made


@pytest.fixture
async def at(
    bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path, begin: Begin,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Studio]:  # fmt: skip
    """All that a medium goes through, at work."""
    async with studio(bus, registry, servers, tmp_path, begin, monkeypatch) as made:
        yield made


@pytest.fixture
async def ann(at: Studio) -> Client:
    """Somebody who takes media in."""
    return await at.client()
