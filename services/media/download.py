"""One file over HTTP: bounded in bytes and time, gone on with after a broken connection, from public addresses."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import aiohttp
from yarl import URL

from framemesh import __version__
from framemesh.delays import asked_for
from framemesh.errors import FramemeshError
from framemesh.steps.functions import StepFailed
from services.media.addresses import Guard

MOST_REDIRECTS = 5
MOST_BREAKS = 4
"""Broken connections in a row that brought nothing new."""
REST_S = 0.25
CHUNK = 1 << 18
SAY_S = 0.5
CONNECT_S = 15.0
SILENCE_S = 30.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_MIB = 1 << 20

Say = Callable[[int, int | None], Awaitable[None]]
"""Told how many bytes there are, and how many there will be."""


@dataclass(frozen=True)
class Limits:
    """What is fetched at most."""

    max_bytes: int
    seconds: float
    allow_private: bool = False


class _Broken(Exception):
    """The connection broke, or what came does not go on from what there is."""


async def download(url: str, path: Path, limits: Limits, say: Say) -> str:
    """Fetch ``url`` to ``path``; returns the type that the server gives it.

    Raises FramemeshError for what no other try mends, StepFailed for what one may.
    """
    guard = Guard(allow_private=limits.allow_private)
    try:
        async with asyncio.timeout(limits.seconds), _session(guard) as session:
            return await _Download(session, guard, _address(url), path, limits, say).run()
    except TimeoutError as error:
        raise FramemeshError(
            f"input.url: {shown(url)} took longer than {limits.seconds:g} s: "
            "give a faster server or a smaller video, or raise download_timeout"
        ) from error


def shown(url: str | URL) -> str:
    """An address as it may be logged: without user, password, query and fragment, which may hold secrets."""
    try:
        known = URL(url)
        host = known.raw_host or ""
        port = "" if known.is_default_port() or known.explicit_port is None else f":{known.explicit_port}"
    except ValueError:
        return "the address"
    return f"{known.scheme}://{f'[{host}]' if ':' in host else host}{port}{known.path}"[:500]


def _address(url: str) -> URL:
    try:
        address = URL(url)
        valid = address.scheme in {"http", "https"} and bool(address.raw_host)
    except ValueError:
        valid = False
    if not valid:
        raise FramemeshError(f"input.url: {shown(url)}: want http:// or https:// and a host")
    return address


@asynccontextmanager
async def _session(guard: Guard) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    connector = aiohttp.TCPConnector(socket_factory=guard, use_dns_cache=False)
    # As it is: what is resumed, counted and kept are the bytes of the file.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"framemesh/{__version__}"}
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers, auto_decompress=False, trust_env=False
    ) as session:
        yield session


class _Download:
    """A file on its way."""

    def __init__(
        self, session: aiohttp.ClientSession, guard: Guard, url: URL, path: Path, limits: Limits, say: Say
    ) -> None:
        self._session = session
        self._guard = guard
        self._url = url
        self._path = path
        self._limits = limits
        self._say = say
        self._name = shown(url)
        self._have = 0
        self._furthest = 0
        self._total: int | None = None
        self._validator = ""
        self._breaks = 0
        self._said = 0.0

    async def run(self) -> str:
        """Fetch all of it, with as many connections as it takes; the type that the server gives it."""
        self._path.touch()
        while True:
            try:
                return await self._fetch()
            except (_Broken, aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                await self._rest(error)

    async def _fetch(self) -> str:
        self._guard.refused = ""
        answer = await self._answer()
        try:
            if self._begin(answer):
                await self._take(answer)
            return answer.content_type
        finally:
            answer.close()

    async def _rest(self, error: Exception) -> None:
        """Wait before the next connection; raise when it is no use."""
        if self._guard.refused and isinstance(error, aiohttp.ClientConnectorError):
            raise FramemeshError(
                f"input.url: {self._name}: {self._guard.refused}: give a public one, "
                "or set allow_private_addresses"
            ) from error
        if isinstance(error, aiohttp.InvalidURL):
            raise FramemeshError(f"input.url: {self._name}: {error.description or 'no address'}") from error
        self._breaks = 0 if self._have > self._furthest else self._breaks + 1
        self._furthest = max(self._furthest, self._have)
        if self._breaks >= MOST_BREAKS:
            raise StepFailed(f"input.url: {self._name}: {self._why(error)}") from error
        if not self._validator:  # who knows whether it is still the same file
            self._have = 0
        await asyncio.sleep(REST_S * 2**self._breaks)

    def _why(self, error: Exception) -> str:
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return "there is no such host: check the address"
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return "its certificate is not valid: check the address"
        if isinstance(error, aiohttp.ClientConnectorError):
            return f"cannot be connected to ({error.strerror or 'no answer'}): check host and port"
        of = f" of {self._total}" if self._total is not None else ""
        return f"the connection breaks again and again, after {self._furthest}{of} bytes: check the server"

    # -- an answer ----------------------------------------------------------------------------------

    async def _answer(self) -> aiohttp.ClientResponse:
        """What the server says, after its redirects: each goes through the guard as well."""
        url = self._url
        for _ in range(MOST_REDIRECTS + 1):
            answer = await self._session.get(url, headers=self._headers(), allow_redirects=False)
            place = answer.headers.get("Location", "")
            if answer.status not in _REDIRECTS or not place:
                return answer
            answer.close()
            url = self._redirected(url, place)
        raise FramemeshError(
            f"input.url: {self._name}: more than {MOST_REDIRECTS} redirects: give the last address"
        )

    def _redirected(self, url: URL, place: str) -> URL:
        try:
            return _address(str(url.join(URL(place))))
        except (ValueError, FramemeshError):
            raise FramemeshError(
                f"input.url: {self._name}: it leads to {shown(place)}, which is not fetched: want http or https"
            ) from None

    def _headers(self) -> dict[str, str]:
        if not self._have:
            return {}
        return {"Range": f"bytes={self._have}-", "If-Range": self._validator}

    def _begin(self, answer: aiohttp.ClientResponse) -> bool:
        """Take note of an answer; whether there is more to come. Raises what ends the download, or _Broken."""
        if answer.status == HTTPStatus.OK:
            self._have, self._total = 0, answer.content_length
            self._validator = _validator(answer)
        elif answer.status == HTTPStatus.PARTIAL_CONTENT and self._have:
            self._check_range(answer)
        elif answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self._have:
            if _range(answer)[1] == self._have:
                return False
            self._start_again("there is no such part of it")
        else:
            self._refuse(answer)
        if self._total is not None and self._total > self._limits.max_bytes:
            raise self._too_large(self._total)
        return True

    def _check_range(self, answer: aiohttp.ClientResponse) -> None:
        first, total = _range(answer)
        if first != self._have or (total is not None and self._total is not None and total != self._total):
            self._start_again("the server gave another part")
        if _validator(answer) not in {"", self._validator}:  # it did not look at If-Range
            self._start_again("it is another file now")
        self._total = self._total if total is None else total

    def _start_again(self, why: str) -> None:
        self._have, self._total, self._validator = 0, None, ""
        raise _Broken(why)

    def _refuse(self, answer: aiohttp.ClientResponse) -> None:
        said = f"input.url: {self._name}: the server says {answer.status} {answer.reason or ''}".rstrip()
        if answer.status in _LATER:
            raise StepFailed(said, delay=asked_for(answer.headers))
        raise FramemeshError(f"{said}: check the address and whether anybody may read it")

    def _too_large(self, size: int) -> FramemeshError:
        return FramemeshError(
            f"input.url: {self._name}: {size} bytes or more, {self._limits.max_bytes // _MIB} MiB are allowed: "
            "give a smaller video, or raise media_max_mb"
        )

    # -- its bytes ----------------------------------------------------------------------------------

    async def _take(self, answer: aiohttp.ClientResponse) -> None:
        with self._path.open("r+b") as file:
            file.truncate(self._have)
            file.seek(self._have)
            async for chunk in answer.content.iter_chunked(CHUNK):
                if self._have + len(chunk) > self._limits.max_bytes:
                    raise self._too_large(self._have + len(chunk))
                file.write(chunk)
                self._have += len(chunk)
                await self._tell()
        if self._total is not None and self._have < self._total:
            raise _Broken("the server ended it early")
        if self._total is not None and self._have > self._total:
            self._start_again("the server gave more than it said")

    async def _tell(self) -> None:
        if time.monotonic() - self._said >= SAY_S:
            self._said = time.monotonic()
            await self._say(self._have, self._total)


def _validator(answer: aiohttp.ClientResponse) -> str:
    """What tells whether the file is still the same: a strong ETag, or when it was changed; else nothing."""
    tag = answer.headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    return answer.headers.get("Last-Modified", "")


def _range(answer: aiohttp.ClientResponse) -> tuple[int | None, int | None]:
    """First byte and size of the whole, as Content-Range says."""
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if not found:
        return None, None
    first, _, total = found.groups()
    return None if first is None else int(first), None if total == "*" else int(total)
