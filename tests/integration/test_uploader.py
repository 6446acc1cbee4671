"""The uploader against real servers."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.messages import Captured, Frame
from framemesh.registry import Registry
from framemesh.spool import Spool
from services.uploader import uploader
from services.uploader.uploader import Uploader, UploaderSettings
from tests.samples import frame, until


async def test_a_spool_that_is_removed_is_made_again(
    servers: Mapping[str, str],
    bus: Bus,
    registry: Registry,
    tmp_path: Path,
    source: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploader, "RESCAN_SECONDS", 0.1)
    folder = tmp_path / "spool"
    settings = UploaderSettings(
        node=source, spool_dir=folder, topic_stream=f"t-{source}", master_url=servers["master_url"]
    )
    service = Uploader(settings, bus, registry)
    await service.prepare()
    running = asyncio.create_task(service.run())

    async def there() -> bool:
        return folder.is_dir() or running.done()

    async def announced() -> Frame | None:
        stream = subjects.frames_stream(settings.topic_stream, settings.frame_ttl).name
        stored = await bus.last(stream, subjects.frames(settings.topic_stream, source), Frame)
        return stored.message if stored else None

    try:
        shutil.rmtree(folder)
        await until(there)
        entry = Spool(folder).write(frame(source, 7, url=""), b"jpeg")
        await bus.publish(subjects.captured(source), Captured(entries=[entry]), msg_id=entry)
        found = await until(announced)
        assert (found.seq, found.url != "") == (7, True)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await service.finish()
