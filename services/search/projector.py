"""Events and labels of the streams, laid on the shelf as they come; a replay changes nothing."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from framemesh.bus import Bus, settle_all
from framemesh.memo import Memo
from framemesh.messages import Classification, Detection, Event, Face, Finding, Message, Result, SearchKind, Told
from framemesh.pull import Envelope
from framemesh.subjects import EVENTS, RESULTS, Stream, search_consumer
from framemesh.tasks import heed_cancellation
from services.search.embedder import Embedder
from services.search.passages import Passage, Point, Vector
from services.search.settings import SearchSettings
from services.search.shelf import Shelf

BATCH = 1024
GATHER_S = 1.0
"""Seconds in which what comes is put together before it is written."""
MOST_VECTORS = 4096
MOST_LABELS = 64
"""Labels of one passage; those that were seen first stay."""

M = TypeVar("M", bound=Message)


class Projector(ABC, Generic[M]):
    """Takes a stream up. It acks only what is on disk, so what a kill costs comes again."""

    stream: Stream
    message: type[M]

    def __init__(self, settings: SearchSettings, bus: Bus, shelf: Shelf, embedder: Embedder) -> None:
        self._settings, self._bus, self._shelf, self._embedder = settings, bus, shelf, embedder
        self._vectors: Memo[Vector] = Memo(MOST_VECTORS)

    async def run(self, shelf_name: str) -> None:
        """Until cancelled."""
        pull = await self._bus.pull(search_consumer(self.stream, shelf_name), self.message, window=2 * BATCH)
        try:
            while True:
                heed_cancellation()
                found = await pull.batch(BATCH)
                if len(found) < BATCH:
                    await asyncio.sleep(GATHER_S)
                    found += await pull.batch(BATCH - len(found), wait=0)
                await self._take(found)
        finally:
            await pull.stop()

    async def _take(self, envelopes: Sequence[Envelope[M]]) -> None:
        await self.take([envelope.message for envelope in envelopes])
        await settle_all(envelopes)

    async def take(self, messages: Sequence[M]) -> None:
        """Lay down what these say, beside what is known already."""
        wanted = {passage.id: passage for passage in self.passages(messages)}
        known = await self._shelf.get(list(wanted)) if wanted else {}
        merged = [self.merged(p, known[p.id].passage if p.id in known else None) for p in wanted.values()]
        changed = [p for p in merged if p and not (p.id in known and known[p.id].passage == p)]
        if changed:
            vectors = await self._embedded([p.spoken for p in changed])
            await self._shelf.put([Point(p, v) for p, v in zip(changed, vectors, strict=True)])
            await self._shelf.flush()

    async def _embedded(self, texts: Sequence[str]) -> list[Vector]:
        fresh = sorted({text for text in texts if self._vectors.get(text) is None})
        made = dict(zip(fresh, await self._embedder.embed(fresh) if fresh else [], strict=True))
        for text, vector in made.items():
            self._vectors.keep(text, vector)
        return [made[text] if text in made else self._known(text) for text in texts]

    def _known(self, text: str) -> Vector:
        vector = self._vectors.get(text)
        assert vector is not None  # noqa: S101 - a batch is smaller than what is kept
        return vector

    @abstractmethod
    def passages(self, messages: Sequence[M]) -> Iterable[Passage]:
        """What these say, one passage an id."""

    @abstractmethod
    def merged(self, new: Passage, old: Passage | None) -> Passage | None:
        """The passage that is to lie there; None where nothing is to change."""


class EventProjector(Projector[Told]):
    """Events in their newest state, with their evidence."""

    stream, message = EVENTS, Told

    def passages(self, messages: Sequence[Told]) -> Iterable[Passage]:
        """The newest of each."""
        newest: dict[str, Event] = {}
        for event in filter(None, (told.event for told in messages)):
            if _kept(event.start, self._settings.kept_s) and _newer(event, newest.get(event.id)):
                newest[event.id] = event
        return map(event_passage, newest.values())

    def merged(self, new: Passage, old: Passage | None) -> Passage | None:
        """The one that has come further."""
        return None if old and old.version > new.version else new


class LabelProjector(Projector[Result]):
    """What models found in a source, a passage a span of time: labels with their first and last sighting."""

    stream, message = RESULTS, Result

    def passages(self, messages: Sequence[Result]) -> Iterable[Passage]:
        """One of each source and span."""
        spans: dict[tuple[str, int], dict[str, tuple[float, float]]] = {}
        for result in messages:
            if labels := self._labels(result):
                span = spans.setdefault((result.source, int(result.timestamp // self._settings.search_span)), {})
                _sighted(span, dict.fromkeys(labels, (result.timestamp, result.timestamp)))
        return [self._passage(source, number, span) for (source, number), span in spans.items()]

    def merged(self, new: Passage, old: Passage | None) -> Passage | None:
        """Both together."""
        if old is None:
            return new
        labels = dict(old.labels)
        _sighted(labels, new.labels)
        return label_passage(new.source, new.media, labels)

    def _labels(self, result: Result) -> set[str]:
        if not _kept(result.timestamp, self._settings.labels_kept_s):
            return set()
        return {
            found.label
            for found in result.result
            if isinstance(found, Detection | Classification | Face | Finding)
            and found.label
            and found.confidence >= self._settings.search_confidence
        }

    def _passage(self, source: str, number: int, labels: dict[str, tuple[float, float]]) -> Passage:
        return label_passage(source, f"{self._settings.search_span}/{number}", labels)


def event_passage(event: Event) -> Passage:
    """How an event is found: by what was seen, where, and its rule."""
    seen = ", ".join(sorted(event.counts) or [event.label])
    rule = "" if event.rule in event.counts else f" ({event.rule})"
    return Passage(
        kind=SearchKind.EVENT, text=f"{seen} seen at {_readable(event.source)}{rule}", start=event.start,
        end=event.end, time=event.start, media=event.id, source=event.source,
        link=event.video_url or event.image_url, version=len(event.transitions),
    )  # fmt: skip


def label_passage(source: str, span: str, labels: dict[str, tuple[float, float]]) -> Passage:
    """How the labels of a span are found."""
    kept = dict(sorted(sorted(labels.items(), key=lambda item: item[1][0])[:MOST_LABELS]))
    start, end = min(first for first, _ in kept.values()), max(last for _, last in kept.values())
    return Passage(
        kind=SearchKind.LABEL, text=f"{', '.join(kept)} at {_readable(source)}", start=start, end=end, time=start,
        media=span, source=source, labels=kept,
    )  # fmt: skip


def _readable(source: str) -> str:
    return " ".join(source.replace("_", " ").replace("-", " ").split())


def _newer(event: Event, than: Event | None) -> bool:
    return than is None or len(event.transitions) >= len(than.transitions)


def _kept(when: float, seconds: float) -> bool:
    return not seconds or when >= time.time() - seconds


def _sighted(labels: dict[str, tuple[float, float]], more: dict[str, tuple[float, float]]) -> None:
    for label, (first, last) in more.items():
        begin, end = labels.get(label, (first, last))
        labels[label] = (min(begin, first), max(end, last))
