"""What the tests of search share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.messages import SearchKind, SearchReply, SearchRequest
from framemesh.registry import Registry
from framemesh.search import QUERY_S, request
from framemesh.steps.context import Context
from framemesh.subjects import SEARCH_QUERY
from services.search.search import Search
from services.search.settings import SearchSettings
from tests.integration.stepping import at_work

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SPEECH = [
    "We close the old bridge in March because of the rust.",
    "Swallows nest below its arches every spring.",
    "A ferry carries people on foot from six in the morning.",
    "The new name will be chosen by the pupils of the primary school.",
    "Halvorsen and Pryce drew the plans for nothing.",
]


def transcript(*texts: str) -> dict[str, Any]:
    """As ``transcribing`` stores it: each text from its own tenth second on."""
    segments = []
    for number, text in enumerate(texts):
        words = [
            {
                "text": word,
                "start": 10.0 * number + 0.3 * at,
                "end": 10.0 * number + 0.3 * (at + 1),
                "confidence": 0.9,
            }
            for at, word in enumerate(text.split())
        ]
        segments.append({"text": text, "start": 10.0 * number, "end": 10.0 * number + 9, "words": words})
    return {"language": "en", "duration_s": 10.0 * len(texts), "segments": segments}


def context(blobs: BlobStore) -> Context:
    """One try of a step."""

    async def silent(percent: float, text: str) -> None:
        """Nobody watches."""

    return Context("j1", "it", None, 1, "j1/it", logging.getLogger("step"), blobs, silent)


def settings(servers: Mapping[str, str], folder: Path, **more: Any) -> SearchSettings:
    """Of a service with an index of its own and short passages."""
    given = dict(servers) | {"search_path": str(folder / "search"), "chunk_words": 14, "chunk_overlap": 0}
    return SearchSettings.model_validate(given | {"instance": f"search-{folder.name}"} | more)


@asynccontextmanager
async def searching(bus: Bus, registry: Registry, given: SearchSettings) -> AsyncIterator[Search]:
    """A search service that works for the length of a block."""
    service = Search(given, bus, registry)
    async with at_work(service):
        yield service


@asynccontextmanager
async def embedding_server(handler: Handler) -> AsyncIterator[str]:
    """A server whose embeddings a handler answers; its base URL."""
    app = web.Application()
    app.router.add_post("/v1/embeddings", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def listed(vectors: Iterable[Any], model: str = "tiny") -> dict[str, Any]:
    """What such a server answers with these."""
    data = [{"object": "embedding", "index": at, "embedding": each} for at, each in enumerate(vectors)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


async def find(bus: Bus, q: str, kind: SearchKind | None = None, **more: Any) -> SearchReply:
    """What the service replies."""
    return await request(bus, SEARCH_QUERY, SearchRequest(q=q, kind=kind, **more), QUERY_S)
