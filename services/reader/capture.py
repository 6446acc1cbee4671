"""Capturing: source to spool, in a thread of its own that never waits for the network."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from framemesh import audio
from framemesh.errors import FramemeshError
from framemesh.messages import AudioWindow, Delivery, Frame
from framemesh.spool import Claim, Spool
from framemesh.telemetry import redact
from services.reader.clock import FileClock, LiveClock, LiveSound
from services.reader.pieces import Sound
from services.reader.settings import Pace, ReaderSettings
from services.reader.sound import Listening, Windows
from services.reader.sound import Window as SoundWindow
from services.reader.video import Picture, SourceUnavailable, VideoInfo, VideoReader, is_live, open_reader

log = logging.getLogger(__name__)

FIRST_RETRY = 0.5
WAIT = 0.25
LOG_EVERY = 100

AUDIO_WINDOWS = 32
"""Most windows of a lossless source on their way to the models."""
SOUND_LAG = 1.0
"""Most seconds by which a file stores sound before or after its pictures."""

OnEntry = Callable[[str, Claim], None]
"""Called from the capturing thread with a spool entry and what it holds."""


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
    """Lossless flow control: the reader waits while too much of its own is not yet accepted by the router."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._accepted = 0
        self._moved = threading.Condition()

    def accept(self, count: int) -> None:
        """The router has accepted this many of the run."""
        with self._moved:
            self._accepted = max(self._accepted, count)
            self._moved.notify_all()

    def wait(self, captured: int, seconds: float) -> bool:
        """Wait up to ``seconds`` for room after ``captured`` of them; whether there is."""
        with self._moved:
            return self._moved.wait_for(lambda: captured - self._accepted < self._size, seconds)


@dataclass
class Counts:
    """What a run has done so far."""

    captured: int = 0
    windows: int = 0
    dropped: int = 0
    corrupt: int = 0


class Capture:
    """One run of one source."""

    def __init__(
        self, settings: ReaderSettings, run: str, spool: Spool, on_entry: OnEntry, *, after: float = 0.0
    ) -> None:
        """``after`` is the time of the source's last frame in an earlier run, 0 for none."""
        self.settings = settings
        self.run_name = run
        self.counts = Counts()
        self.frames = Window(settings.lossless_window)
        self.windows = Window(AUDIO_WINDOWS)
        self.live = is_live(settings.video_source)
        self.delivery = settings.delivery or (Delivery.LIVE if self.live else Delivery.LOSSLESS)
        self._spool = spool
        self._on_entry = on_entry
        self._stop = threading.Event()
        self._seen = 0
        self._after = after
        self._live_clock = LiveClock(after)
        self._missed: set[int | None] = set()
        self._numbers: Counter[int | None] = Counter()
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
            settings.video_source,
            settings.reader_type,
            settings.video_stream,
            settings.read_timeout,
            sound=settings.source_audio,
            audio_stream=settings.audio_stream,
        ) as reader:
            log.info("reading %s, %s, %s", redact(settings.video_source), reader.info, self.delivery)
            before = self.counts.corrupt
            try:
                self._read(reader, backoff)
            finally:
                self.counts.corrupt = before + reader.corrupt

    def _read(self, reader: VideoReader, backoff: Backoff) -> None:
        info = reader.info
        clock = self._live_clock if self.live else FileClock(info.fps, self._after, info.sound_start)
        sound = self._listening(clock)
        begun = time.monotonic()
        seen = heard = 0.0
        try:
            for piece in reader:
                backoff.reset()
                if isinstance(piece, Sound):
                    heard = self._hear(piece, sound, begun, alone=not info.width)
                else:
                    seen = self._see(piece, clock, begun)
                if self._stop.is_set() or self._enough(seen, heard, info):
                    return
        finally:
            sound.finish()

    def _enough(self, seen: float, heard: float, info: VideoInfo) -> bool:
        """Whether all that was asked for has been seen and heard."""
        if self.live:
            return self._over(time.monotonic() - self._begun)
        if not info.width:
            return self._over(heard)
        return self._over(seen) and (not info.sound or self._over(max(heard, seen - SOUND_LAG)))

    def _listening(self, clock: LiveClock | FileClock) -> Listening:
        settings = self.settings
        windows = Windows(
            settings.audio_window, settings.audio_overlap, each_channel=settings.audio_channels == "each"
        )
        own = clock if isinstance(clock, FileClock) else LiveSound(clock)
        until = math.inf if self.live else settings.video_duration or math.inf
        return Listening(windows, own, self._keep_window, until=until)

    def _hear(self, piece: Sound, sound: Listening, begun: float, *, alone: bool) -> float:
        """Take a piece of sound; returns how far the sound has come, seconds from the beginning of the source."""
        sound.take(piece)
        # Pictures set the pace; sound that goes on without them must not run away. What was lost takes no time.
        self._wait_for_its_time(begun + min(sound.end, sound.seconds) - (0 if alone else SOUND_LAG))
        return sound.end

    def _see(self, picture: Picture, clock: LiveClock | FileClock, begun: float) -> float:
        """Take a picture; returns its time, seconds from the beginning."""
        timestamp = clock.stamp(picture.pts)
        offset = clock.offset if isinstance(clock, FileClock) else time.monotonic() - self._begun
        if self._over(offset):
            return offset
        self._seen += 1
        if (self._seen - 1) % (self.settings.video_skip_frames + 1) == 0:
            self._wait_for_its_time(begun + offset)
            self._keep_frame(picture, timestamp)
        return offset

    def _wait_for_its_time(self, due: float) -> None:
        if not self.live and self.settings.pace is Pace.REALTIME:
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _keep_frame(self, picture: Picture, timestamp: float) -> None:
        captured_at = time.time()
        jpeg = picture.jpeg(self.settings.jpeg_quality)
        if self._keep(self._frame(picture, timestamp, captured_at, len(jpeg)), jpeg, self.frames):
            self.counts.captured += 1

    def _keep_window(self, window: SoundWindow, timestamp: float) -> None:
        wav = audio.wav(window.samples)
        missed = window.channel in self._missed
        claim = AudioWindow(
            source=self.settings.source_name,
            run=self.run_name,
            seq=self.counts.windows,
            timestamp=timestamp,
            bytes=len(wav),
            captured_at=time.time(),
            delivery=self.delivery,
            duration=window.duration,
            overlap=0 if missed else window.overlap,
            tail=window.tail,
            channel=window.channel,
            number=self._numbers[window.channel],
        )
        if self._keep(claim, wav, self.windows):
            self.counts.windows += 1
            self._numbers[window.channel] += 1
            self._missed.discard(window.channel)
        else:  # the next one shares nothing with what nobody has
            self._missed.add(window.channel)

    def _keep(self, claim: Claim, data: bytes, window: Window) -> bool:
        """Put something into the spool; whether it is there."""
        try:
            # The last window of a run that is stopped holds seconds: it waits for nobody, but is kept.
            if not self._room(claim.seq, window) and not self._last_words(claim):
                if not self._stop.is_set():
                    self._drop("the spool is full")
                return False
            entry = self._spool.write(claim, data)
        except OSError as error:
            if self.delivery is Delivery.LOSSLESS:
                raise FramemeshError(
                    f"spool_dir {self._spool.folder}: {error.strerror}; make room there"
                ) from error
            self._drop(f"spool_dir {self._spool.folder}: {error.strerror}")
            return False
        self._on_entry(entry, claim)
        return True

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

    def _room(self, captured: int, window: Window) -> bool:
        """A live source drops rather than wait; a lossless one waits."""
        if self.delivery is Delivery.LIVE:
            return not self._spool.full()
        while not self._stop.is_set():
            if not self._spool.full() and window.wait(captured, WAIT):
                return True
            if self._spool.full():
                self._stop.wait(WAIT)
        return False

    def _last_words(self, claim: Claim) -> bool:
        return isinstance(claim, AudioWindow) and self._stop.is_set() and not self._spool.full()

    def _drop(self, reason: str) -> None:
        self.counts.dropped += 1
        if self.counts.dropped % LOG_EVERY == 1:
            log.warning("dropped %d so far: %s", self.counts.dropped, reason)
