"""What steps store while the store itself is away, or makes room."""

from __future__ import annotations

import asyncio

import pytest

from framemesh.blobs import BlobError, BlobMissing, BlobStore
from framemesh.steps import files
from tests.samples import OwnServer


async def test_a_store_that_starts_again_costs_no_try(own_seaweed: OwnServer) -> None:
    async with BlobStore(own_seaweed.environment["master_url"], collection="jobs", ttl="30d") as blobs:
        url = await files.put(blobs, b"before")
        await own_seaweed.kill()
        with pytest.raises(BlobError):
            await blobs.put(b"at once")
        waiting = asyncio.gather(files.put(blobs, b"meanwhile"), files.get(blobs, url))
        await own_seaweed.server.start()
        put, got = await waiting
        assert (got, await blobs.get(put)) == (b"before", b"meanwhile")
        with pytest.raises(BlobMissing):
            await files.get(blobs, url[:-8] + "00000000")


async def test_the_first_to_store_in_a_collection_at_once_all_find_room(own_seaweed: OwnServer) -> None:
    stores = [
        BlobStore(own_seaweed.environment["master_url"], collection=f"new{number % 4}", ttl=f"{number % 4 + 1}d")
        for number in range(24)
    ]
    urls = await asyncio.gather(*(files.put(store, b"first") for store in stores))
    assert {await store.get(url) for store, url in zip(stores, urls, strict=True)} == {b"first"}
    await asyncio.gather(*(store.close() for store in stores))
