"""A bucket of an S3 store, such as SeaweedFS's: objects by keys, which can be listed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from framemesh.blobs import BlobError, BlobMissing
from framemesh.tasks import finished

PAGE = 1000
_OPTIONS: Any = {"allow_http": True, "connect_timeout": "3s", "timeout": "30s"}
_RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
_SOON = timedelta(minutes=1)
_TAKEN = 409
AGAIN_S = 0.5
BREAK_OFF_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """An object in a listing."""

    key: str
    bytes: int
    modified: float
    """Seconds since the epoch, by the store's clock, whole seconds."""


class Bucket:
    """One bucket. ``access_key`` is empty for a store without accounts."""

    def __init__(self, url: str, name: str, access_key: str = "", secret_key: str = "") -> None:
        self.name, self._url = name, url.rstrip("/")
        keys: Any = {"skip_signature": True}
        if access_key:
            keys = {"access_key_id": access_key, "secret_access_key": secret_key}
        self._signed = bool(access_key)
        self._store = S3Store(
            name, endpoint=self._url, region="us-east-1", virtual_hosted_style_request=False,
            client_options=_OPTIONS, retry_config=_RETRY, **keys,
        )  # fmt: skip

    async def create(self, patience: float = 0.0) -> None:
        """Make the bucket where there is none; wait up to ``patience`` seconds for a store that is away.

        Raises BlobError.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return await self._create()
            except (aiohttp.ClientError, OSError) as error:
                if time.monotonic() > deadline:
                    raise BlobError(f"s3_url {self._url}: {error!r}") from error
            await asyncio.sleep(AGAIN_S)

    async def _create(self) -> None:
        address = obstore.sign(self._store, "PUT", "", _SOON) if self._signed else f"{self._url}/{self.name}"
        async with aiohttp.ClientSession() as session, session.put(address) as answer:
            if answer.status >= 500:  # noqa: PLR2004 - it is only starting
                answer.raise_for_status()
            if answer.status >= 300 and answer.status != _TAKEN:  # noqa: PLR2004
                raise BlobError(f"bucket {self.name}: HTTP {answer.status} {(await answer.text())[:200]}")

    def url(self, key: str) -> str:
        """Where an object is."""
        return f"{self._url}/{self.name}/{key}"

    async def put(self, key: str, data: bytes | Path, content_type: str) -> None:
        """Store bytes, or a file of any size, as an object. Raises BlobError.

        Bytes go in one request, so that nothing stays of what is broken off; of a file parts may stay.
        """
        kind, parts = {"Content-Type": content_type}, None if isinstance(data, Path) else False
        await self._asked(key, obstore.put_async(self._store, key, data, attributes=kind, use_multipart=parts))

    async def get(self, key: str) -> bytes:
        """Read an object. Raises BlobMissing or BlobError."""
        found = await self._asked(key, obstore.get_async(self._store, key))
        return bytes(await self._asked(key, found.bytes_async()))

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is not there is no error. Raises BlobError."""
        if keys:
            await self._asked(keys[0], obstore.delete_async(self._store, list(keys)))

    async def pages(self, after: str = "", within: str = "") -> AsyncIterator[list[Entry]]:
        """All objects in the order of their keys, ``PAGE`` at a time, from after a key; or those within a folder.

        Raises BlobError.
        """
        listed = obstore.list(self._store, within or None, offset=after or None, chunk_size=PAGE)
        while True:
            try:
                # A listing that goes with its answer on the way panics: it wants its thread of Tokio's for that.
                found = await finished(anext(listed, None), BREAK_OFF_S)
            except BaseError as error:
                raise _failed(self.name, error) from error
            if found is None:
                return
            yield [Entry(each["path"], each["size"], each["last_modified"].timestamp()) for each in found]

    async def _asked(self, key: str, work: Awaitable[T]) -> T:
        try:
            return await work
        except FileNotFoundError:
            raise BlobMissing(f"bucket {self.name}: nothing under {key} (any more)") from None
        except BaseError as error:
            raise _failed(self.name, error) from error


def _failed(name: str, error: Exception) -> BlobError:
    return BlobError(f"bucket {name}: {str(error).partition(chr(10))[0]}")
