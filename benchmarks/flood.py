"""How fast events on ``triggers.<name>`` are taken, and how fast they become jobs that are over.

``python -m benchmarks.flood --events 10000``; the servers, the jobs service and the worker are its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.embedded import Servers, choose_ports
from framemesh.registry import Registry
from framemesh.registry import connect as connect_redis
from framemesh.steps.context import Context
from framemesh.steps.functions import Function
from framemesh.steps.plan import Plan
from framemesh.steps.triggers import Subscription, TriggerEvent, Triggers
from framemesh.steps.worker import StepSettings, StepWorker
from services.jobs.jobs import JobsService
from services.jobs.settings import JobsSettings

NAME = "flood"


async def measure(count: int, at_once: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(Path(folder), choose_ports({}, {}))
        await servers.start()
        try:
            return await _flood(count, at_once, servers.environment(), folder)
        finally:
            await servers.stop()


async def _flood(count: int, at_once: int, environment: dict[str, str], folder: str) -> dict[str, float]:
    bus = await Bus.connect(environment["nats_host"], "flood")
    redis = await connect_redis(environment["redis_host"], int(environment["redis_port"]))
    given: dict[str, Any] = environment
    left, over = count, asyncio.Event()

    async def body(ctx: Context, given: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            over.set()

    class Worker(StepWorker[StepSettings]):
        kind, settings_type, functions = "Flood", StepSettings, (Function(NAME, body),)

    worker = Worker(StepSettings(**given, instance="w"), bus, Registry(redis, 5))
    service = JobsService(
        JobsSettings(**given, instance="j", jobs_database=f"sqlite:///{folder}/jobs.db"), bus, Registry(redis, 5)
    )
    await service.prepare()
    await worker.prepare()
    triggers = Triggers(bus)
    plan = Plan.model_validate({"name": NAME, "steps": {"it": {"function": NAME, "input": {"n": "$input.n"}}}})
    await triggers.put(Subscription(trigger=NAME, plan=plan))
    numbers = iter(range(count))

    async def publish() -> None:
        for n in numbers:
            await triggers.fire(NAME, TriggerEvent(input={"n": n}))

    began = time.perf_counter()
    await asyncio.gather(*(publish() for _ in range(at_once)))
    taken = time.perf_counter() - began
    work = [asyncio.create_task(each.run()) for each in (service, worker)]
    await over.wait()
    done = time.perf_counter() - began - taken
    for task in work:
        task.cancel()
    await asyncio.wait(work)
    lying = await bus.stream_info(subjects.TRIGGERS.name)
    await worker.finish()
    await service.finish()
    await redis.aclose()
    await bus.close()
    return {
        "events": count, "taken_per_s": round(count / taken), "jobs_over_per_s": round(count / done),
        "left_in_stream": lying.state.messages if lying else -1,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=500)
    asked = parser.parse_args()
    print(json.dumps(asyncio.run(measure(asked.events, asked.at_once))))


if __name__ == "__main__":
    main()
