"""Evidence of an event: its frames read back by time, as a video, and its best frame as a picture."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from framemesh import subjects
from framemesh.blobs import BlobError, BlobMissing, BlobStore
from framemesh.buckets import Bucket
from framemesh.bus import Bus
from framemesh.messages import Event, Frame, SourceState
from framemesh.timeline import between, thinned
from services.registrator.blur import FaceBlur
from services.registrator.evidence import EvidenceError, VideoWriter, draw
from services.registrator.rules import Rule
from services.registrator.settings import RegistratorSettings

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

FPS = 10
NICE = 15
FETCH = 8
POST_ROLL_PATIENCE = 15.0
HEARD_SECONDS = 5.0
"""How far from a sound its picture may be."""
UPLOAD_PATIENCE = 300.0
TYPES = {".mp4": "video/mp4", ".jpg": "image/jpeg"}


def _give_way() -> None:
    """Lower this thread's priority: evidence may take a little longer, results may not."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class Proofs:
    """Makes and stores evidence, one event at a time, so that it never crowds out the live path."""

    def __init__(self, settings: RegistratorSettings, bus: Bus) -> None:
        self._settings = settings
        self._bus = bus
        self._blobs = BlobStore(settings.master_url)
        keys = settings.s3_access_key, settings.s3_secret_key
        self._bucket = Bucket(settings.s3_url, settings.evidence_bucket, *keys)
        self._stream = subjects.frames_stream(settings.topic_stream, settings.frame_ttl).name
        self._turn = asyncio.Semaphore(1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="evidence", initializer=_give_way)
        self._blur = FaceBlur(settings.blur_model) if settings.blur_faces else None

    async def close(self) -> None:
        """Close the store's connections."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._blobs.close()

    def folder(self, event: Event) -> Path:
        """Where an event's evidence lies on this node."""
        return self._settings.tmp_path / event.id

    async def make(self, event: Event, rule: Rule) -> Event:
        """Write MP4 and JPEG; returns the event with their paths. Raises EvidenceError."""
        await self._await_post_roll(event, event.end + rule.post_roll_s)
        async with self._turn:
            folder = self.folder(event)
            folder.mkdir(parents=True, exist_ok=True)
            image = await self._picture(event, folder / f"{event.id}.jpg")
            video = await self._video(event, rule, folder / f"{event.id}.mp4")
        return event.model_copy(update={"video_proofs": str(video), "image_proof_path": str(image)})

    async def store(self, event: Event) -> Event:
        """Copy the evidence into the bucket; returns the event with its URLs. Raises EvidenceError."""
        video = await self._upload(Path(event.video_proofs), f"{event.id}/{event.id}.mp4")
        image = await self._upload(Path(event.image_proof_path), f"{event.id}/{event.id}.jpg")
        return event.model_copy(update={"video_url": video, "image_url": image})

    async def _await_post_roll(self, event: Event, until: float) -> None:
        deadline = time.monotonic() + until - event.end + POST_ROLL_PATIENCE
        subject = subjects.frames(self._settings.topic_stream, event.source)
        while time.monotonic() < deadline:
            last = await self._bus.last(self._stream, subject, Frame)
            if (last and last.message.timestamp >= until) or await self._ended(event.source):
                return
            await asyncio.sleep(0.25)

    async def _ended(self, source: str) -> bool:
        state = await self._bus.last(subjects.SOURCES.name, subjects.source_state(source), SourceState)
        return bool(state and state.message.state != "started")

    async def _picture(self, event: Event, path: Path) -> Path:
        url = event.message.frame_url or await self._frame_at(event.source, event.message.timestamp)
        try:
            jpeg = await self._blobs.get_patiently(url)
        except (BlobMissing, BlobError) as error:
            raise EvidenceError(f"the best frame cannot be read: {error}") from error
        jpeg = await self._hidden(event.message.timestamp, jpeg, anew=True)
        title = f"{event.source} {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(event.message.timestamp))} UTC"
        drawn = await self._aside(draw, jpeg, event.message.result, title)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_bytes(drawn)
        part.replace(path)
        return path

    async def _frame_at(self, source: str, timestamp: float) -> str:
        """Where the frame lies that was seen when something was heard."""
        subject = subjects.frames(self._settings.topic_stream, source)
        async for frame in between(self._bus, self._stream, subject, timestamp, timestamp + HEARD_SECONDS):
            return frame.url
        raise EvidenceError("it was heard, and there are no pictures of it")

    async def _hidden(self, timestamp: float, jpeg: bytes, *, anew: bool = False) -> bytes:
        """The JPEG as it may be shown."""
        if self._blur is None:
            return jpeg
        if anew:
            self._blur.forget()
        return await self._aside(self._blur, timestamp, jpeg)

    async def _video(self, event: Event, rule: Rule, path: Path) -> Path:
        subject = subjects.frames(self._settings.topic_stream, event.source)
        frames = between(
            self._bus, self._stream, subject, event.start - rule.pre_roll_s, event.end + rule.post_roll_s
        )
        with VideoWriter(path, FPS, encoder=self._settings.video_encoder or None) as writer:
            async for timestamp, jpeg in self._fetched(thinned(frames, FPS)):
                await self._aside(writer.add, timestamp, await self._hidden(timestamp, jpeg))
            await self._aside(writer.finish)
        return path

    async def _aside(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do heavy work in the thread that gives way to everything else on the machine."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])  # the encoder must not be closed under the thread's hands
            raise

    async def _fetched(self, frames: AsyncIterator[Frame]) -> AsyncIterator[tuple[float, bytes]]:
        """JPEGs in order, a few fetched at a time; one that is gone leaves a gap, which the video holds."""
        batch: list[Frame] = []
        async for frame in frames:
            batch.append(frame)
            if len(batch) == FETCH:
                async for item in self._fetch(batch):
                    yield item
                batch = []
        async for item in self._fetch(batch):
            yield item

    async def _fetch(self, frames: list[Frame]) -> AsyncIterator[tuple[float, bytes]]:
        jpegs = await asyncio.gather(
            *(self._blobs.get_patiently(frame.url) for frame in frames), return_exceptions=True
        )
        for frame, jpeg in zip(frames, jpegs, strict=True):
            if isinstance(jpeg, bytes):
                yield frame.timestamp, jpeg
            else:
                log.warning("%s is missing from the evidence: %s", frame.frame_id, jpeg)

    async def _upload(self, path: Path, key: str) -> str:
        deadline = time.monotonic() + UPLOAD_PATIENCE
        delay = 0.5
        while True:
            try:
                await self._bucket.create()
                await self._bucket.put(key, path, TYPES[path.suffix])
                return self._bucket.url(key)
            except (BlobError, BlobMissing, OSError) as error:
                if time.monotonic() > deadline:
                    raise EvidenceError(str(error)) from error
                log.warning("%s; trying again", error)
            await asyncio.sleep(delay)
            delay = min(30.0, delay * 2)
