"""How far a source's frames have come."""

from __future__ import annotations

import time

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.messages import Frame, SourceState


async def drained(bus: Bus, topic: str, state: SourceState) -> bool:
    """Whether every frame of an ended run has been stored, routed, and looked at by every model."""
    return await _stored_and_routed(bus, topic, state) and await _looked_at(bus, state.source)


async def _stored_and_routed(bus: Bus, topic: str, state: SourceState) -> bool:
    if not state.frames:
        return True
    stream = subjects.frames_stream(topic, 0)
    last = await bus.last(stream.name, subjects.frames(topic, state.source), Frame)
    if last is None or last.message.run != state.run or last.message.seq < state.frames - 1:
        return await _expired(bus, stream.name, state)
    router = await bus.consumer_info(subjects.router_consumer(stream))
    return bool(router and router.ack_floor and router.ack_floor.stream_seq >= last.seq)


async def _expired(bus: Bus, stream: str, state: SourceState) -> bool:
    """Whether the run ended so long ago that its frames are gone: nobody can wait for them any more."""
    info = await bus.stream_info(stream)
    return bool(info and info.config.max_age and time.time() - state.timestamp > info.config.max_age)


async def _looked_at(bus: Bus, source: str) -> bool:
    for consumer in await bus.consumers(subjects.RESULTS):
        if str(consumer.name).startswith("router-") and (consumer.num_pending or consumer.num_ack_pending):
            return False
    return not await waiting_tasks(bus, source)


async def waiting_tasks(bus: Bus, source: str) -> int:
    """Tasks of a source that no worker has finished yet."""
    waiting = 0
    for stream in await bus.task_streams():
        info = await bus.stream_info(str(stream.config.name), f"{stream.config.name}.{source}")
        if info:
            waiting += sum((info.state.subjects or {}).values())
    return waiting
