"""The gateway's service."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from framemesh import subjects
from framemesh.blobs import BlobStore
from framemesh.buckets import Bucket
from framemesh.database.engine import open_database
from framemesh.database.images import ImageTable
from framemesh.database.jobs import JobTable
from framemesh.database.media import MediaTable
from framemesh.database.tokens import TokenTable
from framemesh.errors import FramemeshError
from framemesh.service import Service
from framemesh.steps.client import Jobs
from framemesh.steps.files import COLLECTION
from services.gateway.app import make_app
from services.gateway.desk import Desk
from services.gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

ANSWER_S = 10.0
"""Seconds that a request waits for what it asks for: a NATS that starts again takes two or three."""
END_S = 1.0
"""Seconds that requests under way are given at the end."""


class Gateway(Service[GatewaySettings]):
    """Serves the API. It keeps nothing of its own, so there may be any number of replicas."""

    kind = "Gateway"
    settings_type = GatewaySettings

    async def prepare(self) -> None:
        """Connect, and listen."""
        self.bus.read_patience = ANSWER_S
        self._runner: web.AppRunner | None = None
        self._engine = await open_database(self.settings.jobs_database, self.settings.connect_patience)
        self._blobs = BlobStore(
            self.settings.master_url,
            volume_url=self.settings.volume_url,
            collection=COLLECTION,
            ttl=self.settings.jobs_ttl,
        )
        jobs, tokens = Jobs(self.bus, self.registry.redis), TokenTable(self._engine)
        await jobs.store.declare()
        await self.bus.declare(subjects.JOBLOGS, subjects.TRIGGERS)
        images = ImageTable(self._engine)
        self.desk = Desk(
            self.bus, jobs, JobTable(self._engine), tokens, self._blobs, self.settings, images,
            self._bucket(self.settings.images_bucket), MediaTable(self._engine),
            self._bucket(self.settings.media_bucket),
        )  # fmt: skip
        await self._listen()
        if not await tokens.all():
            log.warning("nobody has a token yet: `framemesh tokens create NAME` makes one")

    def _bucket(self, name: str) -> Bucket:
        given = self.settings
        return Bucket(given.s3_url, name, given.s3_access_key, given.s3_secret_key)

    async def _listen(self) -> None:
        host, port = self.settings.gateway_host, self.settings.gateway_port
        self._runner = web.AppRunner(
            make_app(self.desk), access_log=None, shutdown_timeout=END_S, auto_decompress=False
        )
        await self._runner.setup()
        logging.getLogger("aiohttp.server").addFilter(_is_ours)
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            raise FramemeshError(
                f"setting gateway_port: {host}:{port} is not to be had ({error.strerror}): set others"
            ) from error
        log.info("the API listens on http://%s:%d", host, port)
        if not _is_loopback(host):
            log.warning("tokens and videos travel in plain on %s: put a proxy with TLS in front", host)

    async def run(self) -> None:
        """Serve until cancelled."""
        await asyncio.Event().wait()

    async def finish(self) -> None:
        """Stop listening, and close the connections; called also when ``prepare`` failed half way."""
        if runner := getattr(self, "_runner", None):
            await runner.cleanup()
        if blobs := getattr(self, "_blobs", None):
            await blobs.close()
        if engine := getattr(self, "_engine", None):
            await engine.dispose()


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what strangers send that is no HTTP: a stack of each would fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
