"""Capturing: source to spool, in a thread of its own that never waits for the network."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from framemesh.errors import FramemeshError
from framemesh.messages import Delivery, Frame
from framemesh.spool import Spool
from framemesh.telemetry import redact
from services.reader.clock import FileClock, LiveClock
from services.reader.settings import Pace, ReaderSettings
from services.reader.video import Picture, SourceUnavailable, VideoReader, is_live, open_reader

log = logging.getLogger(__name__)

FIRST_RETRY = 0.5
WAIT = 0.25
LOG_EVERY = 100

OnFrame = Callable[[str, Frame], None]
"""Called from the capturing thread with a spool entry and its frame."""


class Backoff:
    """Delays that double up to a limit, with jitter so that a hundred readers do not knock at once."""

    def __init__(self, first: float, most: float) -> None:
        self._first, self._most = min(first, most), most
        self._next = self._first

    def reset(self) -> None:
        """The source is well again."""
        self._next = self._first

    def delay(self) -> float:
        """Seconds until the next try, never more than the limit."""
        now, self._next = self._next, min(self._most, self._next * 2)
        return now * random.uniform(0.6, 1)  # noqa: S311


class Window:
    """Lossless flow control: the reader waits while too many of its frames are not yet accepted by the router."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._accepted = 0
        self._moved = threading.Condition()

    def accept(self, frames: int) -> None:
        """The router has accepted this many frames of the run."""
        with self._moved:
            self._accepted = max(self._accepted, frames)
            self._moved.notify_all()

    def wait(self, captured: int, seconds: float) -> bool:
        """Wait up to ``seconds`` for room after ``captured`` frames; whether there is."""
        with self._moved:
            return self._moved.wait_for(lambda: captured - self._accepted < self._size, seconds)


@dataclass
class Counts:
    """What a run has done so far."""

    captured: int = 0
    dropped: int = 0
    corrupt: int = 0


class Capture:
    """One run of one source."""

    def __init__(
        self, settings: ReaderSettings, run: str, spool: Spool, on_frame: OnFrame, *, after: float = 0.0
    ) -> None:
        """``after`` is the time of the source's last frame in an earlier run, 0 for none."""
        self.settings = settings
        self.run_name = run
        self.counts = Counts()
        self.window = Window(settings.lossless_window)
        self.live = is_live(settings.video_source)
        self.delivery = settings.delivery or (Delivery.LIVE if self.live else Delivery.LOSSLESS)
        self._spool = spool
        self._on_frame = on_frame
        self._stop = threading.Event()
        self._seen = 0
        self._after = after
        self._live_clock = LiveClock(after)
        self._begun = time.monotonic()

    def stop(self) -> None:
        """End the run at the next frame."""
        self._stop.set()

    def run(self) -> None:
        """Capture until the source ends or is stopped. Raises FramemeshError when it cannot be read.

        A live source that goes away is opened again, for ever; run, counts and clock go on.
        """
        backoff = Backoff(FIRST_RETRY, self.settings.retry_seconds)
        self._begun = time.monotonic()
        while not self._stop.is_set() and not self._over(time.monotonic() - self._begun):
            try:
                self._read_once(backoff)
            except SourceUnavailable as error:
                if not self.live:
                    raise
                delay = backoff.delay()
                log.warning("%s; trying again in %.1f s", error, delay)
                self._stop.wait(delay)
            else:
                return

    def _over(self, seconds: float) -> bool:
        """Whether as much has been read as was asked for."""
        return 0 < self.settings.video_duration <= seconds

    def _read_once(self, backoff: Backoff) -> None:
        settings = self.settings
        with open_reader(
            settings.video_source, settings.reader_type, settings.video_stream, settings.read_timeout
        ) as reader:
            info = reader.info
            log.info(
                "reading %s, %dx%d, %s", redact(settings.video_source), info.width, info.height, self.delivery
            )
            before = self.counts.corrupt
            try:
                self._read(reader, backoff)
            finally:
                self.counts.corrupt = before + reader.corrupt

    def _read(self, reader: VideoReader, backoff: Backoff) -> None:
        clock = self._live_clock if self.live else FileClock(reader.info.fps, self._after)
        begun = time.monotonic()
        for picture in reader:
            backoff.reset()
            timestamp = clock.stamp(picture.pts)
            offset = clock.offset if isinstance(clock, FileClock) else time.monotonic() - self._begun
            if self._stop.is_set() or self._over(offset):
                return
            self._seen += 1
            if (self._seen - 1) % (self.settings.video_skip_frames + 1):
                continue
            if not self.live and self.settings.pace is Pace.REALTIME:
                self._stop.wait(max(0.0, begun + offset - time.monotonic()))
            self._keep(picture, timestamp)

    def _keep(self, picture: Picture, timestamp: float) -> None:
        captured_at = time.time()
        jpeg = picture.jpeg(self.settings.jpeg_quality)
        frame = self._frame(picture, timestamp, captured_at, len(jpeg))
        try:
            if not self._room():
                if not self._stop.is_set():
                    self._drop("the spool is full")
                return
            entry = self._spool.write(frame, jpeg)
        except OSError as error:
            if self.delivery is Delivery.LOSSLESS:
                raise FramemeshError(
                    f"spool_dir {self._spool.folder}: {error.strerror}; make room there"
                ) from error
            self._drop(f"spool_dir {self._spool.folder}: {error.strerror}")
            return
        self.counts.captured += 1
        self._on_frame(entry, frame)

    def _frame(self, picture: Picture, timestamp: float, captured_at: float, size: int) -> Frame:
        return Frame(
            source=self.settings.source_name,
            run=self.run_name,
            seq=self.counts.captured,
            frame_id=f"frame_{self.counts.captured:06d}",
            url="",
            timestamp=timestamp,
            pts=picture.pts,
            width=picture.width,
            height=picture.height,
            bytes=size,
            captured_at=captured_at,
            delivery=self.delivery,
        )

    def _room(self) -> bool:
        """A live source drops a frame rather than wait; a lossless one waits."""
        if self.delivery is Delivery.LIVE:
            return not self._spool.full()
        while not self._stop.is_set():
            if not self._spool.full() and self.window.wait(self.counts.captured, WAIT):
                return True
            if self._spool.full():
                self._stop.wait(WAIT)
        return False

    def _drop(self, reason: str) -> None:
        self.counts.dropped += 1
        if self.counts.dropped % LOG_EVERY == 1:
            log.warning("%d frames dropped so far: %s", self.counts.dropped, reason)
