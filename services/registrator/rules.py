"""When an event opens and closes: a pure state machine that only the results' own timestamps drive.

No clock and no I/O: the same results in the same order always give the same decisions, so a registrator
that starts again replays from ``RuleWatch.oldest`` and carries on as if it had never stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self
from uuid import NAMESPACE_URL, uuid5

from pydantic import BaseModel, ConfigDict, Field, model_validator

from framemesh.messages import Medium, Result

EVENT_NAMESPACE = uuid5(NAMESPACE_URL, "framemesh:event")


class Rule(BaseModel):
    """What has to be seen, how often and for how long, to make one event. All ``*_s`` are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("person", min_length=1)
    labels: set[str] = Field({"person"}, min_length=1, description="Any of these is a sighting")
    models: set[str] | None = Field(
        None, min_length=1, description="Only these models' results count; none: any model's"
    )
    confidence: float = Field(0.5, ge=0, le=1, description="Least confidence of a sighting")
    hits: int = Field(3, ge=1, description="Sightings within window_s that open an event")
    window_s: float = Field(3.0, gt=0, allow_inf_nan=False)
    idle_s: float = Field(2.0, gt=0, allow_inf_nan=False, description="Without a sighting, it closes")
    max_length_s: float = Field(60.0, gt=0, allow_inf_nan=False, description="Longest event")
    cooldown_s: float = Field(1.0, ge=0, allow_inf_nan=False, description="Rest after an event")
    pre_roll_s: float = Field(2.0, ge=0, allow_inf_nan=False, description="Video before the start")
    post_roll_s: float = Field(2.0, ge=0, allow_inf_nan=False, description="Video after the end")

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        # An event begins with a whole window, so a shorter limit could never be kept.
        if self.max_length_s < self.window_s:
            raise ValueError("max_length_s must not be shorter than window_s")
        return self


@dataclass(frozen=True, slots=True)
class Sighting:
    """A result that shows what the rule looks for."""

    result: Result
    labels: dict[str, float]  # matching label -> its highest confidence, in the order of the result

    @property
    def time(self) -> float:
        """Time of the frame, seconds since the epoch."""
        return self.result.timestamp

    @property
    def confidence(self) -> float:
        """Highest confidence of a matching label."""
        return max(self.labels.values())


@dataclass(frozen=True, slots=True)
class Sightings:
    """The sightings of one event so far. Times are seconds since the epoch."""

    id: str  # the same on every replay
    task_key: str  # of the result that opened the event
    first: Result  # the first hit; source and run are the event's
    start: float
    end: float  # the last sighting, or where max_length_s cut it
    counts: Counter[str]  # each label once a result
    best: Result  # with the highest confidence of a matching label; the first of equals
    confidence: float  # of the best
    models: frozenset[str]  # whose sightings these are

    @property
    def label(self) -> str:
        """The most frequent label; of equals the one that was seen first."""
        return self.counts.most_common(1)[0][0]

    def plus(self, sighting: Sighting) -> Sightings:
        """The same event with one sighting more."""
        better = sighting.confidence > self.confidence
        return replace(
            self,
            end=max(self.end, sighting.time),
            counts=self.counts + Counter(sighting.labels.keys()),
            best=sighting.result if better else self.best,
            confidence=max(self.confidence, sighting.confidence),
            models=self.models | {sighting.result.model},
        )


@dataclass(frozen=True, slots=True)
class Opened:
    """An event began; ``event`` holds what was seen up to here."""

    event: Sightings


@dataclass(frozen=True, slots=True)
class Closed:
    """An event is over; ``event`` is complete."""

    event: Sightings


Decision = Opened | Closed


class RuleWatch:
    """One rule over the results of one source.

    Feed results in the order of the stream. Timestamps may step back a little where models interleave:
    such a result still counts, but neither closes an event nor moves its end back.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._window: list[Sighting] = []  # towards the next event, as they came
        self._open: Sightings | None = None
        self._cooling: Sightings | None = None

    @property
    def oldest(self) -> Result | None:
        """The oldest result that still matters; a new watch fed from it on (included) decides alike.

        None when nothing fed so far matters: the replay may begin with the next result.
        """
        event = self._open or self._cooling
        if event is not None:
            return event.first
        return self._window[0].result if self._window else None

    @property
    def horizon(self) -> float | None:
        """Timestamp of ``oldest``, seconds since the epoch."""
        return None if self.oldest is None else self.oldest.timestamp

    @property
    def models(self) -> frozenset[str]:
        """Models whose sightings made the present state; empty when nothing matters."""
        event = self._open or self._cooling
        return event.models if event else frozenset(each.result.model for each in self._window)

    def feed(self, result: Result) -> list[Decision]:
        """Take one result; returns what it decided, a closing before an opening.

        Only models whose sightings made the present state pass its time: each model has its own pace, and
        a fast one that looks for something else must not run out the idle time of the one that is watched.
        """
        labels = self._matches(result)
        if not labels and result.model not in self.models:
            return []
        decisions = self._pass_time(result.timestamp)
        if labels:
            decisions += self._see(Sighting(result, labels))
        return decisions

    @property
    def open(self) -> str:
        """Id of the event that is going on; empty when none is."""
        return self._open.id if self._open else ""

    def finish(self) -> list[Closed]:
        """Close what is open, because the source ended."""
        return [] if self._open is None else [self._close(self._open, self._open.end)]

    def _matches(self, result: Result) -> dict[str, float]:
        labels: dict[str, float] = {}
        if self.rule.models is not None and result.model not in self.rule.models:
            return labels
        for found in result.result if result.error is None else []:
            if found.label in self.rule.labels and found.confidence >= self.rule.confidence:
                labels[found.label] = max(found.confidence, labels.get(found.label, 0.0))
        return labels

    def _pass_time(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        if self._open is not None and (end := self._end_at(self._open, now)) is not None:
            decisions.append(self._close(self._open, end))
        if self._cooling is not None and now >= self._cooling.end + self.rule.cooldown_s:
            self._cooling = None
        self._window = self._recent(self._window, now)
        return decisions

    def _end_at(self, event: Sightings, now: float) -> float | None:
        """Where the event ends if it is over at `now`; the earlier limit wins, however few results come."""
        full = event.start + self.rule.max_length_s
        idle = event.end + self.rule.idle_s
        if full <= idle:
            return full if now >= full else None
        return event.end if now > idle else None

    def _close(self, event: Sightings, end: float) -> Closed:
        self._open, self._cooling = None, replace(event, end=end)
        return Closed(self._cooling)

    def _see(self, sighting: Sighting) -> list[Decision]:
        if self._open is not None:
            self._open = self._open.plus(sighting)
            return []
        if self._cooling is not None:
            return []
        seen = [*self._window, sighting]
        self._window = self._recent(seen, max(each.time for each in seen))
        return [self._begin()] if len(self._window) >= self.rule.hits else []

    def _recent(self, sightings: Iterable[Sighting], now: float) -> list[Sighting]:
        return [each for each in sightings if now - each.time <= self.rule.window_s]

    def _begin(self) -> Opened:
        first, *others = self._window
        event = Sightings(
            id=self._event_id(first.result),
            task_key=self._window[-1].result.task_key,
            first=first.result,
            start=min(each.time for each in self._window),
            end=first.time,
            counts=Counter(first.labels.keys()),
            best=first.result,
            confidence=first.confidence,
            models=frozenset({first.result.model}),
        )
        for sighting in others:
            event = event.plus(sighting)
        self._window, self._open = [], event
        return Opened(event)

    def _event_id(self, first: Result) -> str:
        number = first.seq if first.medium is Medium.FRAME else f"{first.medium}/{first.seq}"  # each counts from 0
        identity = f"{first.source}/{first.run}/{number}/{self.rule.name}"
        return str(uuid5(EVENT_NAMESPACE, identity))
