"""Keeps one source: results in, in order; events out, each exactly once, whatever dies on the way.

The consumer's ack floor is the checkpoint: it never passes a result that a rule or an unfinished event still
needs. A registrator that starts again replays from there, comes to the same events with the same ids, and finds in
EVENTS which of their steps were told before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from framemesh import subjects
from framemesh.bus import Bus, BusError, Stored
from framemesh.flow import drained
from framemesh.messages import Delivery, Event, EventState, Result, SourceState
from framemesh.pull import Envelope, Pull
from services.registrator.catalogue import ENDED, Catalogue, NotOurs, describe
from services.registrator.evidence import EvidenceError
from services.registrator.order import LOSSLESS_WAIT, Order
from services.registrator.proofs import Proofs
from services.registrator.rules import Closed, Decision, RuleWatch

log = logging.getLogger(__name__)

BATCH = 256
TICK = 0.2
LOOK_SECONDS = 0.5
CLOCK_SKEW = 60.0
SILENCE = 5.0
"""Seconds beyond a rule's idle time after which the silence of a camera closes what is open."""


@dataclass(frozen=True, slots=True)
class _Fed:
    timestamp: float
    stream_seq: int


class Keeper:
    """One source's results, rules and events. Run it while holding the source's lease."""

    def __init__(
        self, source: str, topic: str, bus: Bus, *, catalogue: Catalogue, proofs: Proofs, watches: list[RuleWatch]
    ) -> None:
        self.source = source
        self._topic = topic
        self._bus = bus
        self._catalogue = catalogue
        self._proofs = proofs
        self._watches = watches
        self._order: Order[Envelope[Result]] = Order()
        self._delivered: deque[Envelope[Result]] = deque()
        self._fed: deque[_Fed] = deque()
        self._proving: dict[str, asyncio.Task[None]] = {}
        self._heard: dict[str, float] = {}
        self._lost: NotOurs | None = None
        self._settled = False
        self._looked = 0.0

    async def run(self) -> None:
        """Keep the source until its run is settled, or until cancelled."""
        consumer = await self._bus.take_over(subjects.registrator_consumer(self.source))
        floor = (consumer.config.opt_start_seq or 1) - 1
        await self._look_back(floor)
        await self._catalogue.load(await self._replays_from(floor))
        pull = await self._bus.pull(consumer, Result, window=4 * BATCH)
        try:
            while not self._settled:
                await self._turn(pull)
        finally:
            await pull.stop()
            for task in self._proving.values():
                task.cancel()

    async def _look_back(self, floor: int) -> None:
        """Learn where the order was: what lies first in the stream after the floor need not be the next frame."""
        subject = subjects.results("*", self.source)
        async for stored in self._bus.before(subjects.RESULTS.name, subject, floor, LOSSLESS_WAIT, Result):
            self._order.passed(stored.message)

    async def _replays_from(self, floor: int) -> float:
        """Time before which nothing was told that the replay could tell again."""
        subject = subjects.results("*", self.source)
        first = await self._bus.at_or_after(subjects.RESULTS.name, subject, floor + 1, Result)
        return first.message.captured_at - CLOCK_SKEW if first else time.time()

    async def _turn(self, pull: Pull[Result]) -> None:
        envelopes = await pull.batch(BATCH, wait=TICK)
        if pull.taken:
            raise NotOurs(f"{self.source} was taken over by another registrator")
        if self._lost:
            raise self._lost
        now = time.monotonic()
        for envelope in envelopes:
            self._heard[envelope.message.model] = now
            self._delivered.append(envelope)
            await self._feed(self._order.push(envelope.message, envelope, now))
        await self._feed(self._order.due(now))
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            await self._look(pull, now)

    async def _look(self, pull: Pull[Result], now: float) -> None:
        await self._close_if_silent(now)
        await self._catalogue.save()
        await self._checkpoint()
        if pull.idle:
            await self._close_orphans(pull)
            await self._settle_if_ended(pull)

    # -- results ------------------------------------------------------------------------------------

    async def _feed(self, envelopes: Iterable[Envelope[Result]]) -> None:
        for envelope in envelopes:
            self._fed.append(_Fed(envelope.message.timestamp, envelope.meta.stream_seq))
            for watch in self._watches:
                await self._decide(watch, watch.feed(envelope.message))

    async def _decide(self, watch: RuleWatch, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            event = describe(decision.event, watch.rule.name)
            await self._catalogue.tell(event, EventState.CREATED)
            if isinstance(decision, Closed):
                await self._close(watch, event)

    async def _close(self, watch: RuleWatch, event: Event) -> None:
        told = await self._catalogue.tell(event, EventState.PENDING)
        if told.state not in ENDED and event.id not in self._proving:
            self._proving[event.id] = asyncio.create_task(self._prove(watch, event))

    async def _close_if_silent(self, now: float) -> None:
        """Event time stands still when a camera or a model dies: let the clock on the wall close what is open."""
        for watch in (each for each in self._watches if each.open):
            heard = max((self._heard.get(model, now) for model in watch.models), default=now)
            if now - heard > watch.rule.idle_s + SILENCE and await self._is_live():
                await self._decide(watch, watch.finish())

    async def _is_live(self) -> bool:
        stored = await self._state()
        return stored is not None and stored.message.delivery is Delivery.LIVE

    async def _close_orphans(self, pull: Pull[Result]) -> None:
        """Unfinished events that the replay did not come to again: the rules were changed meanwhile."""
        open_now = {watch.open for watch in self._watches}
        orphans = [e for e in self._catalogue.unfinished() if e.id not in open_now and e.id not in self._proving]
        if orphans and await self._all_read(pull) and not any(self._order.waiting()):
            for event in orphans:
                await self._close(self._watches[0], event)

    # -- evidence -----------------------------------------------------------------------------------

    async def _prove(self, watch: RuleWatch, event: Event) -> None:
        try:
            await self._gather(watch, event)
        except NotOurs as error:
            log.warning("evidence of event %s is left to another registrator", event.id)
            self._lost = error
        finally:
            del self._proving[event.id]

    async def _gather(self, watch: RuleWatch, event: Event) -> None:
        """Make and store the evidence of an event. Raises NotOurs."""
        try:
            event = await self._proofs.make(event, watch.rule)
            await self._catalogue.tell(event, EventState.DONE)
            event = await self._proofs.store(event)
            await self._catalogue.tell(event, EventState.FINISHED)
        except NotOurs:
            raise
        except EvidenceError as error:
            await self._catalogue.tell(event, EventState.ERROR, str(error))
        except Exception as error:
            log.exception("evidence of event %s", event.id)
            await self._catalogue.tell(event, EventState.ERROR, f"{type(error).__name__}: {error}")

    # -- checkpoint ---------------------------------------------------------------------------------

    async def _checkpoint(self) -> None:
        """Ack all that no rule, no unfinished event and no gap still needs."""
        horizon = self._horizon()
        while self._fed and self._fed[0].timestamp < horizon:
            self._fed.popleft()
        needed = [fed.stream_seq for fed in self._fed]
        needed += [envelope.meta.stream_seq for envelope in self._order.waiting()]
        floor = min(needed, default=float("inf"))
        last: Envelope[Result] | None = None
        while self._delivered and self._delivered[0].meta.stream_seq < floor:
            last = self._delivered.popleft()
        if last:
            await last.ack()
            self._catalogue.forget_before(last.message.timestamp - 1)

    def _horizon(self) -> float:
        horizons = [watch.horizon for watch in self._watches if watch.horizon is not None]
        horizons += [event.start for event in self._catalogue.unfinished()]
        return min(horizons, default=float("inf"))

    # -- end of a run -------------------------------------------------------------------------------

    async def _state(self) -> Stored[SourceState] | None:
        subject = subjects.source_state(self.source)
        return await self._bus.last(subjects.SOURCES.name, subject, SourceState)

    async def _settle_if_ended(self, pull: Pull[Result]) -> None:
        """When the source has ended and all of its results are in: close what is open, wait for the evidence."""
        stored = await self._state()
        if stored is None or stored.message.state == "started":
            return
        if stored.message.state == "settled":
            self._settled = True
            return
        if not await drained(self._bus, self._topic, stored.message) or not await self._all_read(pull):
            return
        await self._feed(self._order.flush())
        for watch in self._watches:
            await self._decide(watch, watch.finish())
        if not self._proving and not self._catalogue.unfinished():
            await self._settle(stored)

    async def _all_read(self, pull: Pull[Result]) -> bool:
        info = await self._bus.consumer_info(pull.consumer)
        return bool(info and not info.num_pending and pull.idle)

    async def _settle(self, ended: Stored[SourceState]) -> None:
        state = ended.message.model_copy(update={"state": "settled", "timestamp": time.time()})
        subject = subjects.source_state(self.source)
        try:
            await self._bus.publish(subject, state, msg_id=f"{self.source}/{state.run}/settled", after=ended.seq)
        except BusError as error:  # a new run has begun meanwhile
            log.debug("%s: not settled: %s", self.source, error)
            return
        for last in list(self._delivered)[-1:]:  # nothing of a settled run is needed any more
            await last.ack()
        self._settled = True
        log.info("%s: every result of run %s is accounted for", self.source, state.run)
