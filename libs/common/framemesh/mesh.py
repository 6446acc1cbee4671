"""A whole mesh on this machine: the servers, the services, each a process, watched and started again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from framemesh import workers
from framemesh.embedded import Server, Servers, choose_ports
from framemesh.errors import FramemeshError
from framemesh.locks import lock
from framemesh.processes import OnLine, Process
from framemesh.registry import Registry
from framemesh.settings import given_names
from framemesh.spool import default_folder
from framemesh.supervise import Supervised, how, insist

log = logging.getLogger(__name__)

STATE_FILE = "mesh.json"
ENDS = frozenset({"reader"})
"""Services that end by themselves, when they have nothing left to do."""
SERVICE_STOP_SECONDS = 2.0
START_SECONDS = 90.0


def service_names() -> list[str]:
    """Services that can be run here, by the folders of the ``services`` package."""
    return _services_with("__main__.py")


def step_services() -> list[str]:
    """What does whole files as steps of jobs, beside a service that does live tasks: ``transcribe.steps``."""
    return [f"{name}.steps" for name in _services_with("steps.py")]


def _services_with(file: str) -> list[str]:
    spec = importlib.util.find_spec("services")
    folders = [Path(place) for place in (spec.submodule_search_locations if spec else None) or []]
    return sorted(found.parent.name for folder in folders for found in folder.glob(f"*/{file}"))


def command(name: str) -> list[str]:
    """How a service is started, or a model worker of anyone's. Raises FramemeshError for an unknown one."""
    if name in (*service_names(), *step_services()):
        return [sys.executable, "-m", f"services.{name}"]
    if workers.is_spec(name) or workers.is_module(name):
        return [sys.executable, "-m", "framemesh.workers", name]
    raise FramemeshError(
        f"there is no service {name!r}; there are: {', '.join((*service_names(), *step_services()))}; "
        "or give a model worker as package.module:Class, or a YAML file"
    )


@dataclass
class MeshState:
    """What ``mesh.json`` in the data folder says, so that other commands find the mesh."""

    pid: int
    environment: dict[str, str]
    ports: dict[str, int]
    services: dict[str, int] = field(default_factory=dict)
    servers: dict[str, int] = field(default_factory=dict)
    ready: bool = False

    @classmethod
    def read(cls, data: Path) -> Self | None:
        """The state of the mesh in ``data``, None where there is none."""
        try:
            return cls(**json.loads((data / STATE_FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, data: Path) -> None:
        """Replace the file at once, so that nobody reads half of it."""
        part = data / f".{STATE_FILE}.part"
        part.write_text(json.dumps(self.__dict__, indent=2))
        part.replace(data / STATE_FILE)


def running(data: Path) -> MeshState | None:
    """The mesh that runs in ``data``, None when none does."""
    if not data.is_dir():
        return None
    handle = lock(data)
    if handle is None:
        return MeshState.read(data)
    os.close(handle)
    return None


class Mesh:
    """Servers and services together. Use as an async context manager: whatever happens, everything is stopped."""

    def __init__(self, data: Path, ports: Mapping[str, int] | None = None, on_line: OnLine | None = None) -> None:
        self.data = data
        self._on_line = on_line
        self._stopping = False
        self._server_watches: list[asyncio.Task[None]] = []
        self.services: dict[str, Supervised] = {}
        data.mkdir(parents=True, exist_ok=True)
        handle = lock(data)
        if handle is None:
            raise FramemeshError(
                f"a mesh is running in {data}; stop it with `framemesh down --data {data}`, "
                "or choose another folder with --data"
            )
        self._lock = handle
        known = MeshState.read(data)
        chosen = choose_ports(ports or {}, known.ports if known else {})
        if known:
            for server in Servers(data, known.ports).servers:  # of a mesh that was killed
                server.remove_leftovers()
        self.servers = Servers(data, chosen, on_line)
        self._state = MeshState(os.getpid(), self.environment(), chosen)

    def environment(self) -> dict[str, str]:
        """The settings by which services of this mesh find everything."""
        found = self.servers.environment() | {
            "spool_dir": str(spool_folder(self.data)),
            "tmp_path": str(self.data.resolve() / "evidence"),
            "node": "local",
        }
        said = {name.lower() for name, _ in given_names()}
        ours = {
            "jobs_database": f"sqlite:///{self.data.resolve() / 'jobs.db'}",
            "search_path": str(self.data.resolve() / "search"),
        }
        return found | {name: value for name, value in ours.items() if name not in said}  # they may lie elsewhere

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start_servers(self) -> None:
        """Start the servers and wait until they work."""
        await self.servers.start()
        self._server_watches = [asyncio.create_task(self._watch_server(server)) for server in self.servers.servers]
        self._write_state()

    async def start_service(
        self, name: str, env: Mapping[str, str] | None = None, *, label: str = ""
    ) -> Supervised:
        """Start a service as a process of its own and keep it running, unless it has read all or cannot work."""
        label = label or name
        process = Process(
            label,
            command(name),
            env=self.environment() | dict(env or {}),
            on_line=self._on_line,
            death_signal=signal.SIGTERM,
        )
        supervised = Supervised(process, self._write_state, ends=name in ENDS)
        await supervised.start()
        self.services[label] = supervised
        self._write_state()
        return supervised

    async def wait_alive(self, registry: Registry) -> None:
        """Wait until every service that was started is in the registry. Raises FramemeshError."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.raise_failures()
            alive = {beat.pid for beat in await registry.alive()}
            missing = [s.name for s in self.services.values() if not s.ended and s.process.pid not in alive]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise FramemeshError(f"not up within {START_SECONDS:g} s: {', '.join(missing)}; see its logs")
            await asyncio.sleep(0.05)

    def raise_failures(self) -> None:
        """Raise what a service says that cannot work as it is set up."""
        for service in self.services.values():
            if service.failed:
                raise FramemeshError(service.failed)

    def mark_ready(self) -> None:
        """Tell others that everything has been started."""
        self._state.ready = True
        self._write_state()

    @property
    def stopping(self) -> bool:
        """Whether everything is being stopped."""
        return self._stopping

    async def stop(self) -> None:
        """Stop services, then servers, within five seconds."""
        self._stopping = True
        for watch in self._server_watches:
            watch.cancel()
        await asyncio.gather(*(service.stop(SERVICE_STOP_SECONDS) for service in self.services.values()))
        await self.servers.stop()
        with contextlib.suppress(OSError):  # frames that nobody has stored yet stay for the next start
            spool_folder(self.data).rmdir()
        self._state.services, self._state.servers, self._state.ready = {}, {}, False
        self._state.write(self.data)
        os.close(self._lock)

    def pids(self) -> dict[str, int]:
        """Process ids of everything that runs, by name."""
        servers = {server.name: server.process.pid for server in self.servers.servers if server.process}
        services = {name: service.process.pid for name, service in self.services.items()}
        return {name: pid for name, pid in (servers | services).items() if pid}

    async def _watch_server(self, server: Server) -> None:
        """Start a server again that died; its data is on disk, and services wait for it."""
        while server.process:
            status = await server.process.wait()
            log.warning("%s ended %s; starting it again", server.name, how(status))
            await server.process.close()
            await insist(server.name, server.start)
            try:
                await server.ready()
            except FramemeshError as error:
                log.error("%s", error)
                await asyncio.sleep(1)
            self._write_state()

    def _write_state(self) -> None:
        if self._stopping:
            return
        names = {server.name for server in self.servers.servers}
        pids = self.pids()
        self._state.servers = {name: pid for name, pid in pids.items() if name in names}
        self._state.services = {name: pid for name, pid in pids.items() if name not in names}
        try:
            self._state.write(self.data)
        except OSError as error:  # a full disk ends nobody's watch
            log.error("%s cannot be written, so other commands do not see what runs: %s", STATE_FILE, error)


class LogFiles:
    """Keeps every process's output in a file of its own; errors are also shown."""

    def __init__(self, folder: Path, show: OnLine | None = None) -> None:
        self._folder = folder
        self._show = show
        self._files: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, line: str) -> None:
        """Write one line."""
        if name not in self._files:
            self._files[name] = (self._folder / f"{name}.log").open("a", buffering=1)
        self._files[name].write(line + "\n")
        if self._show:
            self._show(name, line)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


def spool_folder(data: Path) -> Path:
    """The spool of a mesh: on tmpfs where there is one, a folder of its own for each data folder."""
    token = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:12]
    return default_folder().with_name(f"framemesh-spool-{os.getuid()}-{token}")


def remove_data(data: Path, *, logs: bool = True) -> None:
    """Remove a mesh's data: the servers' folders, the spool and the state, not the evidence."""
    folders = [data / name for name in ("nats", "seaweedfs", "redis", *(["logs"] if logs else []))]
    for folder in (*folders, spool_folder(data)):
        shutil.rmtree(folder, ignore_errors=True)
    (data / STATE_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is evidence, or there are logs to read
        data.rmdir()
