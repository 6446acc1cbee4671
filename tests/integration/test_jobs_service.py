"""The results database, and the service that keeps it and mends jobs; on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from redis.asyncio import Redis
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.database.engine import open_database
from framemesh.database.jobs import JobTable
from framemesh.database.tables import Base
from framemesh.errors import FramemeshError
from framemesh.registry import Registry
from framemesh.steps import advance
from framemesh.steps.admission import Admission
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.functions import Function
from framemesh.steps.job import Job, JobStatus, Parent, Priority
from framemesh.steps.plan import Plan
from framemesh.steps.schedules import JobRequest, Schedule, Schedules
from services.jobs.jobs import JobsService
from services.jobs.mender import Mender
from services.jobs.projection import Projection
from services.jobs.settings import JobsSettings
from tests.integration.postgres import Postgres, database, engine, postgres, running
from tests.integration.stepping import Begin, at_work, one, over
from tests.samples import dead_letters, until

__all__ = ["database", "engine", "postgres"]


def job(number: int, **values: Any) -> Job:
    plan = Plan.model_validate({"name": "p", "steps": {"a": {"function": "f"}}})
    return Job(id=f"job{number:03d}", plan=plan, created=1000.0 + number, **values)


async def test_the_migrations_make_what_the_code_expects_and_may_run_again(
    engine: AsyncEngine, database: str
) -> None:
    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        names = await connection.run_sync(lambda each: inspect(each).get_table_names())
    assert {"jobs", "checkpoints"} <= set(names)
    again = await open_database(database)
    await again.dispose()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "jobs_database: 'nonsense' is no address"),
        ("mysql://a/b", "jobs_database: mysql is not known"),
        (
            "postgresql://u:secret@127.0.0.1:1/x",
            r"jobs_database: postgresql://\*\*\*@127.0.0.1:1/x cannot be used",
        ),
        ("postgresql://127.0.0.1:1/x?sslmode=nonsense", "sslmode"),
        ("postgresql://h:1,i:2/x", "is no address"),
        (
            "postgresql://127.0.0.1:1/x?gssencmode=no",
            "jobs_database: .gssencmode= is not known; known: application",
        ),
        ("sqlite:////proc/nothing/jobs.db", "."),
    ],
)
async def test_a_database_that_cannot_be_used_is_named(address: str, said: str) -> None:
    with pytest.raises((FramemeshError, OSError), match=said):
        await open_database(address, patience=0)


async def test_an_address_may_say_what_that_of_any_client_of_postgresql_may(postgres: Postgres) -> None:
    address = await postgres.fresh()
    engine = await open_database(f"{address}?sslmode=prefer&application_name=mesh&prepared_statement_cache_size=0")
    async with engine.connect() as connection:
        assert (await connection.execute(text("show application_name"))).scalar() == "mesh"
    await engine.dispose()


async def test_a_database_that_refuses_is_named_with_its_reason(postgres: Postgres) -> None:
    with pytest.raises(FramemeshError, match=r"cannot be used \(.*does not exist.*\)"):
        await open_database(f"{postgres.address}/nothing", patience=0)


async def test_what_came_while_the_database_was_away_is_made_up_for(
    bus: Bus, registry: Registry, servers: Mapping[str, str], jobs: Jobs, begin: Begin, name: str
) -> None:
    """Two services, of which one keeps the database: it is stopped in order, then killed."""
    with running() as postgres:
        address = await postgres.fresh()
        async with AsyncExitStack() as stack:
            for instance in ("jobs-one", "jobs-two"):
                settings = JobsSettings(**servers, instance=instance, jobs_database=address)  # type: ignore[arg-type]
                await stack.enter_async_context(at_work(JobsService(settings, bus, registry)))
            await stack.enter_async_context(begin(Function(name, nothing)))
            made = list[Job]()
            for number in (signal.SIGINT, signal.SIGKILL):
                made += [await jobs.submit(one(name)) for _ in range(10)]
                postgres.stop(number)
                made += [await jobs.submit(one(name)) for _ in range(10)]
                ends = [await over(jobs, each) for each in made]
                postgres.start()
                engine = await open_database(address)
                await until(partial(caught_up, JobTable(engine), made), within=30)
                await engine.dispose()
    assert {each.status for each in ends} == {JobStatus.DONE}


async def test_a_newer_state_replaces_an_older_one_and_never_the_other_way(engine: AsyncEngine) -> None:
    table = JobTable(engine)
    await table.save([(5, job(1)), (6, job(2))], 6)
    await table.save([(9, job(1, status=JobStatus.DONE, ended=2000.0)), (3, job(2, owner="late"))], 9)
    assert await table.checkpoint() == 9
    found, other = await table.find("job001"), await table.find("job002")
    assert found
    assert other
    assert (found.status, other.owner) == (JobStatus.DONE, "nobody")
    assert await table.find("nothing") is None


async def test_two_states_of_one_job_may_come_at_once(engine: AsyncEngine) -> None:
    """It changed while the stream was read."""
    table = JobTable(engine)
    await table.save([(5, job(1)), (6, job(2)), (7, job(1, owner="bob"))], 7)
    found = await table.find("job001")
    assert found
    assert found.owner == "bob"


async def test_pages_go_through_all_jobs_once_the_newest_first(engine: AsyncEngine) -> None:
    table = JobTable(engine)
    owners = ["ann", "bob"]
    await table.save([(n + 1, job(n, owner=owners[n % 2])) for n in range(25)], 25)
    found, cursor = list[str](), ""
    while True:
        page = await table.page(limit=10, cursor=cursor)
        found += [each.id for each in page.jobs]
        if not (cursor := page.cursor):
            break
    assert found == [f"job{n:03d}" for n in reversed(range(25))]
    assert [each.id for each in (await table.page(owner="bob", limit=2)).jobs] == ["job023", "job021"]
    assert (await table.page(status="done")).jobs == []
    with pytest.raises(FramemeshError, match="cursor"):
        await table.page(cursor="rubbish")


async def test_the_place_in_the_queue_counts_who_comes_before(engine: AsyncEngine) -> None:
    table = JobTable(engine)
    high = job(9, priority=Priority.HIGH)
    begun = job(0, status=JobStatus.PROCESSING)
    await table.save([(n + 1, each) for n, each in enumerate([begun, job(1), job(2), high])], 4)
    places = [await table.place(each) for each in (begun, high, job(1), job(2))]
    assert [(place.position, place.waiting) for place in places] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert await table.counts() == {"queued": 3, "processing": 1}


async def test_nobody_who_comes_later_stands_before_one_who_waits(engine: AsyncEngine) -> None:
    table = JobTable(engine)
    unseen = await table.place(job(5))
    assert (unseen.position, unseen.waiting) == (None, 1)
    await table.save([(1, job(5)), (2, job(6))], 2)
    await table.save([(3, job(4))], 3)  # it was made sooner, and put down later
    await table.save([(4, job(5, parked=True))], 4)  # still waiting, in another state
    assert [(await table.place(job(n))).position for n in (5, 6, 4)] == [1, 2, 3]


async def nothing(ctx: Context, given: Any) -> str:
    return "done"


async def caught_up(table: JobTable, made: list[Job]) -> bool:
    found = [await table.find(each.id) for each in made]
    return all(each and each.status.over for each in found)


async def test_every_job_comes_to_the_database_and_leaves_the_stream_in_time(
    engine: AsyncEngine,
    jobs: Jobs,
    begin: Begin,
    bus: Bus,
    name: str,
) -> None:
    table = JobTable(engine)
    projection = Projection(bus, table)
    following = asyncio.create_task(projection.run())
    async with begin(Function(name, nothing)):
        made = await asyncio.gather(*(jobs.submit(one(name)) for _ in range(50)))
        await until(lambda: caught_up(table, made), within=20)
        following.cancel()
        await asyncio.wait([following])
        late = await jobs.submit(one(name))
        await over(jobs, late)
    assert await table.find(late.id) is None  # nobody looked
    await projection.catch_up(await table.checkpoint())
    found = await table.find(late.id)
    assert found
    assert found == await jobs.store.get(late.id)
    assert await projection.put_away(3600) == 0
    assert await projection.put_away(-1) >= 51
    assert await jobs.store.find(late.id) is None
    assert await table.find(late.id) == found


async def test_what_was_never_sent_is_sent(
    engine: AsyncEngine, jobs: Jobs, begin: Begin, bus: Bus, redis: Redis, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As if whoever submitted had died between the state and its first step."""
    table = JobTable(engine)
    async with begin(Function(name, nothing)):
        lost = await jobs.submit(one(name))
        await over(jobs, lost)
        stuck = Job(id=f"stuck-{name}", plan=one(name), created=time.time())
        advance.begin(stuck, stuck.created)
        await bus.publish_raw(subjects.job_state(stuck.id), stuck.model_dump_json().encode(), {})
        parked = stuck.model_copy(update={"id": f"parked-{name}", "parked": True, "steps": {}}, deep=True)
        advance.begin(parked, parked.created)
        await bus.publish_raw(subjects.job_state(parked.id), parked.model_dump_json().encode(), {})
        await Projection(bus, table).catch_up(0)
        mender = Mender(bus, table, jobs, Admission(redis))
        monkeypatch.setattr("services.jobs.mender.STILL_S", 0.2)
        await mender.look(64)
        assert (await jobs.store.get(stuck.id)).status is JobStatus.QUEUED
        await asyncio.sleep(0.3)
        await mender.look(64)
        assert (await over(jobs, parked)).status is JobStatus.DONE
        assert (await over(jobs, stuck)).status is JobStatus.DONE


async def test_shares_that_redis_forgot_or_made_up_are_put_right(
    engine: AsyncEngine,
    jobs: Jobs,
    begin: Begin,
    bus: Bus,
    redis: Redis,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who died between Redis and a state left one of them wrong."""
    table, admission, owner = JobTable(engine), Admission(redis), f"o-{name}"
    share = (owner, "normal")
    async with begin(Function(name, nothing)):
        pass  # so that the function is known, and nobody does it
    made = [await jobs.submit(one(name), owner=owner) for _ in range(70)]
    right = await admission.share(share)
    assert (list(right.values()).count(False), list(right.values()).count(True)) == (64, 6)
    await redis.delete(f"jobs:share:{owner}:normal:begun", f"jobs:share:{owner}:normal:parked")
    await admission.enter(made[69].model_copy(update={"id": "never-put-down"}))
    await Projection(bus, table).catch_up(0)
    assert (await table.shares())[share] == (64, 6)
    assert await table.share(share) == right
    mender = Mender(bus, table, jobs, admission)
    monkeypatch.setattr("services.jobs.mender.STILL_S", 0.2)
    await mender.look(64)
    await asyncio.sleep(0.3)
    assert await mender.look(64) >= 71
    assert await admission.share(share) == right
    assert (await admission.sizes())[share] == (64, 6)
    async with begin(Function(name, nothing)):
        for each in made:
            assert (await over(jobs, each)).status is JobStatus.DONE


async def test_a_sub_job_of_a_job_that_is_over_is_cancelled(
    engine: AsyncEngine, jobs: Jobs, begin: Begin, bus: Bus, redis: Redis, name: str
) -> None:
    """As if whoever began it had come too late for whoever cancelled its job."""
    table = JobTable(engine)
    async with begin(Function(name, nothing)):
        pass
    parent = await jobs.submit(one(name))
    await jobs.cancel(parent.id)
    child = Job(
        id=f"child-{name}", plan=one(name), created=1.0, parent=Parent(job=parent.id, step="it", attempt=1)
    )
    assert await jobs.store.create(child)
    await Projection(bus, table).catch_up(0)
    await Mender(bus, table, jobs, Admission(redis)).look(64)
    assert (await jobs.store.get(child.id)).status is JobStatus.CANCELLED


async def test_a_job_hears_late_of_the_end_of_its_sub_job(
    engine: AsyncEngine,
    jobs: Jobs,
    begin: Begin,
    bus: Bus,
    redis: Redis,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = JobTable(engine)
    async with begin(Function(name, nothing)):
        pass
    whole = Plan.model_validate({"name": "whole", "steps": {"it": {"plan": one(name).model_dump()}}})
    parent = await jobs.submit(whole)
    (child_id,) = advance.sub_jobs(await jobs.store.get(parent.id))

    def end(job: Job) -> list[advance.Order]:
        return advance.done(job, "it", None, 1, "late", 1.0, 2.0)

    await jobs.store.apply(child_id, end)  # and whoever did so died
    await Projection(bus, table).catch_up(0)
    mender = Mender(bus, table, jobs, Admission(redis))
    monkeypatch.setattr("services.jobs.mender.STILL_S", 0.2)
    await mender.look(64)
    await asyncio.sleep(0.3)
    await mender.look(64)
    ended = await jobs.store.get(parent.id)
    assert (ended.status, ended.output) == (JobStatus.DONE, {"it": {"it": "late"}})


async def test_the_mender_looks_at_each_state_once(
    engine: AsyncEngine,
    jobs: Jobs,
    begin: Begin,
    bus: Bus,
    redis: Redis,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = JobTable(engine)
    async with begin(Function(name, nothing)):
        pass
    made = [await jobs.submit(one(name), owner=f"o-{name}") for _ in range(70)]
    await Projection(bus, table).catch_up(0)
    mender = Mender(bus, table, jobs, Admission(redis))
    seen: list[str] = []
    look_at_one = mender._look_at_one

    async def counting(job: Job) -> bool:
        seen.append(job.id)
        return await look_at_one(job)

    monkeypatch.setattr(mender, "_look_at_one", counting)
    monkeypatch.setattr("services.jobs.mender.STILL_S", 0.2)
    for _ in range(4):
        await mender.look(64)
        await asyncio.sleep(0.25)
    assert sorted(job_id for job_id in seen if job_id in {job.id for job in made}) == sorted(
        job.id for job in made if not job.parked
    )
    for each in made:
        await jobs.cancel(each.id)


@pytest.fixture
async def service(
    bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path
) -> AsyncIterator[JobsService]:
    """The service at work."""
    async with at_work(jobs_service(bus, registry, servers, tmp_path)) as made:
        yield made


async def made_by(table: JobTable, plan: str) -> list[Job]:
    page = await table.page(limit=500)
    return [each for each in page.jobs if each.plan.name == plan]


@pytest.fixture
def own_plan(name: str) -> Plan:
    """A plan by whose name its jobs are found."""
    return Plan.model_validate({"name": name, "steps": {"it": {"function": name, "input": {"n": "$input.n"}}}})


async def test_a_schedule_makes_jobs_until_it_is_removed(
    service: JobsService,
    begin: Begin,
    bus: Bus,
    name: str,
    own_plan: Plan,
) -> None:
    schedules = Schedules(bus)
    async with begin(Function(name, nothing)):
        berlin = Schedule(name=name, cron="* * * * * *", zone="Europe/Berlin", plan=own_plan, input={"n": 1})
        await schedules.put(berlin)
        assert [each.name for each in await schedules.all() if each.name == name] == [name]

        async def twice() -> bool:
            found = await made_by(service._table, name)
            return len([each for each in found if each.status is JobStatus.DONE]) >= 2

        await until(twice, within=15)
        await schedules.remove(name)
        await asyncio.sleep(1.5)
        count = len(await made_by(service._table, name))
        await asyncio.sleep(1.5)
        assert len(await made_by(service._table, name)) == count
        with pytest.raises(FramemeshError, match="there is none of that name"):
            await schedules.run(name)


async def test_runs_that_were_missed_are_made_up_for_once(
    begin: Begin, bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path, own_plan: Plan
) -> None:
    schedules, name = Schedules(bus), own_plan.name
    async with begin(Function(name, nothing)):
        await schedules.put(Schedule(name=name, cron="* * * * * *", plan=own_plan, input={"n": 1}))
        await asyncio.sleep(3.2)  # nobody makes jobs
        await schedules.remove(name)
        async with at_work(jobs_service(bus, registry, servers, tmp_path)) as service:

            async def some() -> int:
                return len(await made_by(service._table, name))

            await until(some, within=10)
            await asyncio.sleep(1)
            assert await some() == 1


def jobs_service(bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path) -> JobsService:
    settings = JobsSettings(**servers, instance="jobs-late", jobs_database=f"sqlite:///{tmp_path}/j.db")  # type: ignore[arg-type]
    return JobsService(settings, bus, registry)


async def test_a_trigger_that_asks_for_what_cannot_be_done_is_a_dead_letter(
    service: JobsService,
    bus: Bus,
    name: str,
    own_plan: Plan,
) -> None:
    await bus.publish_raw(subjects.job_trigger(name), JobRequest(plan=own_plan).model_dump_json().encode(), {})

    async def buried() -> list[Any]:
        return await dead_letters(bus, "JOBS", subjects.job_trigger(name))

    (letter,) = await until(buried)
    assert f"no worker has ever had a function '{name}'" in letter.reason


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("* * *", "UTC", "cron: '\\* \\* \\*' has 3 fields"),
        ("61 * * * *", "UTC", "cron: the server does not take"),
        ("0 6 * * *", "Mars/Olympus", "zone: there is no time zone"),
    ],
)
async def test_a_schedule_that_is_none_is_refused(
    bus: Bus,
    jobs: Jobs,
    own_plan: Plan,
    cron: str,
    zone: str,
    said: str,
) -> None:
    with pytest.raises(FramemeshError, match=said):
        await Schedules(bus).put(Schedule(name="wrong", cron=cron, zone=zone, plan=own_plan))
