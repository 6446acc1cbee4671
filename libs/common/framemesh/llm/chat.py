"""One question to the language model, its answer streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, cast

from openai import APIError, APIStatusError, AsyncStream
from openai.types.chat import ChatCompletionChunk

from framemesh.errors import FramemeshError
from framemesh.llm.dialect import Dialect, Form
from framemesh.llm.failures import explained, words
from framemesh.llm.prompts import Prompts
from framemesh.llm.server import Server
from framemesh.llm.tokens import estimate
from framemesh.llm.usage import Usage
from framemesh.steps.functions import StepFailed

LONGEST_ANSWER = 512 * 1024
"""Characters; a server that minds no limit must not fill the memory."""
_REFUSED = {400, 422}


class Turn(TypedDict):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Heard = Callable[[int], Awaitable[None]]
"""Is told how many characters of the answer have come."""


@dataclass(frozen=True)
class Said:
    """An answer."""

    text: str
    model: str
    form: Form
    usage: Usage


@dataclass
class _Reply:
    """An answer that is coming."""

    model: str = ""
    pieces: list[str] = field(default_factory=list)
    length: int = 0
    refusal: str = ""
    finish: str | None = None
    counts: tuple[int, int] | None = None

    def take(self, chunk: ChatCompletionChunk) -> None:
        """Add a chunk. Servers differ in what they leave out, so anything may be missing."""
        self.model = getattr(chunk, "model", None) or self.model
        if usage := getattr(chunk, "usage", None):
            self.counts = (usage.prompt_tokens or 0, usage.completion_tokens or 0)
        for choice in (getattr(chunk, "choices", None) or [])[:1]:
            self.finish = choice.finish_reason or self.finish
            if delta := choice.delta:
                self._add(delta.content or "")
                self.refusal += getattr(delta, "refusal", None) or ""

    def _add(self, text: str) -> None:
        self.length += len(text)
        if text:
            self.pieces.append(text)


class Chat:
    """A language model on its server. What that refused once it is not sent again.

    Of ``prompts`` it takes ``schema``, for a server that takes the answer's schema in words only.
    """

    def __init__(self, server: Server, max_tokens: int, prompts: Prompts) -> None:
        self._server, self._most, self._prompts = server, max_tokens, prompts
        self._dialect = Dialect()
        self._client = server.client()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, turns: list[Turn], schema: dict[str, Any], heard: Heard) -> Said:
        """The answer to a conversation. Raises StepFailed for what may pass, FramemeshError for what will not."""
        dialect = self._dialect
        while True:
            sent = turns if dialect.form is Form.SCHEMA else self._with_schema(turns, schema)
            try:
                reply = await self._listen(sent, dialect.options(schema, self._most), heard)
            except APIStatusError as error:
                refused = error.status_code in _REFUSED
                weaker = dialect.without(f"{error.param} {words(error, self._server)}") if refused else None
                if weaker is None:
                    raise explained(error, self._server) from None
                dialect = weaker
            except APIError as error:
                raise explained(error, self._server) from None
            else:
                self._dialect = dialect
                return self._said(reply, sent, dialect.form)

    async def _listen(self, turns: list[Turn], options: dict[str, Any], heard: Heard) -> _Reply:
        reply, patience = _Reply(), self._server.timeout
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(patience) as limit, await self._begin(turns, options) as stream:
                self._check_kind(stream)
                async for chunk in stream:
                    # By chunks, not by bytes: some servers send comments for ever to keep a connection open.
                    limit.reschedule(loop.time() + patience)
                    reply.take(chunk)
                    if reply.length > LONGEST_ANSWER:
                        raise StepFailed(f"the answer has more than {LONGEST_ANSWER} characters", retry=False)
                    await heard(reply.length)
        except TimeoutError:
            raise StepFailed(f"{self._server.url} stalled: no word for gpt_timeout, {patience:g} s") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StepFailed(f"{self._server.url} sent an event that is not JSON: {error}") from None
        return reply

    async def _begin(self, turns: list[Turn], options: dict[str, Any]) -> AsyncStream[ChatCompletionChunk]:
        made = await self._client.chat.completions.create(
            model=self._server.model, messages=cast(Any, turns), stream=True, **options
        )
        return cast(AsyncStream[ChatCompletionChunk], made)

    def _check_kind(self, stream: AsyncStream[ChatCompletionChunk]) -> None:
        kind = stream.response.headers.get("content-type", "nothing").partition(";")[0]
        if kind != "text/event-stream":
            raise FramemeshError(
                f"setting gpt_base_url: {self._server.url} answers with {kind[:60]}, not a stream: "
                "give the address of an OpenAI-compatible server, mostly with /v1 at its end"
            )

    def _with_schema(self, turns: list[Turn], schema: dict[str, Any]) -> list[Turn]:
        """The conversation with the schema in words, for a server that does not take it otherwise."""
        first, *others = turns
        told = self._prompts.fill("schema", schema=json.dumps(schema, ensure_ascii=False))
        return [{"role": first["role"], "content": first["content"] + told}, *others]

    def _said(self, reply: _Reply, turns: list[Turn], form: Form) -> Said:
        text, server = "".join(reply.pieces), self._server
        if reply.refusal:
            raise StepFailed(f"the model refuses: {' '.join(reply.refusal.split())[:300]}", retry=False)
        match reply.finish:
            case None:
                raise StepFailed(f"{server.url} broke off after {len(text)} characters of the answer")
            case "length":
                raise FramemeshError(f"setting gpt_max_tokens: the answer needs more than {self._most}: raise it")
            case "content_filter":
                raise StepFailed("the server's content filter held the answer back", retry=False)
        return Said(text, reply.model or server.model, form, _usage(reply, turns, text))


def _usage(reply: _Reply, turns: list[Turn], text: str) -> Usage:
    if reply.counts and any(reply.counts):
        return Usage(1, *reply.counts)
    return Usage(1, sum(estimate(turn["content"]) + 4 for turn in turns), estimate(text), 1)
