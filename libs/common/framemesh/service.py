"""The runtime of every service: settings, connections, heartbeats, health, signals, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from redis.asyncio import Redis

from framemesh import __version__
from framemesh.blame import blaming
from framemesh.bus import Bus
from framemesh.errors import FramemeshError, StartAgain, inside, mendable
from framemesh.health import Health
from framemesh.loops import runner
from framemesh.messages import Heartbeat
from framemesh.registry import Registry
from framemesh.registry import connect as connect_redis
from framemesh.settings import Settings, load
from framemesh.subjects import DEADLETTERS
from framemesh.telemetry import configure_logging

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Settings)

EXIT_CONFIG = 2
"""Exit status of a service that cannot work as it is set up; a supervisor need not start it again."""
EXIT_FAILED = 1
STOP_SECONDS = 4.0


class Service(ABC, Generic[S]):
    """A service: a kind, its settings, and ``run``.

    ``prepare`` loads what takes long and says what is wrong with the settings; ``run`` works until it is
    cancelled or done; ``finish`` puts things away. Between them the service is alive in the registry.
    """

    kind: ClassVar[str]
    settings_type: type[S]

    def __init__(self, settings: S, bus: Bus, registry: Registry) -> None:
        self.settings = settings
        self.bus = bus
        self.registry = registry
        self.instance = settings.instance
        self.started = time.time()

    async def prepare(self) -> None:
        """Declare streams, load models. Raises FramemeshError when the service cannot work."""

    @abstractmethod
    async def run(self) -> None:
        """Work until cancelled, or until there is nothing left to do."""

    async def finish(self) -> None:
        """Put things away; called however ``run`` ended."""

    def heartbeat(self) -> Heartbeat:
        """What this service says of itself."""
        return Heartbeat(
            kind=self.kind,
            instance=self.instance,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self.started,
            version=__version__,
        )


def main(service: type[Service[Any]]) -> NoReturn:
    """Run a service as this process: ``python -m services.<name>``."""
    try:
        settings = load(service.settings_type)
    except FramemeshError as error:
        configure_logging(service.kind)
        log.error("%s", error)
        sys.exit(EXIT_CONFIG)
    if not settings.instance:
        settings.instance = f"{settings.node}-{os.getpid()}-{secrets.token_hex(2)}"
    configure_logging(service.kind, settings.log_level)
    with runner() as loop:
        status = loop.run(_serve(service, settings))
    logging.shutdown()
    sys.stdout.flush()
    _end(status)


def _end(status: int) -> NoReturn:
    """End at once: threads that wait for a dead camera or a model in full work must not hold the process up.

    What a signal has stopped ends by it, so that whoever watches can tell it from what has nothing left to do.
    """
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
        status = 128 - status  # of the first process in a container, which no signal ends
    os._exit(status)


async def _serve(service: type[Service[Any]], settings: Settings) -> int:
    """Run a service; returns its exit status, that of a signal below 0."""
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(_live(service, settings))
    asked: list[signal.Signals] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, work, loop, asked, number)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await work
    except Exception as error:
        if found := mendable(error):
            log.error("%s", found)
            return EXIT_CONFIG
        if again := inside(error, StartAgain):
            log.error("%s; ending, to be started again", again)
            return EXIT_FAILED
        log.exception("%s failed", service.kind)
        return EXIT_FAILED
    if not asked:
        return 0
    log.info("stopped")
    return -asked[0]


def _stop(
    work: asyncio.Future[None],
    loop: asyncio.AbstractEventLoop,
    asked: list[signal.Signals],
    number: signal.Signals,
) -> None:
    """First signal: end in order. However stuck it is, it ends after STOP_SECONDS. Second signal: at once."""
    if asked:
        os._exit(EXIT_FAILED)
    asked.append(number)
    loop.call_later(STOP_SECONDS, os._exit, EXIT_FAILED)
    work.cancel()


async def _live(kind: type[Service[Any]], settings: Settings) -> None:
    async with contextlib.AsyncExitStack() as stack:
        health = await stack.enter_async_context(Health(settings.health_port))
        bus = await Bus.connect(settings.nats_host, settings.instance, patience=settings.connect_patience)
        stack.push_async_callback(bus.close)
        redis: Redis = await connect_redis(
            settings.redis_host, settings.redis_port, patience=settings.connect_patience
        )
        stack.push_async_callback(redis.aclose)
        with blaming(f"{kind.__name__} cannot be made"):
            service = kind(settings, bus, Registry(redis, settings.routing_ttl))
        await bus.declare(DEADLETTERS)
        health.watch(lambda: bus.client.is_connected)
        await _work(service, health)


async def _work(service: Service[Any], health: Health) -> None:
    try:
        await service.prepare()
        beating = asyncio.create_task(service.registry.beating(service.heartbeat()))
        health.ready = True
        log.info("ready as %s", service.instance)
        try:
            await service.run()
        finally:
            health.ready = False
            beating.cancel()
            await asyncio.wait([beating])
    finally:
        await service.finish()
