"""What tests share: valid messages, a server that may be killed, a way to wait for what is bound to happen."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from framemesh.bus import Bus
from framemesh.embedded import Server
from framemesh.messages import (
    AudioWindow,
    DeadLetter,
    Detection,
    Event,
    EventState,
    Frame,
    Result,
    Task,
    Transition,
)

PRESIDENT = (
    "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
)
"""What is said in the sample ``jfk``."""


def frame(source: str, seq: int = 0, /, **values: Any) -> Frame:
    given = {
        "source": source,
        "run": "run-1",
        "seq": seq,
        "frame_id": f"frame_{seq:06d}",
        "url": f"http://127.0.0.1/1,{seq}",
        "timestamp": 1000.0 + seq / 25,
        "width": 640,
        "height": 480,
        "bytes": 4,
        "captured_at": 1000.0,
    }
    return Frame.model_validate(given | values)


def window(source: str, seq: int = 0, **values: Any) -> AudioWindow:
    given = {
        "source": source,
        "run": "run-1",
        "seq": seq,
        "url": f"http://127.0.0.1:1/4,{seq:02x}",
        "timestamp": 1000.0 + 4.5 * seq,
        "bytes": 160_044,
        "captured_at": 1000.0,
        "duration": 5.0,
        "overlap": 0.5 if seq else 0.0,
        "tail": 0.5,
    }
    return AudioWindow.model_validate(given | values)


def task(source: str, model: str, seq: int = 0) -> Task:
    return Task.model_validate(frame(source, seq).model_dump() | {"model": model})


def result(source: str, model: str, seq: int = 0) -> Result:
    made = frame(source, seq).model_dump()
    found = [Detection(label="person", class_id=0, confidence=0.9, box=(1, 2, 3, 4))]
    return Result.model_validate(
        made | {"model": model, "frame_url": made["url"], "result": found, "timing_ms": {"infer": 1.5}}
    )


def event(
    source: str, *states: EventState, number: int = 0, start: float = 2_000_000_000.0, **values: Any
) -> Event:
    best = result(source, "DetectionInference", number)
    steps = [Transition(state=state, timestamp=start + i) for i, state in enumerate(states)]
    given = {
        "id": str(uuid5(NAMESPACE_URL, f"{source}-{number}")),
        "task_key": best.task_key,
        "source": source,
        "run": "run-1",
        "rule": "people",
        "label": "person",
        "counts": {"person": 3},
        "start": start,
        "end": start + 5,
        "state": states[-1],
        "transitions": steps,
        "message": best,
    }
    return Event.model_validate(given | values)


async def until(check: Callable[[], Awaitable[Any]], *, within: float = 10.0) -> Any:
    """Ask ``check`` until what it returns is true, and return that."""
    deadline = time.monotonic() + within
    while not (value := await check()):
        assert time.monotonic() < deadline, f"still {value!r} after {within:g} s"
        await asyncio.sleep(0.05)
    return value


async def dead_letters(bus: Bus, stream: str, subject: str) -> list[DeadLetter]:
    read = bus.read("DEADLETTERS", f"dead.{stream}.{subject}", 1, DeadLetter)
    return [stored.message async for stored in read]


def word_errors(said: list[str], heard: list[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(heard) + 1))
    for i, one in enumerate(said, 1):
        before, row = row, [i]
        for j, other in enumerate(heard, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (one != other)))
    return row[-1]


class OwnServer:
    """A server of the test's own that can be killed and started again on the same port and data."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.environment = server.environment()

    async def start(self) -> None:
        await self.server.start()
        await self.server.ready()

    async def kill(self) -> None:
        process = self.server.process
        assert process
        process.signal(signal.SIGKILL)
        await process.wait()
        await process.close()

    async def stop(self) -> None:
        await self.server.stop()
