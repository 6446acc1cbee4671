"""Frames in a real SeaweedFS."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Mapping
from contextlib import suppress

import aiohttp
import pytest

from framemesh.blobs import BlobError, BlobMissing, BlobStore
from framemesh.embedded import HOST, free_port
from tests.samples import OwnServer, until


def key(url: str) -> str:
    """The file id that the master assigned: ``3,01637037d6`` of ``http://…/3,01637037d6_5``."""
    return url.rpartition("/")[2].partition("_")[0]


async def test_a_blob_reads_as_it_was_written_until_it_is_deleted(blobs: BlobStore) -> None:
    url = await blobs.put(b"\xff\xd8 a frame")
    assert await blobs.get(url) == b"\xff\xd8 a frame"
    await blobs.delete(url)
    with pytest.raises(BlobMissing, match="nothing there"):
        await blobs.get(url)
    await blobs.delete(url)  # once more is no error


async def test_an_unknown_id_is_missing(blobs: BlobStore) -> None:
    url = await blobs.put(b"x")
    with pytest.raises(BlobMissing):
        await blobs.get(url.replace(key(url), key(url).partition(",")[0] + ",ffffffff00000000"))


async def test_a_thousand_blobs_at_once_read_back_right_under_few_leases(blobs: BlobStore) -> None:
    wanted = [b"%06d" % i * 20 for i in range(1000)]
    urls = await asyncio.gather(*(blobs.put(data) for data in wanted))
    assert len(set(urls)) == 1000
    assert len({key(url) for url in urls}) <= 1000 / 64 + 2
    assert await asyncio.gather(*(blobs.get(url) for url in urls)) == wanted


async def test_a_time_to_live_and_a_collection_reach_the_store(servers: Mapping[str, str]) -> None:
    async with (
        BlobStore(servers["master_url"], ttl="3m", collection="short", lease=4) as short,
        BlobStore(servers["master_url"], lease=1, collection="for-ever") as ever,
        aiohttp.ClientSession() as session,
    ):
        volumes = {key(await short.put(b"x")).partition(",")[0] for _ in range(4)}
        kept = key(await ever.put(b"x")).partition(",")[0]
        async with session.get(f"{servers['volume_url']}/status") as answer:
            found = {str(volume["Id"]): volume for volume in (await answer.json())["Volumes"]}
    assert volumes
    for volume in volumes:
        assert found[volume]["Collection"] == "short"
        assert found[volume]["Ttl"] == {"Count": 3, "Unit": 1}  # SeaweedFS counts minutes as unit 1
    assert found[kept]["Collection"] == "for-ever"
    assert not (found[kept]["Ttl"] or {}).get("Count")


async def test_a_volume_address_of_the_settings_is_used(servers: Mapping[str, str]) -> None:
    address = servers["volume_url"].removeprefix("http://")
    async with BlobStore(servers["master_url"], volume_url=address) as store:
        assert (await store.put(b"x")).startswith(f"http://{address}/")


async def test_a_store_that_is_not_there_is_named() -> None:
    async with BlobStore(f"{HOST}:{free_port()}") as store:
        with pytest.raises(BlobError, match=r"master_url http://127\.0\.0\.1"):
            await store.put(b"x")
        with pytest.raises(BlobError):
            await store.get(f"http://{HOST}:{free_port()}/1,01")
        with pytest.raises(BlobError):
            await store.put_patiently(b"x", patience=0.2)


async def test_a_frame_waits_for_a_store_that_is_away(own_seaweed: OwnServer) -> None:
    environment = own_seaweed.environment
    async with BlobStore(environment["master_url"], ttl="15m") as store:
        before = await store.put(b"before")
        await own_seaweed.stop()
        with pytest.raises(BlobError):
            await store.put(b"lost")
        putting = asyncio.gather(*(store.put_patiently(b"%d" % i) for i in range(20)))
        await asyncio.sleep(1)
        assert not putting.done()
        await own_seaweed.start()
        begun = time.monotonic()
        urls = await putting
        assert time.monotonic() - begun < 10
        assert await asyncio.gather(*(store.get(url) for url in urls)) == [b"%d" % i for i in range(20)]
        assert await store.get(before) == b"before"


async def test_sound_that_the_store_compresses_reads_as_it_was_written(blobs: BlobStore) -> None:
    """SeaweedFS keeps ``audio/wav`` gzipped, and answers so whoever lets it."""
    silence = bytes(200_000)
    url = await blobs.put(silence, content_type="audio/wav")
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(url, headers={"Accept-Encoding": "gzip"}) as answer,
    ):
        assert answer.headers["Content-Encoding"] == "gzip"
    assert await blobs.get(url) == silence


async def test_a_small_answer_that_would_grow_large_is_refused() -> None:
    """A claim check may point at a server that sends compressed what nobody asked for so."""
    body = gzip.compress(bytes(100 << 20))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        with suppress(ConnectionError):
            writer.write(head % len(body) + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}/1,2"
    async with server, BlobStore("http://127.0.0.1:1") as store:
        with pytest.raises(BlobMissing, match="compressed"):
            await store.get(url)


async def test_an_answer_that_comes_in_pieces_is_read_to_its_end_and_no_further_than_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As behind a proxy, which need not say how long an answer is."""
    answered = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # of the client that has had enough
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
            for _ in range(20):
                writer.write(b"1388\r\n" + b"x" * 5000 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0.005)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        nonlocal answered
        answered += 1

    async def both() -> bool:
        return answered == 2

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/1,2"
    async with server, BlobStore("http://127.0.0.1:1") as store:
        assert await store.get(url) == b"x" * 100_000
        monkeypatch.setattr("framemesh.blobs.MAX_BYTES", 50_000)
        with pytest.raises(BlobMissing, match="more than 50000 bytes"):
            await store.get(url)
        await until(both)
