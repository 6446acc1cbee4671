"""A real HTTP server that speaks the chat completions protocol, for the tests of what asks a language model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

MODEL = "tiny-1"
Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    made = {
        "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": f"{MODEL}-2026",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }  # fmt: skip
    return event(made | more)


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


async def begin(request: web.Request) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await stream.prepare(request)
    return stream


def says(
    value: Any,
    *,
    usage: tuple[int, int] | None = (120, 45),
    finish: str = "stop",
    pause: float = 0,
    size: int = 40,
) -> Reply:
    """Streams a text, or a value as JSON, in pieces."""
    text = value if isinstance(value, str) else json.dumps(value)

    async def reply(request: web.Request) -> web.StreamResponse:
        stream = await begin(request)
        await stream.write(chunk("", choices=[{"index": 0, "delta": {"role": "assistant"}}]))
        for at in range(0, len(text), size):
            await stream.write(chunk(text[at : at + size]))
            await asyncio.sleep(pause)
        await stream.write(chunk(None, finish))
        if usage:
            counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
            await stream.write(chunk(choices=[], usage=counts))
        await stream.write(b"data: [DONE]\n\n")
        return stream

    return reply


def fails(status: int, message: str = "no", headers: dict[str, str] | None = None, **error: Any) -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        body = {
            "error": {"message": message, "type": "invalid_request_error", "param": None, "code": None} | error
        }
        return web.json_response(body, status=status, headers=headers)

    return reply


class ModelServer:
    """Answers as it is told, one reply a request, the last one for ever; it keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.gone = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("Authorization", ""))
        self.headers.append(dict(request.headers))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        try:
            return await reply(request)
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise

    def told(self, number: int = -1) -> str:
        return "\n".join(turn["content"] for turn in self.asked[number]["messages"])


@asynccontextmanager
async def serving() -> AsyncIterator[ModelServer]:
    server = ModelServer()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
