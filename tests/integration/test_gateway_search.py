"""``GET /search`` and ``GET /ask`` of the gateway, with a search service and without one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.registry import Registry
from framemesh.tokens import Scope
from services.search.media import LocalLocks, MediaIndex
from tests.integration.gateways import Site, serving
from tests.integration.searches import SPEECH, context, searching, settings, transcript


@pytest.fixture
async def site(bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(bus, registry, servers, tmp_path) as made:
        yield made


async def test_passages_are_found_over_http(
    site: Site, bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path, blobs: BlobStore
) -> None:
    client = await site.client("ada", Scope.VIEWER)
    headers = {"Authorization": f"Bearer {client.token}"}

    async def get(path: str) -> tuple[int, dict[str, object]]:
        async with site.session.get(site.base + path, headers=headers) as answer:
            return answer.status, await answer.json()

    status, told = await get("/search?q=bridge")
    assert (status, told["type"]) == (503, "urn:framemesh:problem:unavailable")
    assert "framemesh run search" in str(told["detail"])
    given = settings(servers, tmp_path)
    async with searching(bus, registry, given) as service:
        index = MediaIndex(given, service._shelf, service._embedder, LocalLocks())
        made = await index.embed(context(blobs), {"media": "m1", "transcript": transcript(*SPEECH)})
        await index.index(context(blobs), {"media": "m1", "source": "town", "passages": made["passages"]})
        status, told = await get("/search?q=old+bridge&source=town&kind=transcript&since=1&limit=2")
        hits = told["hits"]
        assert status == 200
        assert isinstance(hits, list)
        assert (hits[0]["text"], hits[0]["start"], hits[0]["media"]) == (SPEECH[0], 0.0, "m1")
        given_to_bob = {"media": "m1", "source": "town", "passages": made["passages"], "owner": "bob"}
        await index.index(context(blobs), given_to_bob)
        assert await get("/search?q=old+bridge&kind=transcript") == (200, {"hits": []})
        headers["Authorization"] = f"Bearer {(await site.client('bob', Scope.VIEWER)).token}"
        status, told = await get("/search?q=old+bridge&kind=transcript")
        bobs = told["hits"]
        assert isinstance(bobs, list)
        assert bobs[:2] == hits  # nothing else of them has changed
        headers["Authorization"] = f"Bearer {(await site.client('root', Scope.ADMIN)).token}"
        assert (await get("/search?q=old+bridge&kind=transcript"))[1] == told
        status, told = await get("/search?q=%D0%BC%D0%BE%D1%81%D1%82+%ED%A0%80%00&kind=event")
        assert (status, told) == (200, {"hits": []})
        for query, field in (("", "q"), ("q=...", "q"), ("q=x&kind=film", "kind"), ("q=x&since=soon", "since")):
            status, told = await get(f"/search?{query}")
            assert (status, told["field"]) == (400, field)
        status, told = await get("/ask?q=when")
        assert (status, told["type"]) == (501, "urn:framemesh:problem:not-configured")
        assert "gpt_base_url and gpt_api_key are not set" in str(told["detail"])
