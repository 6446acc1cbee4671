"""The task catalogue: every event through CREATED, PENDING, DONE and FINISHED, or ERROR, each step told once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from framemesh import subjects
from framemesh.bus import Bus, Conflict
from framemesh.events import EventStore
from framemesh.messages import Event, EventState, Transition
from framemesh.timeline import position
from services.registrator.rules import Sightings

log = logging.getLogger(__name__)

NEXT: dict[EventState | None, frozenset[EventState]] = {
    None: frozenset({EventState.CREATED}),
    EventState.CREATED: frozenset({EventState.PENDING, EventState.ERROR}),
    EventState.PENDING: frozenset({EventState.DONE, EventState.ERROR}),
    EventState.DONE: frozenset({EventState.FINISHED, EventState.ERROR}),
    EventState.FINISHED: frozenset(),
    EventState.ERROR: frozenset(),
}
ENDED = frozenset({EventState.FINISHED, EventState.ERROR})


def describe(event: Sightings, rule: str) -> Event:
    """A new event, before its first transition."""
    return Event(
        id=event.id,
        task_key=event.task_key,
        source=event.first.source,
        run=event.first.run,
        rule=rule,
        label=event.label,
        counts=dict(event.counts),
        start=event.start,
        end=event.end,
        state=EventState.CREATED,
        transitions=[],
        message=event.best,
    )


class NotOurs(Exception):
    """Another registrator keeps the source now: whatever this one would still tell, that one tells."""


class Catalogue:
    """Events of one source. EVENTS is the truth; Redis is a projection that is caught up when it was away."""

    def __init__(self, source: str, bus: Bus, store: EventStore, ours: Callable[[], Awaitable[bool]]) -> None:
        self._source = source
        self._ours = ours
        self._bus = bus
        self._store = store
        self._events: dict[str, Event] = {}
        self._unsaved: dict[str, Event] = {}
        self._last = 0  # stream sequence of the newest step
        self._telling = asyncio.Lock()

    async def load(self, since: float) -> None:
        """Learn what was told from ``since`` on (epoch seconds), so that a replay tells nothing twice."""
        subject = subjects.events(self._source)
        newest = await self._bus.last(subjects.EVENTS.name, subject, Event)
        self._last = newest.seq if newest else 0
        begin = await position(
            self._bus, subjects.EVENTS.name, subject, Event, lambda event: event.transitions[-1].timestamp, since
        )
        async for stored in self._bus.read(subjects.EVENTS.name, subject, begin, Event):
            event = stored.message
            known = self._events.get(event.id)
            if known is None or len(event.transitions) > len(known.transitions):
                self._events[event.id] = event
        unfinished = self.unfinished()
        self._unsaved = {event.id: event for event in unfinished}
        if unfinished:
            log.info("%s: %d events to go on with", self._source, len(unfinished))

    def get(self, event_id: str) -> Event | None:
        """An event as it was told last."""
        return self._events.get(event_id)

    def unfinished(self) -> list[Event]:
        """Events that are neither finished nor given up."""
        return [event for event in self._events.values() if event.state not in ENDED]

    def forget_before(self, timestamp: float) -> None:
        """Let go of ended events that no replay can bring back."""
        old = [key for key, event in self._events.items() if event.state in ENDED and event.end < timestamp]
        for key in old:
            del self._events[key]

    async def tell(self, event: Event, state: EventState, reason: str = "") -> Event:
        """Take an event to ``state``: publish, log and keep it, here and in the store. Raises NotOurs."""
        async with self._telling:
            known = self._events.get(event.id)
            if known is None or state in NEXT[known.state]:
                event = _moved(event, known, state, reason)
                await self._publish(event)
                why = f": {reason}" if reason else ""
                log.info("event %s %s %s: %s%s", event.id, event.source, event.label, state, why)
                self._events[event.id] = event
                self._unsaved[event.id] = event
                await self.save()
            return self._events[event.id]

    async def _publish(self, event: Event) -> None:
        """Publish a step. Raises NotOurs.

        The lease may be lost between asking for it and publishing, however long that takes: so the stream itself
        refuses a step that does not follow the last one that we know of.
        """
        if not await self._ours():
            raise NotOurs(f"the lease of {self._source} is another's")
        subject, step = subjects.events(self._source), f"{event.id}/{event.state}"
        try:
            seq = await self._bus.publish(subject, event, msg_id=step, after=self._last, patience=float("inf"))
        except Conflict as error:
            newest = await self._bus.last(subjects.EVENTS.name, subject, Event)
            if newest is None or newest.message != event:  # else it is this one, and only the answer was lost
                raise NotOurs(f"{self._source} has steps in EVENTS that another registrator told") from error
            seq = newest.seq
        self._last = max(self._last, seq)

    async def save(self) -> None:
        """Bring the store up to date; what it does not take now is kept for the next time."""
        for key, event in list(self._unsaved.items()):
            try:
                await self._store.save(event)
            except RedisError as error:
                log.warning("Redis does not take event %s yet: %s", key, error)
                return
            if self._unsaved.get(key) is event:
                del self._unsaved[key]


def _moved(event: Event, known: Event | None, state: EventState, reason: str) -> Event:
    before = known.transitions if known else []
    step = Transition(state=state, timestamp=time.time(), reason=reason)
    return event.model_copy(update={"state": state, "transitions": [*before, step], "reason": reason})
