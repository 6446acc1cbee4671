"""The continuous pull: requests kept outstanding on one inbox, refilled below a low-water mark."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nats.errors import Error as NatsError
from nats.js.api import AckPolicy
from pydantic import ValidationError

from framemesh.messages import Message
from framemesh.telemetry import CONSUMED

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from framemesh.bus import Bus
    from framemesh.subjects import Consumer

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

EXPIRES = 30.0
HEARTBEAT = 5.0
MAX_BACKOFF = 30.0
STOP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Meta:
    """What a delivery's reply subject says of it."""

    stream: str
    consumer: str
    deliveries: int
    stream_seq: int
    stored_at: float
    pending: int

    @classmethod
    def parse(cls, reply: str) -> Meta:
        """Parse ``$JS.ACK.[domain.account.]stream.consumer.deliveries.stream_seq.consumer_seq.time.pending``."""
        tokens = reply.split(".")
        # Servers with a domain put it and the account's hash before the stream, and a random token last.
        tail = tokens[2:] if len(tokens) == 9 else tokens[4:]  # noqa: PLR2004
        stream, consumer, deliveries, stream_seq, _, nanoseconds, pending = tail[:7]
        return cls(stream, consumer, int(deliveries), int(stream_seq), int(nanoseconds) / 1e9, int(pending))


@dataclass(slots=True)
class _Waiting:
    msg: Msg
    since: float


class Envelope(Generic[M]):
    """A delivered message: settle it with exactly one of ack, nak and term."""

    __slots__ = ("_pull", "alive_at", "message", "meta", "raw")

    def __init__(self, pull: Pull[M], raw: Msg, meta: Meta, since: float) -> None:
        self._pull = pull
        self.raw = raw
        self.meta = meta
        self.message: M
        self.alive_at = since  # when the server last heard that somebody has it

    @property
    def consumer(self) -> Consumer:
        """The consumer that it came from."""
        return self._pull.consumer

    @property
    def subject(self) -> str:
        """The subject that it was published on."""
        return self.raw.subject

    @property
    def deliveries(self) -> int:
        """How often it has been delivered, this time included."""
        return self.meta.deliveries

    @property
    def trace(self) -> str | None:
        """The ``traceparent`` that it came with."""
        return (self.raw.headers or {}).get("traceparent")

    async def ack(self) -> None:
        """It is done."""
        self._pull.passed(self)
        await self._settle(b"+ACK", "ok")

    async def nak(self, delay: float | None = None) -> None:
        """It is wanted again after ``delay`` seconds; by default the longer the more often it has failed."""
        if delay is None:
            delay = min(MAX_BACKOFF, 0.5 * 2 ** (self.deliveries - 1)) * random.uniform(0.8, 1.2)  # noqa: S311
        # A nak without a delay would ignore every backoff, so there always is one.
        await self._settle(b'-NAK {"delay": %d}' % int(delay * 1e9), "retry")

    async def term(self) -> None:
        """It is never wanted again."""
        if self.consumer.config.ack_policy is AckPolicy.ALL:
            self._pull.let_go(self)  # a term would ack all before it; the next ack passes this one too
        else:
            await self._settle(b"+TERM", "term")

    async def in_progress(self) -> None:
        """It is being worked on: start the ack wait anew. The pull does this for every message it holds."""
        await self._pull.reply(self.raw, b"+WPI")

    async def _settle(self, verb: bytes, outcome: str) -> None:
        self._pull.let_go(self)
        CONSUMED.labels(self.consumer.name, outcome).inc()
        await self._pull.reply(self.raw, verb)


class Pull(Generic[M]):
    """Messages of one durable consumer, always asked for before they are needed.

    Survives server restarts, lost requests and deleted consumers. Everything held (waiting here or being worked
    on) is kept alive with in-progress signals, so a message comes again only when this process has died.
    """

    def __init__(
        self,
        bus: Bus,
        consumer: Consumer,
        model: type[M],
        window: int,
        arrived: asyncio.Event | None = None,
    ) -> None:
        """``arrived`` is set when a message comes: give several pulls the same to wait for any of them."""
        self.consumer = consumer
        self._bus = bus
        self._model = model
        self._window = window
        self._outstanding = 0
        self._waiting: deque[_Waiting] = deque()
        self._held: dict[str, Envelope[M]] = {}
        self._arrived = arrived or asyncio.Event()
        self._heard = time.monotonic()
        self._stopped = False
        self._lost = False
        self.taken = False  # somebody else has taken an exclusive consumer over
        self._inbox = bus.client.new_inbox()
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream.name}.{consumer.name}"
        self._subscription: Subscription | None = None
        self._keeper: asyncio.Task[None] | None = None

    # -- for the caller -----------------------------------------------------------------------------

    async def batch(self, most: int, *, wait: float | None = None) -> list[Envelope[M]]:
        """At least one message and at most ``most``, as many as are here; an empty list after ``wait`` seconds."""
        found: list[Envelope[M]] = []
        while not found and not self._stopped:
            if not self._waiting:
                await self._wait(wait)
            while self._waiting and len(found) < most:
                if envelope := await self._open(self._waiting.popleft()):
                    found.append(envelope)
            if not self._waiting and not self._stopped:
                self._arrived.clear()
            await self._refill()
            if wait is not None:
                break
        return found

    async def _wait(self, most: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most):
                await self._arrived.wait()

    async def each(self) -> AsyncIterator[Envelope[M]]:
        """Every message, one after the other, until the pull is stopped."""
        while not self._stopped:
            for envelope in await self.batch(1):
                yield envelope

    async def batches(self, most: int) -> AsyncIterator[list[Envelope[M]]]:
        """Every message, as many at once as are here, until the pull is stopped."""
        while not self._stopped:
            if found := await self.batch(most):
                yield found

    @property
    def idle(self) -> bool:
        """Whether nothing waits here."""
        return not self._waiting

    async def ask(self, count: int) -> None:
        """Ask, so that about ``count`` messages are asked for or waiting here; for a pull whose window is 0.

        Where more than half are, it can wait: each request costs as much as a message.
        """
        wanted = count - self._outstanding - len(self._waiting)
        if 2 * wanted >= count:
            await self._request(wanted)

    async def hand_back(self, older: float = 0.0) -> None:
        """Give back what has waited here for ``older`` seconds, for another consumer that is free."""
        before = time.monotonic() - older
        while self._waiting and self._waiting[0].since <= before:
            await self.reply(self._waiting.popleft().msg, b'-NAK {"delay": 1}')

    # -- for the bus --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Subscribe to the inbox and send the first request."""
        self._subscription = await self._bus.client.listen(self._inbox, self._on_message)
        self._keeper = asyncio.create_task(self._keep())
        await self._refill()

    async def stop(self) -> None:
        """Give back what nobody has begun, at once, so that another consumer gets it without an ack wait."""
        if self._stopped:
            return
        self._stopped = True
        self._bus.forget(self)
        self._arrived.set()
        if self._keeper:
            self._keeper.cancel()
        await self._unsubscribe()
        for waiting in self._waiting:
            await self.reply(waiting.msg, b'-NAK {"delay": 1}')
        self._waiting.clear()

    async def _unsubscribe(self) -> None:
        """Also take in what is on its way here, or it would wait for its ack wait."""
        if self._subscription:
            with contextlib.suppress(NatsError, TimeoutError):
                async with asyncio.timeout(STOP_SECONDS if self._bus.client.is_connected else 0):
                    await self._subscription.drain()  # type: ignore[no-untyped-call]

    async def restart(self) -> None:
        """Ask anew: what was asked before went down with the server."""
        self._outstanding = 0
        self._lost = False
        self._heard = time.monotonic()
        await self._refill()

    def let_go(self, envelope: Envelope[M]) -> None:
        """``envelope`` is not held any more."""
        self._held.pop(envelope.raw.reply, None)

    def passed(self, envelope: Envelope[M]) -> None:
        """Where acks are cumulative, nothing before ``envelope`` is held any more."""
        if self.consumer.config.ack_policy is AckPolicy.ALL:
            floor = envelope.meta.stream_seq
            self._held = {key: held for key, held in self._held.items() if held.meta.stream_seq > floor}

    async def reply(self, msg: Msg, verb: bytes) -> None:
        """Answer a delivery. A lost answer only means a redelivery."""
        with contextlib.suppress(NatsError):
            await self._bus.client.publish(msg.reply, verb)

    # -- inside -------------------------------------------------------------------------------------

    async def _open(self, waiting: _Waiting) -> Envelope[M] | None:
        """Validate a message; what is none, or was never finished, goes to the dead letters."""
        msg = waiting.msg
        meta = Meta.parse(msg.reply)
        envelope: Envelope[M] = Envelope(self, msg, meta, waiting.since)
        self._held[msg.reply] = envelope
        if meta.deliveries > self.consumer.max_unfinished:
            await self._bus.bury(envelope, f"delivered {meta.deliveries} times and never finished")
            return None
        try:
            envelope.message = self._model.model_validate_json(msg.data)
        except ValidationError as error:
            await self._bus.bury(envelope, invalid(self._model, error))
            return None
        return envelope

    async def _refill(self) -> None:
        wanted = self._window - self._outstanding - len(self._waiting)
        if wanted >= max(1, self._window // 2):
            await self._request(wanted)

    async def _request(self, wanted: int) -> None:
        if self._stopped or wanted < 1:
            return
        self._outstanding += wanted
        request = {"batch": wanted, "expires": int(EXPIRES * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)}
        with contextlib.suppress(NatsError):
            await self._bus.client.publish(self._subject, json.dumps(request).encode(), reply=self._inbox)

    def _on_message(self, msg: Msg) -> None:
        self._heard = time.monotonic()
        if not msg.reply.startswith("$JS.ACK") and (status := (msg.headers or {}).get("Status")):
            self._on_status(status, msg.headers or {})
            return
        self._outstanding = max(0, self._outstanding - 1)
        self._waiting.append(_Waiting(msg, self._heard))
        self._arrived.set()

    def _on_status(self, status: str, headers: dict[str, str]) -> None:
        if status == "100":  # idle heartbeat
            return
        if self.consumer.exclusive and (status == "503" or "Deleted" in headers.get("Description", "")):
            self.taken = True
            self._arrived.set()
            return
        if pending := headers.get("Nats-Pending-Messages"):
            self._outstanding = max(0, self._outstanding - int(pending))
            self._bus.spawn(self._refill())
            return
        log.debug("%s: %s %s", self.consumer.name, status, headers.get("Description", ""))
        self._lost = True  # the consumer is gone or moving: let the keeper ask anew

    async def _keep(self) -> None:
        """Keep what is held alive, and ask anew when the server has fallen silent."""
        every = min(1.0, self.consumer.ack_wait / 4)
        while True:
            await asyncio.sleep(every)
            await self._keep_alive()
            silent = time.monotonic() - self._heard > 2.5 * HEARTBEAT
            if (self._lost or silent) and self._bus.client.is_connected and not self.taken:
                await self._bus.redeclare()
                await self.restart()

    async def _keep_alive(self) -> None:
        now = time.monotonic()
        third = self.consumer.ack_wait / 3
        for envelope in list(self._held.values()):
            if now - envelope.alive_at > third:
                envelope.alive_at = now
                await envelope.in_progress()
        for waiting in list(self._waiting):
            if now - waiting.since > third:
                waiting.since = now
                await self.reply(waiting.msg, b"+WPI")


def invalid(model: type[Any], error: ValidationError) -> str:
    """Why a message is none, in one line that names the field."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "message"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"not a valid {model.__name__}: {where}: {first['msg']}{more}"
