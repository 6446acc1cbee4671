"""What a reader tells of its source, through real servers."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.messages import SourceState
from framemesh.registry import Registry
from services.reader import capture
from services.reader.reader import Reader
from services.reader.settings import ReaderSettings


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FramemeshError("clip.mp4: no such file"), "clip.mp4: no such file"),
        (IndexError("list index out of range"), "IndexError: list index out of range"),
        (ZeroDivisionError("of rtsp://me:s3cret@camera/1"), "ZeroDivisionError: of rtsp://***@camera/1"),
    ],
)
async def test_whatever_ends_a_run_it_is_told(
    bus: Bus,
    registry: Registry,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(capture, "open_reader", fail)
    settings = ReaderSettings(
        video_source=str(tmp_path / "clip.mp4"), source=source, spool_dir=tmp_path, instance="reader-test"
    )
    reader = Reader(settings, bus, registry)
    await reader.prepare()
    with pytest.raises(type(error)):
        await reader.run()
    last = await bus.last(subjects.SOURCES.name, subjects.source_state(source), SourceState)
    assert last is not None
    assert (last.message.state, last.message.reason) == ("failed", reason)
