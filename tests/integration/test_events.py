"""The event store: what the sorted set holds, and how it is projected again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.embedded import HOST
from framemesh.events import INDEX, KEY, EventStore, member, parse
from framemesh.messages import EventState
from framemesh.registry import connect as connect_redis
from tests.samples import OwnServer, event

CREATED, PENDING, DONE, FINISHED = (EventState(name) for name in ("CREATED", "PENDING", "DONE", "FINISHED"))


@pytest.fixture
def store(redis: Redis) -> EventStore:
    return EventStore(redis)


async def members(redis: Redis, source: str) -> list[tuple[dict[str, Any], float]]:
    found = cast("list[tuple[str, float]]", await redis.zrange(KEY, 0, -1, withscores=True))
    parsed = [(json.loads(text), score) for text, score in found]
    return [(body, score) for body, score in parsed if body["source"] == source]


async def test_a_member_has_the_task_under_its_key_and_the_start_as_its_score(
    store: EventStore, redis: Redis, source: str
) -> None:
    made = event(
        source, CREATED, PENDING, DONE, video_proofs="/tmp/a.mp4", image_proof_path="/tmp/a.jpg",
        video_url="http://s3/a.mp4", image_url="http://s3/a.jpg", start=1234.5,
    )  # fmt: skip
    await store.save(made)
    [(body, score)] = await members(redis, source)
    assert score == 1234.5
    task = body[f"{source}/run-1/0/DetectionInference"]
    assert list(task) == ["message", "video_proofs", "image_proof_path"]
    assert (task["video_proofs"], task["image_proof_path"]) == ("/tmp/a.mp4", "/tmp/a.jpg")
    message = task["message"]
    assert (message["model"], message["source"]) == ("DetectionInference", source)
    assert (message["frame_id"], message["seq"]) == ("frame_000000", 0)
    assert message["result"] == [
        {"kind": "detection", "label": "person", "class_id": 0, "confidence": 0.9, "box": [1.0, 2.0, 3.0, 4.0]}
    ]
    wanted = {
        "id": made.id, "source": source, "label": "person", "counts": {"person": 3}, "start": 1234.5,
        "end": 1239.5, "state": "DONE", "video_url": "http://s3/a.mp4", "image_url": "http://s3/a.jpg",
    }  # fmt: skip
    assert {key: body[key] for key in wanted} == wanted
    assert not {"message", "video_proofs", "image_proof_path"} & set(body)


def test_a_member_reads_back_as_its_event() -> None:
    made = event("cam", CREATED, PENDING)
    assert parse(member(made)) == made
    with pytest.raises((ValueError, KeyError)):
        parse("{}")


async def test_a_newer_state_replaces_the_older_one(store: EventStore, redis: Redis, source: str) -> None:
    for states in ((CREATED,), (CREATED, PENDING), (CREATED, PENDING, DONE, FINISHED)):
        await store.save(event(source, *states))
    await store.save(event(source, CREATED, number=1, start=2_000_000_001))
    assert [body["state"] for body, _ in await members(redis, source)] == ["FINISHED", "CREATED"]


async def test_an_older_state_that_comes_late_is_ignored(store: EventStore, redis: Redis, source: str) -> None:
    await store.save(event(source, CREATED, PENDING, DONE))
    await store.save(event(source, CREATED, start=5.0))
    assert [(body["state"], score) for body, score in await members(redis, source)] == [("DONE", 2_000_000_000.0)]


async def test_events_are_found_by_time(store: EventStore, source: str) -> None:
    for number in range(10):
        await store.save(event(source, CREATED, number=number, start=5e9 + number))
    found = await store.between(5e9 + 2, 5e9 + 5)
    assert [made.start - 5e9 for made in found] == [2, 3, 4, 5]
    newest = await store.between(5e9 + 1, 5e9 + 9, limit=2)
    assert [made.start - 5e9 for made in newest] == [8, 9]
    assert found[0] == event(source, CREATED, number=2, start=5e9 + 2)


async def test_a_redis_that_was_wiped_is_projected_again(
    servers: Mapping[str, str], bus: Bus, own_redis: OwnServer, source: str
) -> None:
    redis = await connect_redis(HOST, int(own_redis.environment["redis_port"]))
    store = EventStore(redis)
    await bus.declare(subjects.EVENTS)
    for states in ((CREATED,), (CREATED, PENDING), (CREATED, PENDING, DONE)):
        for number in range(3):
            made = event(source, *states, number=number, start=2_000_000_000.0 + number)
            msg_id = f"{made.id}/{len(states)}"
            await bus.publish(subjects.events(source), made, msg_id=msg_id)
            await store.save(made)
    await bus.jetstream.publish(subjects.events(source), b"bad")
    before = await members(redis, source)
    await redis.flushall()
    assert await store.between() == []
    assert await store.rebuild(bus) >= 9
    assert await members(redis, source) == before
    assert [body["state"] for body, _ in before] == ["DONE"] * 3
    assert await redis.hlen(INDEX) == await redis.zcard(KEY)
    await redis.aclose()
