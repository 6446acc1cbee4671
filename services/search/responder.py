"""Answers those who ask over NATS: each request by itself, so many at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from pydantic import ValidationError

from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.messages import SearchReply, SearchRequest, SearchTrouble
from framemesh.pull import invalid
from framemesh.steps.functions import StepFailed
from framemesh.subjects import SEARCHERS
from services.search.answers import troubled

log = logging.getLogger(__name__)

Reply = Callable[[SearchRequest], Awaitable[SearchReply]]
MOST_WAITING = 256


class Responder:
    """Answers on one subject."""

    def __init__(self, reply: Reply, at_a_time: int, seconds: float) -> None:
        self._reply, self._seconds = reply, seconds
        self._turns = asyncio.Semaphore(at_a_time)
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, bus: Bus, subject: str) -> None:
        """Begin; replicas share the requests."""
        self._subscription = await bus.client.subscribe(subject, queue=SEARCHERS, cb=self._on_request)

    async def close(self) -> None:
        """Hear no more, and let go of what is under way."""
        with contextlib.suppress(NatsError):
            await self._subscription.unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_request(self, msg: Msg) -> None:
        if len(self._tasks) >= MOST_WAITING:
            await self._send(
                msg, SearchReply(trouble=SearchTrouble.AWAY, reason="too many ask at once: try later")
            )
            return
        task = asyncio.create_task(self._answer(msg))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, msg: Msg) -> None:
        try:
            async with asyncio.timeout(self._seconds), self._turns:
                reply = await self._reply(SearchRequest.model_validate_json(msg.data))
        except ValidationError as error:
            reply = SearchReply(trouble=SearchTrouble.FAILED, reason=invalid(SearchRequest, error))
        except TimeoutError:
            reply = SearchReply(trouble=SearchTrouble.AWAY, reason=f"no answer within {self._seconds:g} s")
        except (StepFailed, FramemeshError) as error:
            log.warning("%s: %s", msg.subject, error)
            reply = troubled(error)
        except Exception:
            log.exception("%s failed", msg.subject)
            reply = SearchReply(trouble=SearchTrouble.AWAY, reason="the search service failed; its log says more")
        await self._send(msg, reply)

    async def _send(self, msg: Msg, reply: SearchReply) -> None:
        try:
            await msg.respond(reply.model_dump_json().encode())
        except MaxPayloadError:
            too_long = "limit: so many passages fit into no message: ask for fewer"
            await self._send(msg, SearchReply(trouble=SearchTrouble.FAILED, reason=too_long))
        except NatsError as error:
            log.warning("%s: nobody could be answered: %r", msg.subject, error)
