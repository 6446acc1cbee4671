"""The router: stateless, any number of replicas."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeVar

from prometheus_client import Counter
from pydantic import Field
from redis.exceptions import RedisError

from framemesh import subjects
from framemesh.bus import QueueFull
from framemesh.messages import AudioTask, AudioWindow, Delivery, Frame, Medium, Message, Result, Task
from framemesh.pull import Envelope
from framemesh.service import Service
from framemesh.settings import Settings
from framemesh.telemetry import child_trace
from services.router.routes import Route, Routes, follow_tasks, for_source, takes, tasks

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
C = TypeVar("C", Frame, AudioWindow)

BATCH = 64
LOOK_SECONDS = 1.0
FULL_SECONDS = 0.05
AWAY_SECONDS = 60.0
"""A model that restarts is not left out of a lossless source that goes to every model; one that has yet to start
is waited for."""

TASKS = Counter("framemesh_tasks_total", "Tasks accepted by a model's queue", ["model", "delivery"])
UNROUTED = Counter("framemesh_unrouted_total", "Frames and windows that no model was there for", ["delivery"])
NAMES = {Medium.FRAME: ("frames", "looks"), Medium.AUDIO: ("audio windows", "listens")}


class RouterSettings(Settings):
    """Settings of the router."""

    routes: Routes = Field(
        {},
        description="Models by source as JSON, e.g. "
        '{"*": ["DetectionInference"], "door": [{"model": "DetectionInference", "stride": 5}]}; '
        "a source without routes goes to every live model",
    )


class Router(Service[RouterSettings]):
    """Takes claim checks from FRAMES and AUDIO, gives tasks to the models' queues; acks when these have them."""

    kind = "Router"
    settings_type = RouterSettings

    async def prepare(self) -> None:
        """Declare the streams, find the models that are alive."""
        self._live: dict[str, Medium] = {}
        self._seen: dict[str, float] = {}
        self._takes = {route.model: route.takes for route in self._all_routes() if route.takes}
        self._declared: dict[str, Medium] = {}
        self._may_come = dict.fromkeys(Medium, time.monotonic())
        self._said: set[tuple[Medium, str]] = set()
        self._room: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._lossless: dict[tuple[type[Message], str], asyncio.Queue[Envelope[Any]]] = {}
        self._frames = subjects.frames_stream(self.settings.topic_stream, self.settings.frame_ttl)
        self._audio = subjects.audio_stream(self.settings.frame_ttl)
        await self.bus.declare(self._frames, self._audio, subjects.RESULTS)
        await self._look()
        for route in self._all_routes():
            await self._declare(route.model, takes(route.model, self._takes))
        await self._forget_unfollowed()
        self._warn_of_unknown()

    async def run(self) -> None:
        """Route until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._looking())
            self._group.create_task(self._routing(self._frames, Frame))
            self._group.create_task(self._routing(self._audio, AudioWindow))
            for model in sorted(self._followed()):
                self._group.create_task(self._following(model))

    # -- who is alive -------------------------------------------------------------------------------

    def _all_routes(self) -> Iterable[Route]:
        return (route for routes in self.settings.routes.values() for route in routes)

    def _followed(self) -> set[str]:
        return {route.follows for route in self._all_routes() if route.follows}

    async def _forget_unfollowed(self) -> None:
        """What nobody reads any more would keep its sources from ever being settled."""
        for info in await self.bus.consumers(subjects.RESULTS):
            model = str(info.name).removeprefix(subjects.FOLLOWER)
            if model != info.name and model not in self._followed():
                log.info("%s is not followed any more", model)
                await self.bus.delete_consumer(subjects.RESULTS, str(info.name))

    async def _looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        try:
            alive = {beat.kind: beat.takes for beat in await self.registry.alive() if beat.model}
        except RedisError as error:  # what was alive a moment ago is the best guess
            log.warning("Redis does not answer: %s", error)
            return
        for model in sorted(alive.keys() - self._live):
            log.info("%s is alive", model)
        for model, medium in alive.items():
            await self._declare(model, medium)
        for model in sorted(self._live.keys() - alive):
            log.warning("%s is not alive any more", model)
        self._live = alive
        self._takes |= alive
        now = time.monotonic()
        self._hope(set(alive.values()) or set(Medium), now)
        self._seen |= dict.fromkeys(alive, now)
        for model in [model for model, seen in self._seen.items() if now - seen > AWAY_SECONDS]:
            del self._seen[model]
            await self._give_up(model)

    def _hope(self, media: set[Medium], now: float) -> None:
        """Models of these media live, or none at all does yet: there is reason to wait for one."""
        self._may_come |= dict.fromkeys(media, now)
        self._said = {(medium, source) for medium, source in self._said if medium not in media}

    async def _give_up(self, model: str) -> None:
        """Drop the tasks of a model that does not come back, but for sources whose routes name it."""
        stream = subjects.task_stream(model, lossless=True)
        await asyncio.sleep(LOOK_SECONDS / 4)  # what is on its way there
        info = await self.bus.stream_info(stream, f"{stream}.*")
        for subject, waiting in ((info.state.subjects if info else None) or {}).items():
            if for_source(self.settings.routes, subject.partition(".")[2]) is None:
                log.warning(
                    "%s did not come back in %d s: %d tasks on %s are dropped; name it in routes to keep them",
                    model, AWAY_SECONDS, waiting, subject,
                )  # fmt: skip
                await self.bus.purge(stream, subject)

    async def _declare(self, model: str, medium: Medium) -> None:
        """Give a model's queues the form of what it takes; a route may have guessed another one."""
        if self._declared.get(model) is not medium:
            await self.bus.declare(*subjects.task_streams(model, medium))
            self._declared[model] = medium

    def _warn_of_unknown(self) -> None:
        for model in sorted({route.model for route in self._all_routes()} - self._live.keys()):
            log.warning(
                "setting routes names %s, of which no worker is alive yet (alive: %s)",
                model,
                ", ".join(sorted(self._live)) or "none",
            )

    # -- frames and audio windows -------------------------------------------------------------------

    async def _routing(self, stream: subjects.Stream, kind: type[C]) -> None:
        pull = await self.bus.pull(subjects.router_consumer(stream), kind, window=8 * BATCH)
        async for envelopes in pull.batches(BATCH):
            live = [item for item in envelopes if item.message.delivery is Delivery.LIVE]
            await asyncio.gather(*(self._route_live(item) for item in live))
            for item in envelopes:
                if item.message.delivery is Delivery.LOSSLESS:
                    self._lane(kind, item.message.source).put_nowait(item)

    async def _route_live(self, envelope: Envelope[C]) -> None:
        async with self.bus.settling(envelope):
            given = self._tasks(envelope.message)
            if not given:
                UNROUTED.labels(Delivery.LIVE).inc()
            await asyncio.gather(*(self._give(task, envelope) for task in given))

    def _tasks(self, claim: Frame | AudioWindow) -> list[Task | AudioTask]:
        models = self._live if claim.delivery is Delivery.LIVE else self._seen
        return tasks(claim, for_source(self.settings.routes, claim.source), models, self._takes)

    def _lane(self, kind: type[C], source: str) -> asyncio.Queue[Envelope[C]]:
        """What is lossless waits in a lane of its own, so that a full queue holds up no camera and no other file.

        The reader's window bounds what can wait here.
        """
        if (kind, source) not in self._lossless:
            lane: asyncio.Queue[Envelope[C]] = asyncio.Queue()
            self._lossless[kind, source] = lane
            self._group.create_task(self._route_lossless(lane))
        return self._lossless[kind, source]

    async def _route_lossless(self, lane: asyncio.Queue[Envelope[C]]) -> None:
        while True:
            envelopes = [await lane.get()]
            while not lane.empty() and len(envelopes) < BATCH:
                envelopes.append(lane.get_nowait())
            await asyncio.gather(*(self._route_one_lossless(item) for item in envelopes))

    async def _route_one_lossless(self, envelope: Envelope[C]) -> None:
        claim = envelope.message
        medium = Medium.FRAME if isinstance(claim, Frame) else Medium.AUDIO
        for_all = for_source(self.settings.routes, claim.source) is None
        async with self.bus.settling(envelope):
            while for_all and self._waits_for(medium):
                await asyncio.sleep(LOOK_SECONDS / 4)
            given = self._tasks(claim)
            if for_all and not given:
                self._let_go(medium, claim.source)
            await asyncio.gather(*(self._give(task, envelope) for task in given))

    def _waits_for(self, medium: Medium) -> bool:
        """Whether a model of a medium is waited for: for a time where others live, without end where none does."""
        if medium in self._live.values():
            return False
        return not self._live or time.monotonic() - self._may_come[medium] <= AWAY_SECONDS

    def _let_go(self, medium: Medium, source: str) -> None:
        UNROUTED.labels(Delivery.LOSSLESS).inc()
        if (medium, source) in self._said:
            return
        self._said.add((medium, source))
        what, does = NAMES[medium]
        log.warning(
            "%s: its %s are seen by no model, as none that %s has been alive for %d s; start a worker of one "
            "before the source is read, or name one in the setting routes, so that they wait for it",
            source, what, does, AWAY_SECONDS,
        )  # fmt: skip

    # -- results that others follow -----------------------------------------------------------------

    async def _following(self, model: str) -> None:
        pull = await self.bus.pull(subjects.follower_consumer(model), Result, window=8 * BATCH)
        async for envelopes in pull.batches(BATCH):
            await asyncio.gather(*(self._follow(item) for item in envelopes))

    async def _follow(self, envelope: Envelope[Result]) -> None:
        async with self.bus.settling(envelope):
            routes = for_source(self.settings.routes, envelope.message.source)
            given = follow_tasks(envelope.message, routes)
            await asyncio.gather(*(self._give(task, envelope) for task in given))

    # -- tasks --------------------------------------------------------------------------------------

    async def _give(self, task: Task | AudioTask, envelope: Envelope[M]) -> None:
        """Put a task into its model's queue; a full lossless queue is waited for, and so pushes back."""
        room = self._room[task.model]
        if task.delivery is Delivery.LOSSLESS and room.locked():
            async with room:
                pass
        if not self._given_up(task) and not await self._accepted(task, envelope):
            async with room:  # one asks again, the others wait behind it
                while not self._given_up(task) and not await self._accepted(task, envelope):
                    await asyncio.sleep(FULL_SECONDS)
        TASKS.labels(task.model, task.delivery).inc()

    def _given_up(self, task: Task | AudioTask) -> bool:
        """Whether a task is for a model that has not come back, and that no route of its source names."""
        return task.model not in self._seen and for_source(self.settings.routes, task.source) is None

    async def _accepted(self, task: Task | AudioTask, envelope: Envelope[M]) -> bool:
        subject = subjects.tasks(task.model, task.source, lossless=task.delivery is Delivery.LOSSLESS)
        try:
            await self.bus.publish(subject, task, msg_id=task.task_key, trace=child_trace(envelope.trace))
        except QueueFull:
            return False
        return True
