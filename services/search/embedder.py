"""Texts as vectors: by the built-in model, or by a server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from openai import APIError
from tokenizers import Tokenizer

from framemesh import assets
from framemesh.errors import FramemeshError
from framemesh.llm.failures import explained
from framemesh.llm.server import Server
from framemesh.onnx import CPU, open_session
from framemesh.steps.functions import StepFailed
from services.search.passages import Vector
from services.search.settings import SearchSettings

MODEL, TOKENIZER = "minilm-int8", "minilm-tokenizer"
MOST_TOKENS = 256
"""What the model was trained for; what is longer is cut."""
BATCH = 16
SERVER_BATCH = 64


class Embedder(Protocol):
    """Makes vectors of one length, 1 long each."""

    name: str
    size: int

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """A vector a text. Raises StepFailed for what may pass, FramemeshError for what will not."""

    async def close(self) -> None:
        """Let go."""


class MiniLm:
    """all-MiniLM-L6-v2 with int8 weights (sentence-transformers): the mean over the tokens, by ONNX Runtime."""

    size = 384

    def __init__(self, threads: int) -> None:
        model = assets.resolve(MODEL)
        self.name = f"{MODEL}-{model.sha256[:8]}"
        self._session = open_session(model.path, threads, [CPU])
        self._tokenizer = _tokenizer(assets.resolve(TOKENIZER).path)
        self._turn = asyncio.Semaphore(1)

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """In batches of about the same length, so that little is padded."""
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        made: dict[int, Vector] = {}
        for begin in range(0, len(order), BATCH):
            batch = order[begin : begin + BATCH]
            async with self._turn:
                found = await asyncio.to_thread(self._run, [texts[at] for at in batch])
            made.update(zip(batch, found, strict=True))
        return [made[at] for at in range(len(texts))]

    async def close(self) -> None:
        """Nothing is open."""

    def _run(self, texts: Sequence[str]) -> list[Vector]:
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = np.array([each.ids for each in encoded], np.int64)
        mask = np.array([each.attention_mask for each in encoded], np.int64)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = np.asarray(self._session.run(None, given)[0])
        weights = mask[..., None].astype(np.float32)
        return list(_level((states * weights).sum(1)))


class Embeddings:
    """A server's embeddings; ``probe`` tells how long they are."""

    size = 0

    def __init__(self, server: Server) -> None:
        self._server, self._client = server, server.client()
        self.name = f"{server.model}"

    async def probe(self) -> None:
        """Ask for one. Raises StepFailed or FramemeshError."""
        self.size = len((await self._ask(["probe"]))[0])

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """In requests of some."""
        made: list[Vector] = []
        for begin in range(0, len(texts), SERVER_BATCH):
            made += await self._ask(texts[begin : begin + SERVER_BATCH])
        if any(len(vector) != self.size for vector in made):
            raise FramemeshError(
                f"setting embed_model: {self.name} gives vectors of several lengths: name another"
            )
        return made

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask(self, texts: Sequence[str]) -> list[Vector]:
        try:
            answer = await self._client.embeddings.create(
                model=self._server.model, input=list(texts), encoding_format="float"
            )
            found = sorted(answer.data, key=lambda each: each.index)
            vectors = np.array([each.embedding for each in found], np.float32)
        except APIError as error:
            raise explained(error, self._server) from None
        except (AttributeError, TypeError, ValueError):  # what the client hands on unread
            raise StepFailed(f"{self._server.url} gave no embeddings: is the address right?") from None
        if len(vectors) != len(texts):
            raise StepFailed(f"{self._server.url} gave {len(vectors)} vectors for {len(texts)} texts")
        if not vectors[0].size or not np.isfinite(vectors).all():
            raise StepFailed(f"{self._server.url} gave vectors without numbers")
        return list(_level(vectors))


async def open_embedder(settings: SearchSettings) -> Embedder:
    """By the settings. Raises FramemeshError or StepFailed."""
    if not settings.embed_base_url:
        return await asyncio.to_thread(MiniLm, settings.embed_threads)
    made = Embeddings(settings.embeddings)
    await made.probe()
    return made


def _tokenizer(path: Path) -> Tokenizer:
    made = Tokenizer.from_file(str(path))
    made.enable_truncation(MOST_TOKENS)
    made.enable_padding()  # to the longest of a batch
    return made


def _level(vectors: Vector) -> Vector:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)
