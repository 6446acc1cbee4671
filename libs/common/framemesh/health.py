"""``/healthz``, ``/readyz`` and ``/metrics`` of a service."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from framemesh.errors import FramemeshError


class Health:
    """A small HTTP server on ``port``; none at all when it is 0."""

    def __init__(self, port: int) -> None:
        self.ready = False
        self._port = port
        self._runner: web.AppRunner | None = None
        self._connected: Callable[[], bool] = lambda: False

    def watch(self, connected: Callable[[], bool]) -> None:
        """``/readyz`` also asks ``connected``."""
        self._connected = connected

    async def __aenter__(self) -> Self:
        if not self._port:
            return self
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, port=self._port).start()
        except OSError as error:
            raise FramemeshError(
                f"setting health_port: port {self._port} is taken ({error.strerror}); set another, or 0 for none"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self.ready and self._connected()
        return web.json_response({"status": "ready" if ready else "not ready"}, status=200 if ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
