from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest

from framemesh import assets
from framemesh.errors import FramemeshError
from framemesh.messages import AudioWindow, Delivery, Frame
from framemesh.spool import Claim, Spool
from services.reader import capture as module
from services.reader.capture import Backoff, Capture, Window
from services.reader.settings import Pace, ReaderSettings
from services.reader.video import Picture, SourceUnavailable, VideoInfo
from tests.unit.test_video import write_clip

FRAMES = 120
"""Of the carphone sample: 176x144, 29.97 a second."""
JPEG = b"\xff\xd8 a picture \xff\xd9"


def carphone() -> Path:
    path = assets.packaged("carphone")
    assert path is not None
    return path


class Run:
    """A capture with what it told."""

    def __init__(self, folder: Path, *, spool_bytes: int = 1 << 30, after: float = 0.0, **settings: Any) -> None:
        given: dict[str, Any] = {"video_source": str(carphone()), "pace": Pace.FAST, "spool_dir": folder}
        self.spool = Spool(folder, spool_bytes)
        self.told: list[tuple[str, Claim]] = []
        self.capture = Capture(
            ReaderSettings(**given | settings),
            "run-1",
            self.spool,
            lambda *claim: self.told.append(claim),
            after=after,
        )

    @property
    def frames(self) -> list[Frame]:
        return [claim for _, claim in self.told if isinstance(claim, Frame)]

    @property
    def windows(self) -> list[AudioWindow]:
        return [claim for _, claim in self.told if isinstance(claim, AudioWindow)]

    @property
    def seqs(self) -> list[int]:
        return [frame.seq for frame in self.frames]

    def run(self) -> Self:
        self.capture.frames.accept(1 << 30)
        self.capture.windows.accept(1 << 30)
        self.capture.run()
        return self

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run in a thread, which has ended when the block has."""
        thread = threading.Thread(target=self.capture.run)
        thread.start()
        try:
            yield
            thread.join(10)
        finally:
            self.capture.stop()
            thread.join(10)
        assert not thread.is_alive()


def until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -- backoff ----------------------------------------------------------------------------------------------


def test_delays_double_up_to_the_limit_with_jitter() -> None:
    for limit in (0.5, 1, 2, 4, 4, 4):
        backoffs = [Backoff(0.5, 4) for _ in range(50)]
        delays = []
        for backoff in backoffs:
            wanted = 0.5
            delay = backoff.delay()
            while wanted < limit:
                wanted, delay = wanted * 2, backoff.delay()
            delays.append(delay)
        assert limit * 0.6 <= min(delays) < max(delays) <= limit


def test_no_delay_is_longer_than_the_limit() -> None:
    backoff = Backoff(0.5, 0.1)
    assert all(backoff.delay() <= 0.1 for _ in range(20))


def test_a_well_source_begins_anew() -> None:
    backoff = Backoff(0.5, 30)
    for _ in range(10):
        backoff.delay()
    backoff.reset()
    assert backoff.delay() <= 0.5


# -- window -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "captured", "room"), [(0, 0, True), (0, 3, True), (0, 4, False), (5, 8, True), (5, 9, False)]
)
def test_the_window_bounds_what_is_on_its_way(accepted: int, captured: int, room: bool) -> None:
    window = Window(4)
    window.accept(accepted)
    assert window.wait(captured, 0) is room


def test_the_window_never_moves_back() -> None:
    window = Window(4)
    window.accept(10)
    window.accept(0)
    assert window.wait(13, 0)


def test_accepting_wakes_who_waits() -> None:
    window = Window(1)
    timer = threading.Timer(0.05, window.accept, (1,))
    timer.start()
    begun = time.monotonic()
    assert window.wait(1, 5)
    assert time.monotonic() - begun < 2
    timer.join()


# -- a file -----------------------------------------------------------------------------------------------


def test_every_frame_lies_in_the_spool_with_its_claim(tmp_path: Path) -> None:
    begun = time.time()
    run = Run(tmp_path, source="phone").run()
    assert (run.capture.counts.captured, run.capture.counts.dropped, run.capture.counts.corrupt) == (FRAMES, 0, 0)
    assert run.seqs == list(range(FRAMES))
    assert run.spool.names() == [entry for entry, _ in run.told]
    for entry, frame in run.told[::40]:
        stored, jpeg = run.spool.read(entry)
        assert stored == frame
        assert (jpeg[:2], len(jpeg)) == (b"\xff\xd8", frame.bytes)
    first = run.frames[0]
    assert (first.source, first.run, first.frame_id, first.url) == ("phone", "run-1", "frame_000000", "")
    assert (first.width, first.height, first.delivery) == (176, 144, Delivery.LOSSLESS)
    assert begun <= first.captured_at <= time.time()


def test_timestamps_rise_by_the_files_own_time(tmp_path: Path) -> None:
    frames = Run(tmp_path).run().frames
    assert all(a.timestamp < b.timestamp for a, b in pairwise(frames))
    assert frames[-1].timestamp - frames[0].timestamp == pytest.approx(119 / 29.97, abs=0.01)
    assert frames[0].timestamp == pytest.approx(time.time(), abs=10)
    assert frames[30].pts == pytest.approx(30 / 29.97, abs=0.01)


def test_the_name_is_made_from_the_file(tmp_path: Path) -> None:
    assert Run(tmp_path, video_duration=0.01).run().frames[0].source == "carphone_pristine"


@pytest.mark.parametrize(("skip", "frames"), [(1, 60), (2, 40), (118, 2), (119, 1), (500, 1)])
def test_skipped_frames_leave_no_gap(tmp_path: Path, skip: int, frames: int) -> None:
    run = Run(tmp_path, video_skip_frames=skip).run()
    assert run.seqs == list(range(frames))
    steps = [b.timestamp - a.timestamp for a, b in pairwise(run.frames)]
    assert steps == pytest.approx([(skip + 1) / 29.97] * (frames - 1), abs=0.01)


@pytest.mark.parametrize(("seconds", "frames"), [(1.0, 30), (0.01, 1), (100.0, FRAMES)])
def test_the_duration_is_the_files_own_time(tmp_path: Path, seconds: float, frames: int) -> None:
    assert len(Run(tmp_path, video_duration=seconds).run().told) == frames


def test_the_duration_counts_skipped_frames(tmp_path: Path) -> None:
    assert len(Run(tmp_path, video_duration=1.0, video_skip_frames=2).run().told) == 10


@pytest.mark.parametrize(
    ("pace", "frames", "least", "most"), [(Pace.REALTIME, 6, 0.45, 9), (Pace.FAST, 60, 0, 3)], ids=str
)
def test_the_pace(tmp_path: Path, pace: Pace, frames: int, least: float, most: float) -> None:
    clip = write_clip(tmp_path / "clip.mp4", times=tuple(range(frames)))  # ten a second
    begun = time.monotonic()
    run = Run(tmp_path / "spool", video_source=str(clip), pace=pace).run()
    assert least <= time.monotonic() - begun <= most
    assert len(run.told) == frames


def test_the_opencv_reader_captures_the_same(tmp_path: Path) -> None:
    run = Run(tmp_path, reader_type="opencv").run()
    assert run.seqs == list(range(FRAMES))
    assert all(a.timestamp < b.timestamp for a, b in pairwise(run.frames))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    run = Run(tmp_path, video_source=str(tmp_path / "gone.mp4"))
    with pytest.raises(FramemeshError, match=r"gone\.mp4: no such file: check the path"):
        run.run()
    assert run.told == []


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(FramemeshError, match=r"notes\.mp4: "):
        Run(tmp_path / "spool", video_source=str(tmp_path / "notes.mp4")).run()


# -- lossless ---------------------------------------------------------------------------------------------


def test_a_lossless_run_waits_for_what_is_accepted(tmp_path: Path) -> None:
    run = Run(tmp_path, lossless_window=5)
    with run.running():
        until(lambda: len(run.told) == 5)
        time.sleep(0.1)
        assert len(run.told) == 5
        run.capture.frames.accept(3)
        until(lambda: len(run.told) == 8)
        time.sleep(0.1)
        assert len(run.told) == 8
        run.capture.frames.accept(FRAMES)
    assert run.seqs == list(range(FRAMES))
    assert run.capture.counts.dropped == 0


def test_a_lossless_run_waits_for_room_in_the_spool(tmp_path: Path) -> None:
    run = Run(tmp_path, spool_bytes=150_000, lossless_window=1000)
    stored: list[str] = []
    with run.running():
        until(run.spool.full)
        while len(stored) < FRAMES:  # an uploader, slower than the reader
            names = run.spool.names()
            assert sum((tmp_path / name).stat().st_size for name in names) < 200_000
            for name in names:
                stored.append(name)
                run.spool.remove(name)
            time.sleep(0.01)
    assert run.seqs == list(range(FRAMES))
    assert sorted(stored) == [entry for entry, _ in run.told]


def test_stopping_a_run_that_waits_drops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path, lossless_window=1)
    with caplog.at_level(logging.WARNING), run.running():
        until(lambda: len(run.told) == 1)
        run.capture.stop()
    assert (run.capture.counts.captured, run.capture.counts.dropped) == (1, 0)
    assert caplog.messages == []


def no_space(*_: object) -> str:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_lossless_run_ends_where_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    monkeypatch.setattr(run.spool, "write", no_space)
    with pytest.raises(FramemeshError, match=r"spool_dir .*: No space left on device; make room there"):
        run.run()


def test_a_lossless_run_ends_where_its_spool_is_taken_away(tmp_path: Path) -> None:
    run = Run(tmp_path / "spool")
    (tmp_path / "spool").rmdir()
    with pytest.raises(FramemeshError, match=r"spool_dir .*: No such file or directory"):
        run.run()


# -- live -------------------------------------------------------------------------------------------------


def test_a_live_run_waits_for_nobody(tmp_path: Path) -> None:
    run = Run(tmp_path, delivery=Delivery.LIVE, lossless_window=1)
    run.capture.run()
    assert run.seqs == list(range(FRAMES))
    assert {frame.delivery for frame in run.frames} == {Delivery.LIVE}


def test_a_live_run_drops_frames_when_the_spool_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path, spool_bytes=50_000, delivery=Delivery.LIVE)
    with caplog.at_level(logging.WARNING):
        run.capture.run()
    counts = run.capture.counts
    assert 0 < counts.captured < FRAMES
    assert counts.captured + counts.dropped == FRAMES
    assert run.seqs == list(range(counts.captured))
    assert len(run.spool.names()) == counts.captured
    assert caplog.messages[0] == "dropped 1 so far: the spool is full"
    assert len(caplog.messages) <= 2


def test_a_live_run_drops_what_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, delivery=Delivery.LIVE)
    counts, write = run.capture.counts, run.spool.write
    monkeypatch.setattr(run.spool, "write", lambda *given: write(*given) if counts.dropped > 9 else no_space())
    run.capture.run()
    assert (counts.captured, counts.dropped) == (FRAMES - 10, 10)
    assert run.seqs == list(range(FRAMES - 10))


# -- a camera ---------------------------------------------------------------------------------------------


class Camera:
    """A camera whose connections bring so many pictures each and are lost then; an error where it is none."""

    info = VideoInfo(64, 48, 25, None, live=True)
    corrupt = 1

    def __init__(self, *connections: int) -> None:
        self.connections = list(connections)
        self.opened = 0

    def open(self, *_: object, **__: object) -> Camera:
        self.opened += 1
        if not self.connections:
            raise FramemeshError("user or password refused")
        if not self.connections[0]:
            self.connections.pop(0)
            raise SourceUnavailable("no video came")
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Picture]:
        for number in range(self.connections.pop(0)):
            time.sleep(0.002)
            yield Picture(number / 25, 64, 48, lambda _: JPEG)
        raise SourceUnavailable("the stream ended")


def camera(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *connections: int, **settings: Any
) -> tuple[Run, Camera]:
    made = Camera(*connections)
    monkeypatch.setattr(module, "open_reader", made.open)
    return Run(folder, video_source="rtsp://u:secret@cam/1", retry_seconds=0.01, **settings), made


def test_a_camera_that_goes_away_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, made = camera(tmp_path, monkeypatch, 5, 0, 0, 7)
    with caplog.at_level(logging.INFO), pytest.raises(FramemeshError, match="password refused"):
        run.run()
    assert made.opened == 5
    assert run.seqs == list(range(12))
    assert {frame.delivery for frame in run.frames} == {Delivery.LIVE}
    assert all(a.timestamp < b.timestamp for a, b in pairwise(run.frames))
    assert run.capture.counts.corrupt == 2
    assert sum("trying again in 0.0 s" in message for message in caplog.messages) == 4
    assert "secret" not in caplog.text


def test_a_camera_keeps_its_rhythm_of_skipped_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = camera(tmp_path, monkeypatch, 5, 5, video_skip_frames=3)
    with pytest.raises(FramemeshError, match="password refused"):
        run.run()
    assert [round((frame.pts or 0) * 25) for frame in run.frames] == [0, 4, 3]


def test_the_duration_of_a_camera_outlasts_its_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, made = camera(tmp_path, monkeypatch, *[10] * 1000, video_duration=0.3)
    run.run()
    assert made.opened > 2
    assert 0.15 < run.frames[-1].timestamp - run.frames[0].timestamp <= 0.3


def test_a_camera_that_is_away_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, made = camera(tmp_path, monkeypatch, *[0] * 100_000)
    with run.running():
        until(lambda: made.opened > 2)
        run.capture.stop()
    assert run.told == []


@pytest.mark.parametrize("address", ["rtsp://cam/1", "clip.mp4"])
@pytest.mark.parametrize("delivery", [None, *Delivery])
def test_the_delivery_goes_by_the_kind_of_source(tmp_path: Path, address: str, delivery: Delivery | None) -> None:
    chosen = Run(tmp_path, video_source=address, delivery=delivery).capture.delivery
    natural = Delivery.LIVE if address.startswith("rtsp") else Delivery.LOSSLESS
    assert chosen is (delivery or natural)
