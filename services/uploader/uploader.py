"""The uploader: spool to SeaweedFS, in order, then the claim check on FRAMES or AUDIO."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from framemesh import subjects
from framemesh.blobs import BlobStore
from framemesh.bus import settle_all
from framemesh.locks import is_at, lock
from framemesh.messages import Captured, Frame
from framemesh.pull import Pull
from framemesh.service import Service
from framemesh.settings import Settings
from framemesh.spool import Claim, Spool, SpoolError, default_folder
from framemesh.telemetry import new_trace

log = logging.getLogger(__name__)

BATCH = 16
RESCAN_SECONDS = 2.0
STANDBY_SECONDS = 0.5


class UploaderSettings(Settings):
    """Settings of the uploader."""

    spool_dir: Path = Field(
        default_factory=default_folder, description="The node's spool, shared with its readers"
    )


@dataclass
class Entry:
    """A spool entry on its way."""

    name: str
    claim: Claim
    data: bytes


class Uploader(Service[UploaderSettings]):
    """Stores the frames of this node. One uploader a spool works; a second one stands by."""

    kind = "Uploader"
    settings_type = UploaderSettings

    async def prepare(self) -> None:
        """Open the spool and the store, declare where claim checks go."""
        self._open()
        self._blobs = BlobStore(
            self.settings.master_url, volume_url=self.settings.volume_url, ttl=self.settings.ttl_bucket
        )
        self._frames = subjects.frames_stream(self.settings.topic_stream, self.settings.frame_ttl)
        await self.bus.declare(self._frames, subjects.audio_stream(self.settings.frame_ttl))

    async def run(self) -> None:
        """Work whenever no other uploader has the spool: two would put frames out of order."""
        while True:
            self._open()
            if (handle := lock(self._spool.folder)) is None:
                await asyncio.sleep(STANDBY_SECONDS)
                continue
            try:
                await self._work(handle)
            finally:
                os.close(handle)
            log.warning("the spool %s was removed; making it again", self._spool.folder)

    def _open(self) -> None:
        """Open the spool; where there is no folder, or no longer one, make it."""
        self._spool = Spool(self.settings.spool_dir)

    async def _work(self, handle: int) -> None:
        """Upload what a crash left behind, then what is captured; look into the folder now and then.

        Ends when the folder that ``handle`` has locked is removed: its lock is worth nothing then.
        """
        consumer = subjects.uploader_consumer(self.settings.node)
        pull: Pull[Captured] = await self.bus.pull(consumer, Captured, window=4 * BATCH)
        try:
            await self._rescan(older_than=0)
            scanned = time.monotonic()
            while True:
                envelopes = await pull.batch(BATCH, wait=RESCAN_SECONDS)
                await self._upload_all([name for item in envelopes for name in item.message.entries])
                await settle_all(envelopes)
                if time.monotonic() - scanned <= RESCAN_SECONDS:
                    continue
                if not is_at(handle, self._spool.folder):
                    return
                # Frames whose claims were lost with the server's memory still lie in the folder.
                await self._rescan(older_than=RESCAN_SECONDS)
                scanned = time.monotonic()
        finally:
            await pull.stop()

    async def finish(self) -> None:
        """Close the store's connections."""
        await self._blobs.close()

    async def _rescan(self, *, older_than: float) -> None:
        names = self._spool.names(older_than=older_than)
        if names:
            log.info("left in the spool: %d", len(names))
        await self._upload_all(names)

    async def _upload_all(self, names: list[str]) -> None:
        for begin in range(0, len(names), BATCH):
            entries = [self._read(name) for name in names[begin : begin + BATCH]]
            await self._upload([entry for entry in entries if entry])

    def _read(self, name: str) -> Entry | None:
        try:
            claim, data = self._spool.read(name)
        except FileNotFoundError:  # it was uploaded before
            return None
        except SpoolError as error:
            log.error("spool entry %s is dropped: %s", name, error)
            self._spool.remove(name)
            return None
        return Entry(name, claim, data)

    async def _upload(self, entries: list[Entry]) -> None:
        """Store a batch together, announce it in order, then let go of it."""
        urls = await asyncio.gather(*(self._store(entry) for entry in entries))
        claims = [entry.claim.model_copy(update={"url": url}) for entry, url in zip(entries, urls, strict=True)]
        await asyncio.gather(*(self._announce(claim) for claim in claims))
        for entry in entries:
            self._spool.remove(entry.name)

    async def _store(self, entry: Entry) -> str:
        content_type = "image/jpeg" if isinstance(entry.claim, Frame) else "audio/wav"
        return await self._blobs.put_patiently(entry.data, content_type=content_type)

    async def _announce(self, claim: Claim) -> None:
        # What is stored without a claim check would be lost: wait for JetStream however long it takes.
        await self.bus.publish(
            self._subject(claim), claim, msg_id=claim.key, trace=new_trace(), patience=float("inf")
        )

    def _subject(self, claim: Claim) -> str:
        if isinstance(claim, Frame):
            return subjects.frames(self.settings.topic_stream, claim.source)
        return subjects.audio(claim.source)
