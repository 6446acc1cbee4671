"""The search service: it has the index, and answers from it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from framemesh import subjects
from framemesh.errors import FramemeshError, StartAgain
from framemesh.messages import SearchReply, SearchRequest
from framemesh.search import ASK_S, QUERY_S
from framemesh.steps.functions import StepFailed
from framemesh.steps.worker import StepWorker
from framemesh.tasks import heed_cancellation
from services.search import upkeep
from services.search.answers import Answers
from services.search.embedder import Embedder, open_embedder
from services.search.finder import Finder, hit
from services.search.media import LocalLocks, MediaIndex
from services.search.projector import EventProjector, LabelProjector
from services.search.responder import Responder
from services.search.settings import SearchSettings
from services.search.shelf import Library, Shelf, library, shelf_name

log = logging.getLogger(__name__)

QUERIES, ASKS = 8, 8
"""At a time."""
MARGIN_S = 2.0
"""Whoever asks waits so much longer than the service works."""
REST_S = 5.0


class Search(StepWorker[SearchSettings]):
    """Does ``embed``, ``index`` and ``unindex``, takes events and labels up, and answers searches."""

    kind = "Search"
    settings_type = SearchSettings

    async def prepare(self) -> None:
        """Open the index, and say what is not set."""
        self._library: Library = library(self.settings)
        self._embedder = await self._opened()
        self._name = shelf_name(self._embedder.name, self._embedder.size, self.settings.search_language)
        self._shelf = await self._open_shelf()
        self._locked = self._locks()
        self.functions = MediaIndex(self.settings, self._shelf, self._embedder, self._alone).functions
        self._finder, self._answers = Finder(self._shelf, self._embedder), Answers(self.settings)
        if reason := self.settings.unset:
            log.info("%s; GET /ask will say so", reason)
        await super().prepare()
        await self._listen()
        log.info("%s: %d passages", self._name, await self._shelf.count())

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run())
            group.create_task(self._keeping())

    async def finish(self) -> None:
        """Let go of everything; called also when ``prepare`` failed half way."""
        for name in ("_queries", "_asks", "_answers", "_embedder", "_shelf", "_library"):
            if opened := getattr(self, name, None):
                await opened.close()
        if getattr(self, "_blobs", None):
            await super().finish()

    # -- opening ------------------------------------------------------------------------------------

    async def _opened(self) -> Embedder:
        try:
            return await open_embedder(self.settings)
        except StepFailed as error:
            raise StartAgain(f"no embeddings: {error}") from error

    async def _open_shelf(self) -> Shelf:
        """A new one knows nothing of what another was told: the streams are read from their beginning."""
        try:
            if self._name not in await self._library.names():
                await self._forget_place(self._name)  # before it is there: a kill in between loses nothing
            return (await self._library.open(self._name, self._embedder.size))[0]
        except (FramemeshError, asyncio.CancelledError):
            raise
        except StepFailed as error:
            raise StartAgain(str(error)) from error
        except Exception as error:  # of two libraries
            where = self.settings.search_url or self.settings.search_path
            said = f"the index at {where} cannot be opened (move it away where it is damaged): {error!r}"
            raise StartAgain(said[:500]) from error

    async def _forget_place(self, shelf: str) -> None:
        """Nobody knows any more how far a shelf had read the streams."""
        for stream in (subjects.EVENTS, subjects.RESULTS):
            await self.bus.declare(stream)
            await self.bus.delete_consumer(stream, subjects.search_consumer(stream, shelf).name)

    @asynccontextmanager
    async def _alone(self, media: str) -> AsyncIterator[None]:
        await upkeep.taken_over(self._library, self._name)
        async with self._locked(media):
            yield

    def _locks(self) -> Callable[[str], AbstractAsyncContextManager[Any]]:
        if not self.settings.search_url:
            return LocalLocks()
        return lambda media: self.registry.lease(f"search-media-{media}", secrets.token_hex(8))

    async def _listen(self) -> None:
        self._queries = Responder(self._query, QUERIES, QUERY_S - MARGIN_S)
        await self._queries.listen(self.bus, subjects.SEARCH_QUERY)
        self._asks = Responder(self._ask, ASKS, ASK_S - MARGIN_S)
        await self._asks.listen(self.bus, subjects.SEARCH_ASK)

    # -- answering ----------------------------------------------------------------------------------

    async def _query(self, asked: SearchRequest) -> SearchReply:
        return SearchReply(hits=[hit(found, asked.q) for found in await self._finder.find(asked)])

    async def _ask(self, asked: SearchRequest) -> SearchReply:
        found = await self._query(asked)
        return await self._answers.answer(asked.q, found.hits)

    # -- keeping ------------------------------------------------------------------------------------

    async def _keeping(self) -> None:
        """Of several replicas one takes events and labels up and keeps order, the others stand by."""
        while True:
            heed_cancellation()
            async with self.registry.lease(f"search-{self._name}", self.instance) as lost:
                works = asyncio.ensure_future(self._keep())
                losing = asyncio.ensure_future(lost.wait())
                try:
                    await asyncio.wait([works, losing], return_when=asyncio.FIRST_COMPLETED)
                    if works.done():
                        works.result()
                finally:
                    for task in (works, losing):
                        task.cancel()
                    await asyncio.wait([works, losing])

    async def _keep(self) -> None:
        parts = (self.settings, self.bus, self._shelf, self._embedder)
        events, labels = EventProjector(*parts), LabelProjector(*parts)
        async with asyncio.TaskGroup() as group:
            group.create_task(insisting(lambda: events.run(self._name)))
            group.create_task(insisting(lambda: labels.run(self._name)))
            group.create_task(insisting(self._take_over))
            group.create_task(insisting(lambda: upkeep.forgetting(self._shelf, self.settings)))

    async def _take_over(self) -> None:
        for other, size in (await upkeep.others(self._library, self._name)).items():
            await upkeep.take_over(self._library, other, size, self._shelf, self._embedder)
            await self._forget_place(other)


async def insisting(work: Callable[[], Awaitable[None]]) -> None:
    """Begin again after what may pass: a Qdrant or embeddings server that is away. Raises FramemeshError."""
    while True:
        try:
            return await work()
        except (FramemeshError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.warning("%s: %s; again in %g s", type(error).__name__, str(error)[:300], REST_S)
        heed_cancellation()
        await asyncio.sleep(REST_S)
