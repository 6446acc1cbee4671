"""The spool: whole entries or none, in order, within a bound."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framemesh.messages import Frame
from framemesh.spool import Spool, SpoolError, default_folder, pack, unpack
from tests.samples import frame

NAMES = st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z")
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def entries(draw: st.DrawFn) -> tuple[Frame, bytes]:
    jpeg = draw(st.binary(max_size=2000))
    made = frame(
        draw(NAMES),
        draw(st.integers(0, 10**12)),
        run=draw(NAMES),
        url=draw(st.sampled_from(["", "http://127.0.0.1:8080/3,01637037d6", "https://ü.example/a?b=c"])),
        timestamp=draw(NUMBERS),
        captured_at=draw(NUMBERS),
        pts=draw(st.none() | NUMBERS),
        bytes=len(jpeg),
    )
    return made, jpeg


@given(entries())
def test_an_entry_reads_as_it_was_written(entry: tuple[Frame, bytes]) -> None:
    assert unpack(pack(*entry)) == entry


@given(entries(), st.data())
def test_an_entry_that_was_cut_short_or_has_more_is_none(entry: tuple[Frame, bytes], data: st.DataObject) -> None:
    packed = pack(*entry)
    with pytest.raises(SpoolError):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])
    with pytest.raises(SpoolError):
        unpack(packed + b"x")


@given(st.binary(max_size=200))
def test_what_somebody_else_wrote_is_none(data: bytes) -> None:
    with pytest.raises(SpoolError):
        unpack(data)


@given(entries(), st.data())
def test_a_broken_entry_is_an_error_or_another_frame_but_never_a_crash(
    entry: tuple[Frame, bytes], data: st.DataObject
) -> None:
    packed = bytearray(pack(*entry))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found, jpeg = unpack(bytes(packed))
    except SpoolError:
        return
    assert found.bytes == len(jpeg)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", max_bytes=10_000)


def put(spool: Spool, seq: int, source: str = "cam", size: int = 100) -> str:
    return spool.write(frame(source, seq, bytes=size), b"x" * size)


def test_an_entry_has_a_name_of_its_own_and_can_be_removed_twice(spool: Spool) -> None:
    name = put(spool, 7)
    assert name == "cam.run-1.000000000007.frame"
    assert spool.read(name) == (frame("cam", 7, bytes=100), b"x" * 100)
    spool.remove(name)
    spool.remove(name)
    with pytest.raises(FileNotFoundError):
        spool.read(name)


def test_an_entry_is_there_whole_or_not_at_all(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    (spool.folder / ".cam.run-1.000000000000.frame.part").write_bytes(b"half of it")

    def crash(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(OSError, match="the disk is full"):
        put(spool, 1)
    assert spool.names() == []


def test_names_come_in_the_order_of_the_frames(spool: Spool) -> None:
    for seq in (10, 9, 100_000, 0):
        put(spool, seq)
    put(spool, 5, source="other")
    (spool.folder / "notes.txt").write_text("not an entry")
    numbers = [spool.read(name)[0].seq for name in spool.names()]
    assert numbers == [0, 9, 10, 100_000, 5]


def test_only_entries_of_an_age_are_named_when_asked(spool: Spool) -> None:
    old, _ = put(spool, 0), put(spool, 1)
    os.utime(spool.folder / old, (1, 1))
    assert spool.names(older_than=60) == [old]


def test_a_spool_is_full_at_its_bound_and_has_room_again(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("framemesh.spool.time.monotonic", lambda: now)
    assert not spool.full()
    for seq in range(9):
        put(spool, seq, size=1000)
    assert spool.full()  # estimated: entries are a little larger than their JPEGs
    for name in spool.names():
        spool.remove(name)
    assert spool.full()
    now += 0.3
    assert not spool.full()


def test_a_name_from_outside_stays_in_the_folder(spool: Spool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    spool.remove("../secret")
    assert secret.exists()
    with pytest.raises(FileNotFoundError):
        spool.read("../secret")


def test_reading_names_while_others_write_and_remove_is_safe(spool: Spool) -> None:
    done = threading.Event()
    errors: list[BaseException] = []

    def churn() -> None:
        try:
            for seq in range(1500):
                spool.remove(put(spool, seq))
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=churn)
    thread.start()
    while not done.is_set():
        for name in spool.names():
            try:
                spool.read(name)
            except FileNotFoundError:
                continue
        spool._sized_at = 0.0
        spool.full()
    thread.join()
    assert not errors
    assert spool.names() == []


def test_the_default_folder_belongs_to_the_user() -> None:
    assert str(os.getuid()) in default_folder().name
