"""A registrator that comes back with other rules finishes what the old ones had begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from framemesh import assets, subjects
from framemesh.bus import Bus
from framemesh.events import EventStore
from framemesh.mesh import LogFiles, Mesh
from framemesh.messages import Event, EventState, SourceState
from framemesh.registry import connect
from tests.samples import until


@pytest.mark.parametrize(
    "rule", [{"name": "other", "labels": ["dog"]}, {"name": "faces", "labels": ["face"], "hits": 9}]
)
async def test_changed_rules(rule: dict[str, object], tmp_path: Path) -> None:
    logs = LogFiles(tmp_path / "logs")
    async with Mesh(tmp_path, on_line=logs) as mesh:
        await mesh.start_servers()
        await mesh.start_service("uploader")
        await mesh.start_service("detection", {"detection_model": "face-haar"})
        await mesh.start_service("router", {"routes": '{"*": ["DetectionInference"]}'})
        first = {"name": "faces", "labels": ["face"], "idle_s": 1.5}
        registrator = await mesh.start_service("registrator", {"event_rules": json.dumps([first])})
        reader = {"video_source": str(assets.ensure("carphone")), "pace": "realtime", "source": "car"}
        await mesh.start_service("reader", reader)
        bus = await Bus.connect(mesh.environment()["nats_host"], "test")
        redis = await connect(mesh.environment()["redis_host"], int(mesh.environment()["redis_port"]))

        async def opened() -> Event | None:
            stored = await bus.last(subjects.EVENTS.name, subjects.events("car"), Event)
            return stored.message if stored else None

        begun = await until(opened, within=30)
        await registrator.stop(2)
        await mesh.start_service("registrator", {"event_rules": json.dumps([rule])}, label="registrator-2")

        async def settled() -> bool:
            state = await bus.last(subjects.SOURCES.name, subjects.source_state("car"), SourceState)
            return bool(state and state.message.state == "settled")

        await until(settled, within=60)
        events = {event.id: event for event in await EventStore(redis).between()}
        await redis.aclose()
        await bus.close()
    logs.close()
    assert events[begun.id].state is EventState.FINISHED
    assert Path(events[begun.id].video_proofs).stat().st_size
    assert all(event.state is EventState.FINISHED for event in events.values())
