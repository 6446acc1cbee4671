"""Carries the end of a window to the next one, which any replica may have: one small key in Redis, for minutes.

A window waits a moment for the one before it, which is on its way as a rule; meanwhile the model goes on. Where
that one does not come, or Redis is away, ``stitch`` does without it.
"""

from __future__ import annotations

import asyncio
import logging

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from framemesh.messages import AudioTask, Segment
from services.transcribe.stitch import Tail, Window, stitch, tail

log = logging.getLogger(__name__)

KEPT_S = 600
PATIENCE_S = 5.0
POLL_S = 0.05
ANSWER_S = 1.0


class Memory:
    """Stitches the windows that this and other replicas of ``kind`` transcribe."""

    def __init__(self, redis: Redis, kind: str, patience: float = PATIENCE_S) -> None:
        self._redis = redis
        self._kind = kind
        self._patience = patience
        self._away = False

    async def stitched(self, found: list[Segment], task: AudioTask) -> list[Segment]:
        """What this window gives: no word twice, and none that the next window gives."""
        window = Window.of(task)
        if window.tail:  # before waiting, or each window would wait for all before it
            await self._remember(task, tail(found, window))
        return stitch(found, window, await self._before(task) if window.overlap else None)

    async def _remember(self, task: AudioTask, end: Tail) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._redis.set(self._key(task, task.nth), end.model_dump_json(), ex=KEPT_S)
        except (RedisError, TimeoutError) as error:
            self._say_away(error)

    async def _before(self, task: AudioTask) -> Tail | None:
        """The end of the window before, as soon as it is known; None when it does not come."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while True:
            try:
                async with asyncio.timeout(ANSWER_S):
                    found = await self._recall(task)
            except (RedisError, TimeoutError) as error:
                self._say_away(error)
                return None
            self._away = False
            if found or loop.time() >= deadline:
                return found
            await asyncio.sleep(POLL_S)

    async def _recall(self, task: AudioTask) -> Tail | None:
        end = _parse(await self._redis.get(self._key(task, task.nth - 1)))
        # The clock may have been set between the two: where one ends the overlap ends, whatever they say.
        return end and end.moved(task.timestamp + task.overlap - end.end)

    def _key(self, task: AudioTask, number: int) -> str:
        channel = "all" if task.channel is None else str(task.channel)
        return f"stitch:{self._kind}:{task.source}:{task.run}:{channel}:{number}"

    def _say_away(self, error: Exception) -> None:
        if not self._away:
            log.warning(
                "Redis does not answer, words at the edges of windows may suffer: %s", error or "time is up"
            )
        self._away = True


def _parse(value: str | bytes | None) -> Tail | None:
    try:
        return Tail.model_validate_json(value) if value else None
    except ValidationError:
        return None
