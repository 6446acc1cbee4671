"""The base of every service that does steps."""

from __future__ import annotations

import asyncio
import logging
from typing import TypeVar

from nats.aio.msg import Msg
from pydantic import Field

from framemesh import subjects
from framemesh.blobs import BlobStore
from framemesh.messages import Heartbeat
from framemesh.pull import Envelope
from framemesh.service import Service
from framemesh.settings import Settings
from framemesh.steps.admission import Admission
from framemesh.steps.advance import Order
from framemesh.steps.attempt import Attempt, Doing, Means
from framemesh.steps.children import Children
from framemesh.steps.derivations import Derivations, kept_seconds
from framemesh.steps.files import COLLECTION
from framemesh.steps.functions import Function
from framemesh.steps.hands import Hands
from framemesh.steps.job import StepTask
from framemesh.steps.lanes import Lanes, Slot, Slots
from framemesh.steps.scratch import Scratch
from framemesh.steps.store import JobStore
from framemesh.steps.switchboard import Rate, Switch, Switchboard
from framemesh.tasks import heed_cancellation

log = logging.getLogger(__name__)

REST_S = 0.25


class StepSettings(Settings):
    """Settings of every service that does steps."""

    step_concurrency: int = Field(
        8, ge=1, le=1000, description="Most steps of one function at a time in this process"
    )
    jobs_ttl: str = Field("30d", description="How long what steps store is kept: 12h, 30d, 8w; empty: for ever")


S = TypeVar("S", bound=StepSettings)


class StepWorker(Service[S]):
    """Does steps. A service gives its ``kind`` and the ``functions`` that it has."""

    functions: tuple[Function, ...]

    async def prepare(self) -> None:
        """Say which functions there are."""
        self._store = JobStore(self.bus, Admission(self.registry.redis))
        await self._store.declare()
        await self.bus.declare(subjects.JOBLOGS, subjects.DERIVATIONS)
        self._blobs = BlobStore(self.settings.master_url, collection=COLLECTION, ttl=self.settings.jobs_ttl)
        self._children = Children(self.settings.master_url, self.settings.jobs_ttl)
        self._attempts: set[Attempt] = set()
        self._switches = [Switch(Switchboard(self.bus), function) for function in self.functions]
        for switch in self._switches:
            await switch.begin()
        self._hands = {each.name: Hands(self.settings.step_concurrency) for each in self.functions}
        self._lanes: dict[str, Lanes] = {}
        self._scratch = await asyncio.to_thread(Scratch.open)
        self._means = Means(
            self._store, self.registry, self._blobs, self._children, self._scratch.path, Derivations(self.bus),
            kept_seconds(self.settings.jobs_ttl), self.instance, asyncio.Lock(), self._may_go_on,
        )  # fmt: skip
        await self.bus.client.subscribe(subjects.job_cancelled("*"), cb=self._on_cancelled)

    async def run(self) -> None:
        """Do steps until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._children.tidy())
            for function, switch in zip(self.functions, self._switches, strict=True):
                group.create_task(switch.watch())
                group.create_task(self._working(function, switch))

    async def finish(self) -> None:
        """Let go of the processes, their folders and the store."""
        await self._children.close()
        await asyncio.to_thread(self._scratch.close)
        await self._blobs.close()

    def heartbeat(self) -> Heartbeat:
        """What this worker says of itself."""
        detail = {
            "functions": [function.name for function in self.functions],
            "step_concurrency": self.settings.step_concurrency,
        }
        return super().heartbeat().model_copy(update={"detail": detail})

    async def _on_cancelled(self, msg: Msg) -> None:
        job = msg.subject.rpartition(".")[2]
        for attempt in list(self._attempts):
            if attempt.job == job:
                attempt.cancel()

    # -- one function -------------------------------------------------------------------------------

    async def _working(self, function: Function, switch: Switch) -> None:
        hands = self._hands[function.name]
        lanes, slots = await Lanes.open(self.bus, function.name), await Slots.open(self.bus, function.name)
        self._lanes[function.name] = lanes
        rate = Rate(self.registry.redis, function.name)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    heed_cancellation()
                    await self._turn(group, function, switch, hands, lanes, slots, rate)
        finally:
            await lanes.close()
            await slots.close()

    async def _turn(
        self, group: asyncio.TaskGroup, function: Function, switch: Switch,
        hands: Hands, lanes: Lanes, slots: Slots, rate: Rate,
    ) -> None:  # fmt: skip
        """Begin as many steps as there are hands, slots and turns for."""
        state, slot = switch.state, None
        if state.paused or not await hands.free(REST_S):
            await lanes.rest(0 if state.paused else REST_S)
            await slots.rest()
            await asyncio.sleep(REST_S if state.paused else 0)
            return
        if state.concurrency and (slot := await slots.take()) is None:
            await lanes.rest()
            return
        await rate.wait(state.rate)
        one = state.concurrency or state.rate
        found = await lanes.take(1 if one else hands.count)
        if switch.state.paused:  # meanwhile
            for envelope in found:
                await envelope.nak(REST_S)
            found = []
        for envelope in found:
            attempt = Attempt(self._means, Doing(function, state.timeout, hands), envelope)
            group.create_task(self._attempt(attempt, envelope, slot))
        if found:
            await asyncio.sleep(0)  # they begin before more is asked for
        elif slot:
            await slot.nak(0)

    def _may_go_on(self, order: Order, freed: Hands) -> Doing | None:
        """What does a step here, if nothing of a higher priority waits, and nothing bounds it."""
        for function, switch in zip(self.functions, self._switches, strict=True):
            if function.name == order.function:
                lanes, hands = self._lanes.get(function.name), self._hands[function.name]
                has_hand = hands.count > 0 or hands is freed
                free = lanes and not lanes.waiting_above(order.priority) and has_hand
                return Doing(function, switch.state.timeout, hands) if free and not switch.state.bounded else None
        return None

    async def _attempt(self, attempt: Attempt, envelope: Envelope[StepTask], slot: Envelope[Slot] | None) -> None:
        self._attempts.add(attempt)
        try:
            await attempt.make()
        except asyncio.CancelledError:
            await attempt.hand_back()
            raise
        except Exception:
            log.exception("%s: cannot be written down; again later", envelope.message.key)
            await envelope.nak()
        finally:
            self._attempts.discard(attempt)
            attempt.put_down()
            if slot:
                await slot.nak(0)
