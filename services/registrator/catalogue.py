"""The task catalogue: every event through CREATED, PENDING, DONE and FINISHED, or ERROR, each step told once."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from framemesh import subjects
from framemesh.bus import Bus
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

    async def load(self, since: float) -> None:
        """Learn what was told from ``since`` on (epoch seconds), so that a replay tells nothing twice."""
        subject = subjects.events(self._source)
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
        """Take an event to ``state``: log it, publish it, keep it in the event and in the store."""
        known = self._events.get(event.id)
        if known is None or state in NEXT[known.state]:
            if not await self._ours():
                raise NotOurs(f"the lease of {self._source} is another's")
            event = _moved(event, known, state, reason)
            await self._bus.publish(
                subjects.events(self._source), event, msg_id=f"{event.id}/{state}", patience=float("inf")
            )
            log.info(
                "event %s %s %s: %s%s", event.id, event.source, event.label, state, f": {reason}" if reason else ""
            )
            self._events[event.id] = event
            self._unsaved[event.id] = event
            await self.save()
        return self._events[event.id]

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
