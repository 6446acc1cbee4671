"""The reader: one source, many replicas, of which one holds the lease and captures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from typing import Literal

from framemesh import subjects
from framemesh.bus import BusError
from framemesh.errors import FramemeshError
from framemesh.messages import AudioWindow, Captured, Delivery, Frame, SourceState
from framemesh.service import Service
from framemesh.spool import Claim as Held
from framemesh.spool import Spool, end
from framemesh.telemetry import redact
from services.reader.capture import Capture, Window
from services.reader.settings import ReaderSettings
from services.reader.video import is_live

log = logging.getLogger(__name__)

BATCH = 64
FLOOR_SECONDS = 0.2
PROGRESS_SECONDS = 30.0
LAST_WORDS_SECONDS = 1.0
TOGETHER_SECONDS = 0.02

Claim = tuple[str, Held]
"""A spool entry and what it holds."""


class Reader(Service[ReaderSettings]):
    """Captures one source. Ends when a file has ended; a camera is read until the reader is stopped."""

    kind = "Reader"
    settings_type = ReaderSettings

    async def prepare(self) -> None:
        """Open the spool, declare what is needed."""
        self._spool = Spool(self.settings.spool_dir, self.settings.spool_max_mb << 20)
        self._frames = subjects.frames_stream(self.settings.topic_stream, self.settings.frame_ttl)
        self._audio = subjects.audio_stream(self.settings.frame_ttl)
        await self.bus.declare(subjects.CAPTURED, subjects.SOURCES, self._frames, self._audio)

    async def run(self) -> None:
        """Capture whenever this instance holds the source's lease, until the source has ended."""
        while True:
            async with self.registry.lease(f"reader-{self.settings.source_name}", self.instance) as lost:
                if not is_live(self.settings.video_source) and await self._was_read():
                    log.info("%s was read to its end by another reader", self.settings.source_name)
                    return
                if await self._capture_until(lost):
                    return
            log.warning("another reader has %s; standing by", self.settings.source_name)

    async def _capture_until(self, lost: asyncio.Event) -> bool:
        """Capture until the source ends (True) or the lease is lost (False)."""
        work = asyncio.create_task(self._capture())
        watch = asyncio.create_task(lost.wait())
        try:
            await asyncio.wait([work, watch], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
                return True
            return False
        finally:
            watch.cancel()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])

    async def _capture(self) -> None:
        loop = asyncio.get_running_loop()
        run = f"{int(time.time() * 1000):x}-{secrets.token_hex(2)}"
        claims: asyncio.Queue[Claim | None] = asyncio.Queue()
        capture = Capture(
            self.settings,
            run,
            self._spool,
            lambda entry, held: _hand_over(loop, claims, (entry, held)),
            after=await self._last_time(),
        )
        reading = loop.run_in_executor(None, capture.run)
        announcing = asyncio.create_task(self._announce(claims, capture.delivery))
        helpers = [announcing, asyncio.create_task(self._report_progress(capture))]
        if capture.delivery is Delivery.LOSSLESS:
            helpers += [
                asyncio.create_task(self._watch_floor(capture.run_name, capture.frames, self._frames, Frame)),
                asyncio.create_task(
                    self._watch_floor(capture.run_name, capture.windows, self._audio, AudioWindow)
                ),
            ]
        try:
            await self._state(capture, "started")
            await asyncio.shield(reading)
            claims.put_nowait(None)
            await announcing
            await self._state(capture, "ended")
        except Exception as error:
            kind = "" if isinstance(error, FramemeshError) else f"{type(error).__name__}: "
            await self._state(capture, "failed", redact(f"{kind}{error}"))
            raise
        except asyncio.CancelledError:
            capture.stop()
            await asyncio.wait([reading], timeout=LAST_WORDS_SECONDS)
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self._state(capture, "ended", "the reader was stopped")
            raise
        finally:
            capture.stop()
            for helper in helpers:
                helper.cancel()
        counts = capture.counts
        log.info("%s ended; frames: %d, windows: %d", self.settings.source_name, counts.captured, counts.windows)

    async def _last_time(self) -> float:
        """Time at which the source has ended so far: a file that is read again must not go back in time."""
        frame = await self.bus.last(self._frames.name, self._subject(Frame), Frame)
        window = await self.bus.last(self._audio.name, self._subject(AudioWindow), AudioWindow)
        stored = [end(found.message) for found in (frame, window) if found]
        return max([self._spool.latest(self.settings.source_name), *stored])

    def _subject(self, kind: type[Frame] | type[AudioWindow]) -> str:
        if kind is Frame:
            return subjects.frames(self.settings.topic_stream, self.settings.source_name)
        return subjects.audio(self.settings.source_name)

    async def _was_read(self) -> bool:
        """Whether another reader has finished this file while we stood by."""
        subject = subjects.source_state(self.settings.source_name)
        stored = await self.bus.last(subjects.SOURCES.name, subject, SourceState)
        ended = bool(stored and stored.message.state in {"ended", "settled"} and not stored.message.reason)
        return ended and stored is not None and stored.message.timestamp > self.started

    async def _announce(self, claims: asyncio.Queue[Claim | None], delivery: Delivery) -> None:
        """Tell the uploader of new entries; while NATS is away they wait in the spool."""
        while True:
            batch = [await claims.get()]
            if delivery is Delivery.LOSSLESS:  # nobody waits for this very frame: a few together cost less
                await asyncio.sleep(TOGETHER_SECONDS)
            while not claims.empty() and len(batch) < BATCH:
                batch.append(claims.get_nowait())
            await self._claim([claim for claim in batch if claim])
            if None in batch:
                return

    async def _claim(self, claims: list[Claim]) -> None:
        if not claims:
            return
        message = Captured(entries=[entry for entry, _ in claims])
        # By the entry's name: a frame and a window may have the same key.
        subject, msg_id = subjects.captured(self.settings.node), f"{claims[0][0]}+{len(claims)}"
        try:
            await self.bus.publish(subject, message, msg_id=msg_id, patience=5)
        except BusError as error:
            log.warning("%s; the uploader will find the frames in the spool", error)

    async def _watch_floor(
        self, run: str, window: Window, stream: subjects.Stream, kind: type[Frame] | type[AudioWindow]
    ) -> None:
        """Move a window to the first claim check of the run that the router has not yet accepted."""
        router, subject = subjects.router_consumer(stream), self._subject(kind)
        while True:
            await asyncio.sleep(FLOOR_SECONDS)
            try:
                info = await self.bus.consumer_info(router)
                floor = info.ack_floor.stream_seq if info and info.ack_floor else 0
                first = await self.bus.at_or_after(stream.name, subject, floor + 1, kind)
                if first and first.message.run == run:
                    window.accept(first.message.seq)
                elif not first and (last := await self.bus.last(stream.name, subject, kind)):
                    window.accept(last.message.seq + 1 if last.message.run == run else 0)
            except Exception as error:  # the servers may be away for a while; the window stays where it is
                log.debug("cannot look at the router's progress: %s", error)

    async def _report_progress(self, capture: Capture) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            counts = capture.counts
            log.info(
                "captured frames: %d, audio windows: %d; dropped: %d, corrupt: %d",
                counts.captured, counts.windows, counts.dropped, counts.corrupt,
            )  # fmt: skip

    async def _state(
        self, capture: Capture, state: Literal["started", "ended", "failed"], reason: str = ""
    ) -> None:
        name = self.settings.source_name
        message = SourceState(
            source=name,
            run=capture.run_name,
            state=state,
            address=redact(self.settings.video_source),
            delivery=capture.delivery,
            frames=capture.counts.captured,
            windows=capture.counts.windows,
            corrupt=capture.counts.corrupt,
            reason=reason,
            timestamp=time.time(),
        )
        await self.bus.publish(subjects.source_state(name), message, msg_id=f"{name}/{capture.run_name}/{state}")


def _hand_over(loop: asyncio.AbstractEventLoop, claims: asyncio.Queue[Claim | None], claim: Claim) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the uploader will find the frame in the spool
        loop.call_soon_threadsafe(claims.put_nowait, claim)
