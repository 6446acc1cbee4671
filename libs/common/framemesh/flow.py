"""How far a source's frames and audio windows have come."""

from __future__ import annotations

import time

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.messages import AudioWindow, Frame, SourceState
from framemesh.subjects import Stream


async def drained(bus: Bus, topic: str, state: SourceState) -> bool:
    """Whether all that an ended run captured has been stored, routed, and looked at by every model."""
    frames, audio = subjects.frames_stream(topic, 0), subjects.audio_stream(0)
    return (
        await _routed(bus, frames, subjects.frames(topic, state.source), Frame, state, state.frames)
        and await _routed(bus, audio, subjects.audio(state.source), AudioWindow, state, state.windows)
        and await _looked_at(bus, state.source)
    )


async def _routed(
    bus: Bus, stream: Stream, subject: str, kind: type[Frame] | type[AudioWindow], state: SourceState, count: int
) -> bool:
    """Whether ``count`` claim checks of a run have been stored and routed."""
    if not count:
        return True
    last = await bus.last(stream.name, subject, kind)
    if last is None or last.message.run != state.run or last.message.seq < count - 1:
        return await _expired(bus, stream.name, state)
    router = await bus.consumer_info(subjects.router_consumer(stream))
    return bool(router and router.ack_floor and router.ack_floor.stream_seq >= last.seq)


async def _expired(bus: Bus, stream: str, state: SourceState) -> bool:
    """Whether the run ended so long ago that they are gone: nobody can wait for them any more."""
    info = await bus.stream_info(stream)
    return bool(info and info.config.max_age and time.time() - state.timestamp > info.config.max_age)


async def _looked_at(bus: Bus, source: str) -> bool:
    for consumer in await bus.consumers(subjects.RESULTS):
        if str(consumer.name).startswith(subjects.FOLLOWER) and (consumer.num_pending or consumer.num_ack_pending):
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
