"""Whoever takes a source over comes to the same events, and whoever was taken over tells nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.events import EventStore
from framemesh.messages import Delivery, Event, EventState, Result, SourceState
from services.registrator.catalogue import Catalogue, NotOurs
from services.registrator.keeper import Keeper
from services.registrator.proofs import Proofs
from services.registrator.rules import Rule, RuleWatch
from services.registrator.settings import RegistratorSettings
from tests.samples import event, result, until

CREATED, PENDING, DONE, FINISHED, ERROR = EventState
RULE = Rule(name="people")
QUIET = 20
"""Frames before the first sighting."""
SEEN, ALL = range(QUIET, QUIET + 10), range(QUIET + 90)

Look = Callable[[int], Result]
Keeping = Callable[[], AbstractAsyncContextManager["asyncio.Task[None]"]]


async def ours() -> bool:
    return True


@pytest.fixture(autouse=True)
async def streams(bus: Bus) -> None:
    await bus.declare(subjects.RESULTS, subjects.EVENTS, subjects.SOURCES)


@pytest.fixture
def keeping(servers: Mapping[str, str], redis: Redis, source: str, tmp_path: Path) -> Keeping:
    """Runs a keeper of the source, which ends with the block, in the middle of what it does."""
    settings = RegistratorSettings(**servers, tmp_path=tmp_path)  # type: ignore[arg-type]

    @asynccontextmanager
    async def running() -> AsyncIterator[asyncio.Task[None]]:
        bus = await Bus.connect(servers["nats_host"], "keeper")
        proofs, catalogue = Proofs(settings, bus), Catalogue(source, bus, EventStore(redis), ours)
        watches = [RuleWatch(RULE)]
        keeper = Keeper(source, settings.topic_stream, bus, catalogue=catalogue, proofs=proofs, watches=watches)
        task = asyncio.create_task(keeper.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])
            await proofs.close()
            await bus.close()

    return running


@pytest.fixture
def look(source: str) -> Look:
    """The result of a frame: a person in those of ``SEEN``. There are no pictures, so evidence ends as ERROR."""

    def looked(seq: int) -> Result:
        made = result(source, "DetectionInference", seq)
        given = {"delivery": Delivery.LOSSLESS, "frame_url": ""}
        return made.model_copy(update=given | ({} if seq in SEEN else {"result": []}))

    return looked


async def publish(bus: Bus, *results: Result) -> None:
    for made in results:
        await bus.publish(subjects.results(made.model, made.source), made, msg_id=made.task_key)


async def told(bus: Bus, source: str) -> list[Event]:
    """Every step of the source's events."""
    return [stored.message async for stored in bus.read(subjects.EVENTS.name, subjects.events(source), 1, Event)]


async def tells(bus: Bus, source: str, state: EventState) -> bool:
    return any(step.state is state for step in await told(bus, source))


async def acked(bus: Bus, source: str) -> int:
    """How many of the source's results no replay brings back."""
    subject = subjects.results("*", source)
    floors = [
        info.ack_floor.stream_seq
        for info in await bus.consumers(subjects.RESULTS)
        if info.config.filter_subject == subject and info.ack_floor
    ]
    stored = [each.seq async for each in bus.read(subjects.RESULTS.name, subject, 1, Result)]
    return sum(seq <= max(floors, default=0) for seq in stored)


@pytest.mark.parametrize(
    ("before", "floor"),
    [
        ([*range(QUIET), 20, 21, 22, 23], QUIET),
        ([*range(QUIET), 22, 20, 21, 23], QUIET),
        ([*range(QUIET), 21, 22, 23], QUIET),
        ([*range(QUIET - 2), 19, 21, 18, 20, 22], QUIET - 1),
        ([0, 1, 2], 3),
    ],
    ids=["in order", "the first late", "the first to come", "one before the first late", "begun"],
)
async def test_whoever_takes_over_comes_to_the_same_event(
    before: list[int], floor: int, look: Look, keeping: Keeping, bus: Bus, source: str
) -> None:
    watch = RuleWatch(RULE)
    opened, closed = (decision.event for seq in ALL for decision in watch.feed(look(seq)))

    async def reached() -> bool:
        return await acked(bus, source) == floor

    async with keeping():
        await publish(bus, *map(look, before))
        await until(reached)
    async with keeping():
        await publish(bus, *(look(seq) for seq in ALL if seq not in before))
        await until(lambda: tells(bus, source, PENDING))
    steps = await told(bus, source)
    assert [(step.id, step.state) for step in steps] == [(opened.id, CREATED), (opened.id, PENDING)]
    assert (steps[1].start, steps[1].end, steps[1].counts) == (closed.start, closed.end, closed.counts)


async def test_who_was_overtaken_between_asking_for_the_lease_and_publishing_tells_nothing(
    bus: Bus, redis: Redis, source: str
) -> None:
    made, store = event(source, CREATED).model_copy(update={"transitions": []}), EventStore(redis)

    async def overtaken() -> bool:
        """The lease is ours; before we go on, another has it and tells the rest."""
        other = Catalogue(source, bus, store, ours)
        await other.load(0)
        for state in (DONE, FINISHED):
            await other.tell(made, state)
        return True

    answers = iter([ours, ours, overtaken])

    async def asked() -> bool:
        return await next(answers)()

    stale = Catalogue(source, bus, store, asked)
    await stale.tell(made, CREATED)
    await stale.tell(made, PENDING)
    with pytest.raises(NotOurs):
        await stale.tell(made, ERROR, "too late")
    assert [step.state for step in await told(bus, source)] == [CREATED, PENDING, DONE, FINISHED]
    assert [kept.state for kept in await store.between() if kept.source == source] == [FINISHED]


class Deaf(Bus):
    """Does not hear the first answer to each message."""

    _asked = b""

    async def _publish_once(self, subject: str, payload: bytes, headers: dict[str, str]) -> int:
        seq = await super()._publish_once(subject, payload, headers)
        if self._asked != payload:
            self._asked = payload
            raise TimeoutError
        return seq


async def test_a_step_whose_receipt_was_lost_is_told_once(
    servers: Mapping[str, str], redis: Redis, bus: Bus, source: str
) -> None:
    deaf = await Deaf.connect(servers["nats_host"], "deaf")
    catalogue = Catalogue(source, deaf, EventStore(redis), ours)
    made = event(source, CREATED).model_copy(update={"transitions": []})
    for state in (CREATED, PENDING, DONE, FINISHED):
        await catalogue.tell(made, state)
    await deaf.close()
    assert [step.state for step in await told(bus, source)] == [CREATED, PENDING, DONE, FINISHED]


async def test_a_keeper_that_finds_steps_of_another_begins_again_from_its_checkpoint(
    look: Look, keeping: Keeping, bus: Bus, source: str
) -> None:
    async with keeping() as keeper:
        await publish(bus, *map(look, ALL))
        await until(lambda: tells(bus, source, PENDING))
        foreign = event(source, CREATED, PENDING, DONE, FINISHED)
        await bus.publish(subjects.events(source), foreign, msg_id=foreign.id)
        ended = SourceState(source=source, run="run-1", state="ended", timestamp=0)
        await bus.publish(subjects.source_state(source), ended, msg_id=source)  # evidence waits for no more frames
        with pytest.raises(NotOurs):
            await asyncio.wait_for(keeper, 10)
    async with keeping():
        await until(lambda: tells(bus, source, ERROR))
    assert [step.state for step in await told(bus, source)] == [CREATED, PENDING, FINISHED, ERROR]
