"""Real servers for every test that asks for them, and nothing of the developer's own environment."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis

from framemesh import assets as pinned
from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.embedded import NatsServer, RedisServer, SeaweedServer, Server, Servers, choose_ports
from framemesh.mesh import STATE_FILE, spool_folder
from framemesh.registry import Registry
from framemesh.registry import connect as connect_redis
from framemesh.settings import Settings
from tests.samples import OwnServer

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
if ASSETS.is_dir():
    os.environ.setdefault("FRAMEMESH_ASSETS", str(ASSETS))
SETTINGS = (
    "services.reader.settings.ReaderSettings",
    "services.uploader.uploader.UploaderSettings",
    "services.router.router.RouterSettings",
    "services.detection.worker.DetectionSettings",
    "services.classification.worker.ClassificationSettings",
    "services.face.worker.FaceSettings",
    "services.voice.worker.VoiceSettings",
    "services.transcribe.worker.TranscribeSettings",
    "services.media.settings.MediaSettings",
    "services.registrator.settings.RegistratorSettings",
    "services.jobs.settings.JobsSettings",
    "services.gateway.settings.GatewaySettings",
    "services.analyst.settings.AnalystSettings",
    "services.images.settings.ImagesSettings",
    "services.search.settings.SearchSettings",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """As ``pytest_runtest_call``."""
    with _skipped_without_assets():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What needs an asset is skipped where that is neither on the machine nor to be had."""
    with _skipped_without_assets():
        return (yield)


@contextmanager
def _skipped_without_assets() -> Iterator[None]:
    try:
        yield
    except pinned.AssetUnavailable as error:
        pytest.skip(f"{error}")


@pytest.fixture(scope="session")
def every_settings() -> dict[str, type[Settings]]:
    """The settings of every service, by the class's name."""
    found: dict[str, type[Settings]] = {}
    for path in SETTINGS:
        module, _, name = path.rpartition(".")
        found[name] = getattr(import_module(module), name)
    return found


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever the tests started has ended when they have, and its spools are gone."""
    yield
    # Of meshes that were ended with frames in them. No others: somebody's own may run beside the tests.
    for state in tmp_path_factory.getbasetemp().rglob(STATE_FILE):
        shutil.rmtree(spool_folder(state.parent), ignore_errors=True)
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=5)
    lines = [" ".join(process.cmdline()) for process in alive]
    for process in alive:
        process.kill()
    assert not lines, f"still running after the tests: {lines}"


@pytest.fixture(autouse=True)
def clean_environment(
    every_settings: dict[str, type[Settings]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A developer's ``.env`` and settings in the environment reach no test."""
    names = {name for settings in every_settings.values() for name in settings.model_fields}
    for name in list(os.environ):
        if name.lower() in names or name in {"FRAMEMESH_OFFLINE", "FRAMEMESH_ASSETS_URL"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def assets(clean_environment: None) -> Callable[[str], Path]:
    """Path of an asset; the test is skipped where it is missing."""

    def need(name: str) -> Path:
        path = pinned.find(name)
        if path is None:
            pytest.skip(f"asset {name} is not here: set FRAMEMESH_ASSETS or run `framemesh assets pull {name}`")
        return path

    return need


class _Loop:
    """An event loop in a thread of its own, for what must outlive the loop of one test.

    The kernel ends a server with the *thread* that forked it, so this one lives as long as the session.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers", daemon=True)
        self._thread.start()

    def run(self, work: Any, timeout: float = 120) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, no_process_is_left: None) -> Iterator[Mapping[str, str]]:
    """NATS, SeaweedFS and Redis for the whole session: the settings by which they are found."""
    loop = _Loop()
    running = Servers(tmp_path_factory.mktemp("servers"), choose_ports({}, {}))
    try:
        loop.run(running.start())
        yield running.environment()
        loop.run(running.stop())
    finally:
        loop.close()


@pytest.fixture
def source() -> str:
    """A source's name that no other test has."""
    return f"cam-{secrets.token_hex(4)}"


@pytest.fixture
def model() -> str:
    """A model's name that no other test has."""
    return f"Model{secrets.token_hex(4)}"


@pytest.fixture
async def bus(servers: Mapping[str, str]) -> AsyncIterator[Bus]:
    """A connection to NATS."""
    connected = await Bus.connect(servers["nats_host"], "test")
    yield connected
    await connected.close()


@pytest.fixture
async def redis(servers: Mapping[str, str]) -> AsyncIterator[Redis]:
    """A connection to Redis."""
    connected = await connect_redis(servers["redis_host"], int(servers["redis_port"]))
    yield connected
    await connected.aclose()


@pytest.fixture
def registry(redis: Redis) -> Registry:
    """A registry with a short time to live."""
    return Registry(redis, 1.0)


@pytest.fixture
async def blobs(servers: Mapping[str, str]) -> AsyncIterator[BlobStore]:
    """The frames' store."""
    async with BlobStore(servers["master_url"], ttl="15m") as store:
        yield store


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[Callable[[type[Server]], OwnServer]]:
    """Makes servers of the test's own, which it may kill; they are stopped with the test."""
    made: list[OwnServer] = []

    def make(kind: type[Server]) -> OwnServer:
        made.append(OwnServer(kind(tmp_path, choose_ports({}, {}))))
        return made[-1]

    yield make
    for server in made:
        await server.stop()


@pytest.fixture
async def own_nats(own_server: Callable[[type[Server]], OwnServer]) -> OwnServer:
    """A NATS of the test's own, started."""
    server = own_server(NatsServer)
    await server.start()
    return server


@pytest.fixture
async def own_redis(own_server: Callable[[type[Server]], OwnServer]) -> OwnServer:
    """A Redis of the test's own, started."""
    server = own_server(RedisServer)
    await server.start()
    return server


@pytest.fixture
async def own_seaweed(own_server: Callable[[type[Server]], OwnServer]) -> OwnServer:
    """A SeaweedFS of the test's own, started."""
    server = own_server(SeaweedServer)
    await server.start()
    return server
