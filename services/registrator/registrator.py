"""The registrator: any number of replicas, each source kept by the one that holds its lease."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod

from redis.exceptions import RedisError

from framemesh import subjects
from framemesh.encoders import pick_encoder
from framemesh.events import EventStore
from framemesh.messages import SourceState, Told
from framemesh.service import Service
from services.registrator.catalogue import Catalogue, NotOurs
from services.registrator.keeper import Keeper
from services.registrator.proofs import Proofs
from services.registrator.rules import RuleWatch
from services.registrator.settings import RegistratorSettings

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
SEARCH_SECONDS = 5.0


class AbstractEventRegistrator(Service[RegistratorSettings]):
    """Keeps sources: leases, order, catalogue and evidence. What makes an event is for ``watches`` to say."""

    kind = "Registrator"
    settings_type = RegistratorSettings

    @abstractmethod
    def watches(self, source: str) -> list[RuleWatch]:
        """New watches, with nothing seen, for one source."""

    async def prepare(self) -> None:
        """Declare streams, find the encoder, open the bucket."""
        pick_encoder(self.settings.video_encoder or None)
        frames = subjects.frames_stream(self.settings.topic_stream, self.settings.frame_ttl)
        await self.bus.declare(frames, subjects.RESULTS, subjects.EVENTS, subjects.SOURCES)
        self._proofs = Proofs(self.settings, self.bus)
        self._store = EventStore(self.registry.redis)
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._wanted: set[str] = set()
        self._known: set[str] = set()
        self._seen = self._told = 0
        self._searched = time.monotonic()

    async def run(self) -> None:
        """Keep every source that nobody else keeps."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._look()
                self._keepers = {source: task for source, task in self._keepers.items() if not task.done()}
                for source in sorted(self._wanted):
                    if source not in self._keepers:
                        self._keepers[source] = group.create_task(self._keep(source))
                await asyncio.sleep(LOOK_SECONDS)

    async def finish(self) -> None:
        """Close the store's connections."""
        await self._proofs.close()

    async def _look(self) -> None:
        """Read what is new of the sources' runs: those that are not settled want a keeper."""
        async for stored in self.bus.read(subjects.SOURCES.name, "sources.*", self._seen + 1, SourceState):
            self._seen = stored.seq
            source = stored.message.source
            if stored.message.state == "settled":
                self._wanted.discard(source)
            else:
                self._wanted.add(source)
            self._known.add(source)
        async for stored_event in self.bus.read(subjects.EVENTS.name, "events.*", self._told + 1, Told):
            self._told = stored_event.seq  # read so that what is no event there does not lie unnoticed
        if time.monotonic() - self._searched > SEARCH_SECONDS:
            self._searched = time.monotonic()
            await self._search()

    async def _search(self) -> None:
        """Results may come from elsewhere than our readers: keep their sources too."""
        info = await self.bus.stream_info(subjects.RESULTS.name, subjects.results("*", "*"))
        found = {subject.split(".")[3] for subject in (info.state.subjects if info else None) or {}}
        self._wanted |= found - self._known
        self._known |= found

    async def _keep(self, source: str) -> None:
        try:
            async with self.registry.lease(f"registrator-{source}", self.instance) as lost:
                keeper = asyncio.create_task(self._keeper(source).run())
                watch = asyncio.create_task(lost.wait())
                try:
                    await asyncio.wait([keeper, watch], return_when=asyncio.FIRST_COMPLETED)
                    if keeper.done():
                        await keeper
                finally:
                    keeper.cancel()
                    watch.cancel()
                    await asyncio.wait([keeper])
        except asyncio.CancelledError:
            raise
        except NotOurs as error:
            log.warning("%s", error)
        except Exception:  # one source's trouble is not the others'; the ack floor lets it go on where it was
            log.exception("%s: begins again from its checkpoint", source)
            await asyncio.sleep(1)

    def _keeper(self, source: str) -> Keeper:
        catalogue = Catalogue(source, self.bus, self._store, lambda: self._is_ours(source))
        topic = self.settings.topic_stream
        watches = self.watches(source)
        return Keeper(source, topic, self.bus, catalogue=catalogue, proofs=self._proofs, watches=watches)

    async def _is_ours(self, source: str) -> bool:
        """Whether we hold the source's lease. While Redis is away nobody can take it."""
        try:
            return await self.registry.acquire(f"registrator-{source}", self.instance)
        except RedisError:
            return True


class BasicEventRegistrator(AbstractEventRegistrator):
    """Events by the rules of the settings."""

    def watches(self, source: str) -> list[RuleWatch]:
        """One watch for each rule."""
        return [RuleWatch(rule) for rule in self.settings.event_rules]
