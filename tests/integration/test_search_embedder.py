"""A server's embeddings: whatever it answers is vectors, or an error that says what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from pydantic import SecretStr

from framemesh.errors import FramemeshError
from framemesh.llm.server import Server
from framemesh.steps.functions import StepFailed
from services.search.embedder import Embeddings
from tests.integration.searches import Handler, embedding_server, listed


@asynccontextmanager
async def embeddings(handler: Handler) -> AsyncIterator[Embeddings]:
    """Those of a server that answers so."""
    async with embedding_server(handler) as url:
        made = Embeddings(Server("embed", url, SecretStr("k"), "tiny", 5.0))
        try:
            yield made
        finally:
            await made.close()


def vectors(*found: Any) -> web.Response:
    """An answer with these."""
    return web.json_response(listed(found))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (web.Response(text="<html>hello</html>", content_type="text/html"), "gave no embeddings"),
        (web.Response(text="{", content_type="application/json"), "gave no embeddings"),
        (web.json_response({"detail": "no"}), "gave no embeddings"),
        (vectors(), "gave 0 vectors for 2 texts"),
        (vectors([1.0, 2.0]), "gave 1 vectors for 2 texts"),
        (vectors([1.0, 2.0], [1.0, 2.0], [1.0, 2.0]), "gave 3 vectors for 2 texts"),
        (vectors([1.0, 2.0], [1.0]), "gave no embeddings"),
        (vectors([1.0, None], [1.0, 2.0]), "gave vectors without numbers"),
        (vectors([], []), "gave vectors without numbers"),
        (web.json_response({}, status=429, headers={"Retry-After": "7"}), "answers HTTP 429"),
        (web.json_response({}, status=503), "answers HTTP 503"),
    ],
)
async def test_what_is_no_vectors_is_tried_again(answer: web.Response, said: str) -> None:
    async def handle(call: web.Request) -> web.StreamResponse:
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)

    async with embeddings(handle) as server:
        with pytest.raises(StepFailed, match=said) as failed:
            await server.embed(["one", "two"])
    assert failed.value.delay == (7.0 if answer.status == 429 else None)


async def test_vectors_of_another_length_than_at_first_are_refused() -> None:
    answers = iter([vectors([3.0, 4.0]), vectors([3.0, 4.0]), vectors([1.0, 2.0, 3.0])])

    async def handle(call: web.Request) -> web.StreamResponse:
        return next(answers)

    async with embeddings(handle) as server:
        await server.probe()
        assert server.size == 2
        (vector,) = await server.embed(["one"])
        assert np.allclose(vector, [0.6, 0.8])
        with pytest.raises(FramemeshError, match="setting embed_model: tiny gives vectors of several lengths"):
            await server.embed(["two"])
