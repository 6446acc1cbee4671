"""SeaweedFS: frames go straight to the volume servers under leased file ids."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp

log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0
"""A volume may fill up or be sealed, so its ids are not used for longer."""

MAX_BYTES = 64 << 20
"""Largest blob that is read: a claim check may point anywhere."""

LARGE_BYTES = 1 << 20
_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=3)


class BlobError(Exception):
    """The store does not answer or refuses; trying again may help."""


class BlobMissing(Exception):
    """There is nothing at this address: it was never written, or its time to live is over."""


@dataclass
class _Lease:
    """File ids handed out by the master: ``fid``, ``fid_1``, ``fid_2`` …"""

    base: str
    fid: str
    count: int
    expires: float
    used: int = 0

    def next(self) -> str | None:
        if self.used >= self.count or time.monotonic() > self.expires:
            return None
        fid = self.fid if self.used == 0 else f"{self.fid}_{self.used}"
        self.used += 1
        return f"{self.base}/{fid}"


class BlobStore:
    """Blobs of one collection with one time to live (SeaweedFS units, e.g. ``15m``; empty: for ever)."""

    def __init__(
        self,
        master_url: str,
        *,
        volume_url: str = "",
        collection: str = "frames",
        ttl: str = "",
        lease: int = 64,
    ) -> None:
        self._master = _with_scheme(master_url)
        self._volume = _with_scheme(volume_url) if volume_url else ""
        self._query = {"count": str(lease), "collection": collection} | ({"ttl": ttl} if ttl else {})
        self._put_query = {"ttl": ttl} if ttl else {}
        self._lease: _Lease | None = None
        self._leasing = asyncio.Lock()
        self._session = aiohttp.ClientSession(
            timeout=_TIMEOUT,
            connector=aiohttp.TCPConnector(limit=32, keepalive_timeout=20),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,  # what is bounded is what comes, and it must not grow afterwards
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def put(self, data: bytes, *, content_type: str = "image/jpeg") -> str:
        """Store ``data`` and return its URL. Raises BlobError."""
        url = await self._next_url()
        try:
            async with self._session.put(
                url, data=_body(data), params=self._put_query, headers={"Content-Type": content_type}
            ) as answer:
                if answer.status >= 300:  # noqa: PLR2004
                    raise BlobError(f"{url}: HTTP {answer.status} {(await answer.text())[:200]}")
        except (aiohttp.ClientError, TimeoutError, OSError, BlobError) as error:
            self._lease = None  # the volume may be full, sealed or gone: ask the master anew
            raise BlobError(f"{url}: {error!r}") from error
        return url

    async def put_patiently(
        self, data: bytes, *, content_type: str = "image/jpeg", patience: float = 600.0
    ) -> str:
        """As ``put``, but wait for a store that is away, up to ``patience`` seconds."""
        deadline = time.monotonic() + patience
        delay = 0.05
        while True:
            try:
                return await self.put(data, content_type=content_type)
            except BlobError as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("SeaweedFS: %s; trying again", error)
            await asyncio.sleep(delay)
            delay = min(5.0, delay * 2)

    async def get(self, url: str) -> bytes:
        """Read a blob. Raises BlobMissing or BlobError."""
        try:
            async with self._session.get(url) as answer:
                if answer.status == 404:  # noqa: PLR2004
                    raise BlobMissing(f"{url}: nothing there (any more)")
                if answer.status >= 300:  # noqa: PLR2004
                    raise BlobError(f"{url}: HTTP {answer.status}")
                if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
                    raise BlobMissing(f"{url}: compressed ({encoding}), though it was asked for as it is")
                if (answer.content_length or 0) > MAX_BYTES:
                    raise BlobMissing(f"{url}: {answer.content_length} bytes are no frame")
                if answer.content_length is not None:
                    return await answer.read()
                data = bytearray()
                async for chunk in answer.content.iter_any():
                    data += chunk
                    if len(data) > MAX_BYTES:
                        raise BlobMissing(f"{url}: more than {MAX_BYTES} bytes are no frame")
                return bytes(data)
        except aiohttp.InvalidURL as error:
            raise BlobMissing(f"{url}: no address of a frame") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise BlobError(f"{url}: {error!r}") from error

    async def get_patiently(self, url: str, *, patience: float = 60.0) -> bytes:
        """As ``get``, but wait for a store that is away, up to ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while True:
            try:
                return await self.get(url)
            except BlobError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.5)

    async def delete(self, url: str) -> None:
        """Delete a blob; one that is not there is no error. Raises BlobError."""
        try:
            async with self._session.delete(url) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise BlobError(f"{url}: {error!r}") from error

    async def _next_url(self) -> str:
        async with self._leasing:
            url = self._lease.next() if self._lease else None
            if url is None:
                self._lease = await self._assign()
                url = self._lease.next()
        if url is None:
            raise BlobError(f"{self._master}: assigned no file ids")
        return url

    async def _assign(self) -> _Lease:
        try:
            async with self._session.get(f"{self._master}/dir/assign", params=self._query) as answer:
                body = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise BlobError(f"master_url {self._master}: {error!r}") from error
        if "fid" not in body:
            raise BlobError(f"master_url {self._master}: {body.get('error', body)}")
        base = self._volume or _with_scheme(body["publicUrl"])
        return _Lease(
            base,
            body["fid"],
            int(body.get("count", 1)),
            time.monotonic() + LEASE_SECONDS,
        )


def _body(data: bytes) -> bytes | io.BytesIO:
    """As aiohttp wants it: a large body in pieces."""
    return data if len(data) < LARGE_BYTES else io.BytesIO(data)


def _with_scheme(address: str) -> str:
    return (address if "://" in address else f"http://{address}").rstrip("/")
