"""What keeps a shelf in order: what is too old goes, and what another model has made is made anew."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

from framemesh.messages import SearchKind
from services.search.embedder import Embedder
from services.search.passages import Passage, Point, Where
from services.search.settings import SearchSettings
from services.search.shelf import Library, Shelf, size_of

log = logging.getLogger(__name__)

EVERY_S = 600.0
WAIT_S = 1.0
BATCH = 64


async def forget(shelf: Shelf, settings: SearchSettings, now: float) -> None:
    """Take away events and labels whose time is over."""
    for kind, kept in ((SearchKind.EVENT, settings.kept_s), (SearchKind.LABEL, settings.labels_kept_s)):
        if kept:
            await shelf.clear(Where(kind=kind, before=now - kept))
    await shelf.flush()
    await shelf.tidy()


async def forgetting(shelf: Shelf, settings: SearchSettings) -> None:
    """Every ten minutes, until cancelled."""
    while True:
        await forget(shelf, settings, time.time())
        await asyncio.sleep(EVERY_S)


async def others(library: Library, name: str) -> dict[str, int]:
    """Shelves of other models than this one's, with the length of their vectors."""
    sizes = {other: size_of(other) for other in await library.names() if other != name}
    return {other: size for other, size in sizes.items() if size}


async def taken_over(library: Library, name: str) -> None:
    """Return when there are none: until then what a media has lost might yet be moved here."""
    while await others(library, name):
        await asyncio.sleep(WAIT_S)


async def take_over(library: Library, other: str, size: int, shelf: Shelf, embedder: Embedder) -> int:
    """Move what lies on the shelf of another model to this one, with new vectors; how many passages.

    One that is here already is newer. The shelf goes when all of it is here, so it may be killed at any time.
    """
    log.info("%s was made by another model: its passages get new vectors", other)
    old, _ = await library.open(other, size)
    moved = 0
    try:
        async for passages in _batches(old):
            known = await shelf.get([passage.id for passage in passages])
            fresh = [passage for passage in passages if passage.id not in known]
            vectors = await embedder.embed([passage.spoken for passage in fresh]) if fresh else []
            await shelf.put([Point(p, v) for p, v in zip(fresh, vectors, strict=True)])
            moved += len(fresh)
        await shelf.flush()
    finally:
        await old.close()
    await library.remove(other)
    log.info("%s: %d passages moved", other, moved)
    return moved


async def _batches(shelf: Shelf) -> AsyncIterator[list[Passage]]:
    held: list[Passage] = []
    async for point in shelf.all(Where()):
        held.append(point.passage)
        if len(held) == BATCH:
            yield held
            held = []
    if held:
        yield held
