"""JetStream as the mesh uses it: declare, publish, and pull without a round trip a message."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo, DeliverPolicy, StreamInfo
from nats.js.errors import APIError, NotFoundError
from pydantic import ValidationError
from pydantic_core import from_json

from framemesh import subjects
from framemesh.blame import said
from framemesh.deadletters import letter
from framemesh.errors import FramemeshError
from framemesh.headers import EXPECTED, MSG_ID
from framemesh.messages import DeadLetter, Message
from framemesh.pull import Envelope, Meta, Pull, invalid
from framemesh.subjects import Consumer, Stream
from framemesh.telemetry import CONSUMED, PUBLISHED, redact
from framemesh.wire import Wire

log = logging.getLogger(__name__)
_published = cache(PUBLISHED.labels)

M = TypeVar("M", bound=Message)
Handler = Callable[[Envelope[M]], Awaitable[None]]

ACK_TIMEOUT = 5.0
READ_PATIENCE = 30.0
_QUEUE_FULL = (10077, 10047)  # maximum messages or bytes exceeded
_CONFLICTS = (10070, 10071, 10164)  # wrong last message id or sequence
_NO_RESPONDERS = "503"


class BusError(Exception):
    """JetStream refused a message."""


class QueueFull(BusError):
    """The stream is bounded and full: try again when somebody has taken from it."""


class Conflict(BusError):
    """The newest message on the subject is not the one that was expected."""


class Retry(Exception):
    """A handler asks for its message again, after ``delay`` seconds."""

    def __init__(self, reason: str, delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


class Reject(Exception):
    """A handler says that its message can never be processed: to the dead letters, with this reason."""


@dataclass(frozen=True)
class Stored(Generic[M]):
    """A message as it lies in a stream."""

    seq: int
    message: M


class Bus:
    """One connection of one service instance."""

    client: Wire
    jetstream: JetStreamContext

    def __init__(self, instance: str) -> None:
        self.client = Wire()
        self.instance = instance
        self._streams: dict[str, Stream] = {}
        self._consumers: dict[tuple[str, str], Consumer] = {}
        self._pulls: set[Pull[Any]] = set()
        self._replies: dict[str, asyncio.Future[Msg]] = {}
        self._tokens = itertools.count()
        self._inbox = f"_INBOX.{secrets.token_hex(8)}"
        self._declaring = asyncio.Lock()
        self._declared_at = 0.0
        self._background: set[asyncio.Task[None]] = set()
        self.read_patience = READ_PATIENCE
        """How many seconds reading waits for a server that is away; less where a client waits for the answer."""
        self._loop = asyncio.get_running_loop()  # asking for it costs a system call in Python 3.11

    # -- life ---------------------------------------------------------------------------------------

    @classmethod
    async def connect(cls, address: str, instance: str, *, patience: float = 30.0) -> Bus:
        """Connect to ``address``; wait up to ``patience`` seconds for the server, then say what is wrong.

        Once connected, the bus outlives server restarts: it reconnects for ever and declares everything again.
        """
        bus = cls(instance)
        await bus._dial(address, patience)
        bus.jetstream = bus.client.jetstream()
        await bus.client.listen(f"{bus._inbox}.*", bus._on_reply)
        return bus

    async def _dial(self, address: str, patience: float) -> None:
        deadline = time.monotonic() + patience
        address = _checked(address)
        while True:
            try:
                await self._dial_once(address)
            except (TimeoutError, OSError, NatsError) as error:
                if time.monotonic() > deadline:
                    raise FramemeshError(
                        f"nats_host: no NATS server answers at {redact(address)} "
                        f"({redact(str(error)) or 'timeout'}); "
                        "start one with `framemesh up`, or set nats_host to where yours listens"
                    ) from error
                await asyncio.sleep(0.25)
            else:
                return

    async def _dial_once(self, address: str) -> None:
        client = Wire()  # one that has failed to connect cannot be used again
        await client.connect(
            address,
            name=self.instance,
            connect_timeout=2,
            # For the first dial; turned on below, so that a wrong address is an error.
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            reconnected_cb=self._on_reconnect,
            disconnected_cb=self._on_disconnect,
            error_cb=self._on_error,
            max_outstanding_pings=3,
            ping_interval=10,
        )
        self.client = client
        client.options.update(allow_reconnect=True, max_reconnect_attempts=-1, reconnect_time_wait=0.25)

    async def close(self) -> None:
        """Hand back what was not begun, send what is pending, and close."""
        for pull in list(self._pulls):
            await pull.stop()
        for task in self._background:
            task.cancel()
        with contextlib.suppress(NatsError, asyncio.TimeoutError):
            await self.client.flush(timeout=1)
        if not self.client.is_connected:
            self.client.give_up()
        await self.client.close()

    async def _on_disconnect(self) -> None:
        if not self.client.is_closed:
            log.warning("lost the connection to NATS; reconnecting")

    async def _on_reconnect(self) -> None:
        log.info("connected to NATS again")
        self.spawn(self._recover())

    async def _on_error(self, error: Exception) -> None:
        log.debug("nats: %s", error or type(error).__name__)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside, until the bus is closed."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _recover(self) -> None:
        """A restarted server has lost its memory streams: declare everything again, then pull again."""
        await self.redeclare()
        for pull in list(self._pulls):
            await pull.restart()

    # -- declare ------------------------------------------------------------------------------------

    async def declare(self, *streams: Stream) -> None:
        """Create the streams, or bring them to the declared configuration."""
        for stream in streams:
            self._streams[stream.name] = stream
            await self._declare_stream(stream)

    async def declare_consumer(self, consumer: Consumer) -> None:
        """Create a durable consumer and its stream."""
        await self.declare(consumer.stream)
        self._consumers[consumer.stream.name, consumer.name] = consumer
        await self._declare_consumer(consumer)

    async def redeclare(self) -> None:
        """Declare all that this bus has ever declared, at most twice a second."""
        async with self._declaring:
            if time.monotonic() - self._declared_at < 0.5:  # noqa: PLR2004
                return
            try:
                for stream in self._streams.values():
                    await self._declare_stream(stream)
                for consumer in self._consumers.values():
                    await self._declare_consumer(consumer)
            except (TimeoutError, NatsError, FramemeshError) as error:  # the server may only be starting
                log.debug("cannot declare yet: %s", error)
            self._declared_at = time.monotonic()

    async def _declare_stream(self, stream: Stream) -> None:
        try:
            await self.jetstream.add_stream(stream.config)
        except APIError as error:
            if error.err_code != 10058:  # noqa: PLR2004 - in use with another configuration
                raise FramemeshError(f"stream {stream.name}: {error.description or error}") from error
            await self._update_stream(stream)

    async def _update_stream(self, stream: Stream) -> None:
        try:
            await self.jetstream.update_stream(stream.config)
        except APIError as error:
            raise FramemeshError(
                f"stream {stream.name} exists with a configuration that cannot be changed ({error.description}); "
                f"delete it, or name another one"
            ) from error

    async def _declare_consumer(self, consumer: Consumer) -> None:
        try:
            await self.jetstream.add_consumer(consumer.stream.name, consumer.config)
        except APIError as error:
            raise FramemeshError(
                f"consumer {consumer.name} of stream {consumer.stream.name} cannot be made or changed "
                f"({error.description or error}); delete it, or name another one"
            ) from error

    # -- publish ------------------------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        message: Message,
        *,
        msg_id: str,
        trace: str | None = None,
        after: int | None = None,
        patience: float = 60.0,
    ) -> int:
        """Publish one message and wait until JetStream has it.

        ``msg_id`` makes it safe to publish again: the stream keeps one. With ``after``, the newest message on the
        subject must have that stream sequence, else Conflict. Server restarts are waited for, up to ``patience``
        seconds. Returns the stream sequence. Raises QueueFull, Conflict or BusError.
        """
        headers = {MSG_ID: msg_id}
        if trace:
            headers["traceparent"] = trace
        if after is not None:
            headers[EXPECTED] = str(after)
        return await self.publish_raw(subject, message.model_dump_json().encode(), headers, patience=patience)

    async def publish_raw(
        self, subject: str, payload: bytes, headers: dict[str, str], *, patience: float = 60.0
    ) -> int:
        """As ``publish``, for bytes and headers as they are."""
        deadline = time.monotonic() + patience
        while True:
            try:
                return await self._publish_once(subject, payload, headers)
            except MaxPayloadError as error:
                raise BusError(f"{subject}: {len(payload)} bytes are more than NATS takes") from error
            except (TimeoutError, NatsError, OSError) as error:
                if time.monotonic() > deadline or self.client.is_closed:
                    raise BusError(f"{subject}: not accepted within {patience:g} s ({error!r})") from error
                await asyncio.sleep(0.1)
                await self.redeclare()

    async def _publish_once(self, subject: str, payload: bytes, headers: dict[str, str]) -> int:
        answer = from_json((await self._ask(subject, payload, headers)).data)
        if error := answer.get("error"):
            raise _refusal(error)
        _published(answer["stream"]).inc()
        return int(answer["seq"])

    async def _ask(self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        """Request and reply, all on one inbox. Raises TimeoutError, or NoRespondersError."""
        token = str(next(self._tokens))
        reply: asyncio.Future[Msg] = self._loop.create_future()
        self._replies[token] = reply
        late = self._loop.call_later(ACK_TIMEOUT, _expire, reply)
        try:
            await self.client.publish(subject, payload, reply=f"{self._inbox}.{token}", headers=headers)
            return await reply
        finally:
            late.cancel()
            del self._replies[token]

    def _on_reply(self, msg: Msg) -> None:
        reply = self._replies.get(msg.subject.rpartition(".")[2])
        if reply is None or reply.done():
            return
        if msg.headers and msg.headers.get("Status") == _NO_RESPONDERS:
            reply.set_exception(NoRespondersError())
        else:
            reply.set_result(msg)

    # -- consume ------------------------------------------------------------------------------------

    async def pull(
        self, consumer: Consumer, model: type[M], *, window: int = 256, arrived: asyncio.Event | None = None
    ) -> Pull[M]:
        """A continuous pull: at most ``window`` messages are asked for or waiting here.

        ``arrived`` is set when one comes; several pulls may share it.
        """
        if not consumer.exclusive:
            await self.declare_consumer(consumer)
        pull = Pull(self, consumer, model, window, arrived)
        self._pulls.add(pull)
        await pull.start()
        return pull

    def forget(self, pull: Pull[Any]) -> None:
        """A pull that has stopped is not restarted any more."""
        self._pulls.discard(pull)

    async def consume(
        self, consumer: Consumer, model: type[M], handler: Handler[M], *, concurrency: int = 8
    ) -> None:
        """Hand every message to ``handler``, ``concurrency`` at a time, until cancelled.

        A return acks; Retry naks with a delay; Reject goes to the dead letters; any other exception is retried
        with backoff and ends in the dead letters after the consumer's ``max_deliveries``.
        """
        pull = await self.pull(consumer, model, window=max(2 * concurrency, 8))
        free = asyncio.Semaphore(concurrency)
        try:
            async with asyncio.TaskGroup() as group:
                async for envelope in pull.each():
                    await free.acquire()
                    task = group.create_task(self._handle(envelope, handler))
                    task.add_done_callback(lambda _: free.release())
        finally:
            await pull.stop()

    async def _handle(self, envelope: Envelope[M], handler: Handler[M]) -> None:
        async with self.settling(envelope):
            await handler(envelope)

    @contextlib.asynccontextmanager
    async def settling(self, envelope: Envelope[M]) -> AsyncIterator[None]:
        """Ack, nak or bury ``envelope`` by how the block ends."""
        try:
            yield
        except Reject as error:
            await self.bury(envelope, str(error), error)
        except Retry as error:
            await envelope.nak(error.delay)
        except Exception as error:
            await self._failed(envelope, error)
        else:
            await envelope.ack()

    async def _failed(self, envelope: Envelope[M], error: Exception) -> None:
        reason = f"{type(error).__name__}: {said(error)}"
        if envelope.deliveries >= envelope.consumer.max_deliveries:
            await self.bury(envelope, reason, error)
            return
        log.warning("%s: %s; again later", envelope.subject, reason)
        await envelope.nak()

    async def bury(self, envelope: Envelope[Any], reason: str, error: BaseException | None = None) -> None:
        """Move a message to the dead letters. It leaves its own stream only when they have it."""
        dead = letter(envelope.raw, envelope.meta, self.instance, reason, error)
        if not await self._bury(dead, envelope.meta.stored_at):
            await envelope.nak()
            return
        await envelope.term()
        CONSUMED.labels(envelope.consumer.name, "dead").inc()

    async def _bury(self, dead: DeadLetter, stored_at: float) -> bool:
        # The time tells apart the messages of a memory stream that counts from 1 again.
        msg_id = f"{dead.stream}/{dead.stream_seq}/{stored_at}"
        try:
            if subjects.DEADLETTERS.name not in self._streams:
                await self.declare(subjects.DEADLETTERS)
            await self.publish(subjects.dead(dead.stream, dead.subject), dead, msg_id=msg_id)
        except (BusError, FramemeshError, NatsError, TimeoutError) as error:
            log.error("%s #%d: cannot be made a dead letter: %s", dead.subject, dead.stream_seq, error)
            return False
        log.error("dead letter: %s #%d: %s", dead.subject, dead.stream_seq, dead.reason)
        return True

    # -- look ---------------------------------------------------------------------------------------

    async def stream_info(self, name: str, subject: str | None = None) -> StreamInfo | None:
        """State of a stream; with ``subject``, also how many messages each matching subject holds."""
        try:
            return await self.jetstream.stream_info(name, subject)
        except NotFoundError:
            return None

    async def consumer_info(self, consumer: Consumer) -> ConsumerInfo | None:
        """State of a consumer, None where there is none."""
        try:
            info: ConsumerInfo = await self.jetstream.consumer_info(consumer.stream.name, consumer.name)
        except NotFoundError:
            return None
        return info

    async def take_over(self, consumer: Consumer) -> Consumer:
        """Make a consumer of our own from where the last one with this filter was acked to, and end that one.

        All that was not acked comes again at once. The name is new, so whoever read before gets nothing more.
        """
        await self.declare(consumer.stream)
        subject = consumer.config.filter_subject
        others = [info for info in await self.consumers(consumer.stream) if info.config.filter_subject == subject]
        others = [info for info in others if str(info.name).startswith(consumer.name)]
        floor = max((info.ack_floor.stream_seq for info in others if info.ack_floor), default=0)
        ours = replace(
            consumer,
            config=consumer.config.evolve(
                durable_name=f"{consumer.name}-{secrets.token_hex(4)}",
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=floor + 1,
            ),
        )
        await self._declare_consumer(ours)
        for info in others:
            await self.delete_consumer(consumer.stream, str(info.name))
        return ours

    async def consumers(self, stream: Stream) -> list[ConsumerInfo]:
        """State of every consumer of a stream."""
        found: list[ConsumerInfo] = []
        while page := await self.jetstream.consumers_info(stream.name, len(found)):
            found += page
        return found

    async def delete_consumer(self, stream: Stream, name: str) -> None:
        """Delete a consumer; one that is not there is no error."""
        with contextlib.suppress(NotFoundError):
            await self.jetstream.delete_consumer(stream.name, name)

    async def purge(self, stream: str, subject: str) -> None:
        """Drop all messages on a subject; where there is no such stream, none."""
        with contextlib.suppress(NotFoundError):
            await self.jetstream.purge_stream(stream, subject=subject)

    async def delete(self, stream: str, seq: int) -> None:
        """Delete one message; one that is not there is no error."""
        with contextlib.suppress(NotFoundError):
            await self.jetstream.delete_msg(stream, seq)

    async def task_streams(self) -> list[StreamInfo]:
        """Every model's queues."""
        infos = await self.jetstream.streams_info()
        return [info for info in infos if (info.config.metadata or {}).get("framemesh.role") == "tasks"]

    async def at_or_after(self, stream: str, subject: str, seq: int, model: type[M]) -> Stored[M] | None:
        """The first message on ``subject`` whose stream sequence is ``seq`` or later."""
        while msg := await self._direct(stream, {"seq": max(seq, 1), "next_by_subj": subject}):
            if found := await self._valid(stream, msg, model):
                return found
            seq = _seq(msg) + 1
        return None

    async def last(self, stream: str, subject: str, model: type[M]) -> Stored[M] | None:
        """The newest message on ``subject`` that is one."""
        while msg := await self._direct(stream, {"last_by_subj": subject}):
            if found := await self._valid(stream, msg, model):
                return found
        return None

    async def newest(self, stream: str, subject: str) -> tuple[int, bytes] | None:
        """Stream sequence and bytes of the newest message on ``subject``. Waits for a server that is away."""
        deadline = time.monotonic() + self.read_patience
        while True:
            try:
                msg = await self._ask(f"$JS.API.DIRECT.GET.{stream}.{subject}")
            except (TimeoutError, NatsError) as error:
                if time.monotonic() > deadline or self.client.is_closed:
                    raise BusError(f"{subject}: cannot be read ({error!r})") from error
                await asyncio.sleep(0.1)
                continue
            return None if (msg.headers or {}).get("Status") else (_seq(msg), msg.data)

    async def _direct(self, stream: str, query: dict[str, Any]) -> Msg | None:
        chunk = await self._read_batch(stream, query)
        return chunk[0] if chunk else None

    async def _valid(self, stream: str, msg: Msg, model: type[M]) -> Stored[M] | None:
        """A message as it was read from a stream; one that is none moves to the dead letters."""
        try:
            return Stored(_seq(msg), model.model_validate_json(msg.data))
        except ValidationError as error:
            msg.subject = (msg.headers or {})["Nats-Subject"]
            meta = Meta(stream, "", 1, _seq(msg), 0.0, 0)
            if not await self._bury(letter(msg, meta, self.instance, invalid(model, error)), 0.0):
                raise BusError(f"{msg.subject}: cannot be read, nor made a dead letter") from error
            with contextlib.suppress(NotFoundError):
                await self.jetstream.delete_msg(stream, meta.stream_seq)
            return None

    async def read(
        self, stream: str, subject: str, seq: int, model: type[M], *, batch: int = 256
    ) -> AsyncIterator[Stored[M]]:
        """Every message on ``subject`` from stream sequence ``seq`` on, in order, as far as there are any now."""
        while chunk := await self._read_batch(
            stream, {"seq": max(seq, 1), "next_by_subj": subject, "batch": batch}
        ):
            for msg in chunk:
                seq = _seq(msg) + 1
                if found := await self._valid(stream, msg, model):
                    yield found

    async def before(
        self, stream: str, subject: str, seq: int, seconds: float, model: type[M]
    ) -> AsyncIterator[Stored[M]]:
        """What came on ``subject`` in the ``seconds`` before stream sequence ``seq``, it included, in order."""
        last = await self._direct(stream, {"seq": max(seq, 1), "next_by_subj": subject})
        if last is None:
            return
        since = datetime.fromisoformat((last.headers or {})["Nats-Time-Stamp"]) - timedelta(seconds=seconds)
        first = await self._direct(stream, {"start_time": since.isoformat(), "next_by_subj": subject})
        async for stored in self.read(stream, subject, _seq(first or last), model):
            if stored.seq > seq:
                return
            yield stored

    async def raw(self, stream: str, subject: str) -> AsyncIterator[bytes]:
        """Every message on ``subject`` as it lies in the stream, in order."""
        seq = 1
        while chunk := await self._read_batch(stream, {"seq": seq, "next_by_subj": subject, "batch": 256}):
            for msg in chunk:
                seq = _seq(msg) + 1
                yield msg.data

    async def _read_batch(self, stream: str, query: dict[str, Any]) -> list[Msg]:
        """Messages of a stream; none where there is no such stream. Waits for a server that is away."""
        deadline = time.monotonic() + self.read_patience
        while True:
            try:
                return await self._read_once(stream, query)
            except (TimeoutError, NatsError) as error:
                if isinstance(error, NoRespondersError) and await self._missing(stream):
                    return []
                if time.monotonic() > deadline or self.client.is_closed:
                    raise BusError(f"stream {stream}: cannot be read ({error!r})") from error
            await asyncio.sleep(0.1)

    async def _missing(self, stream: str) -> bool:
        try:
            return await self.stream_info(stream) is None
        except (TimeoutError, NatsError):
            return False

    async def _read_once(self, stream: str, query: dict[str, Any]) -> list[Msg]:
        inbox = self.client.new_inbox()
        found: list[Msg] = []
        subscription = await self.client.subscribe(inbox)
        try:
            await self.client.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(query).encode(), reply=inbox)
            while True:
                msg = await subscription.next_msg(timeout=ACK_TIMEOUT)
                status = (msg.headers or {}).get("Status")
                if status == _NO_RESPONDERS:
                    raise NoRespondersError
                if status:
                    return found
                found.append(msg)
                if "batch" not in query:
                    return found
        finally:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()


def _checked(address: str) -> str:
    address = address if "://" in address else f"nats://{address}"
    try:
        urlsplit(address).port  # noqa: B018 - reading it is the check
    except ValueError:
        raise FramemeshError(f"nats_host: {redact(address)} is no address; want nats://host:port") from None
    return address


def _seq(msg: Msg) -> int:
    return int((msg.headers or {})["Nats-Sequence"])


def _expire(reply: asyncio.Future[Msg]) -> None:
    if not reply.done():
        reply.set_exception(TimeoutError(f"no answer within {ACK_TIMEOUT:g} s"))


def _refusal(error: dict[str, Any]) -> BusError:
    code = error.get("err_code")
    kind = QueueFull if code in _QUEUE_FULL else Conflict if code in _CONFLICTS else BusError
    return kind(str(error.get("description", error)))


async def settle_all(envelopes: Iterable[Envelope[Any]]) -> None:
    """Ack many envelopes."""
    for envelope in envelopes:
        await envelope.ack()
