"""The search service on real servers: transcripts, events and labels are found, whatever is replayed or killed."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from framemesh import subjects
from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.messages import Detection, Event, Result, SearchKind, SearchReply, SearchRequest, SearchTrouble
from framemesh.registry import Registry
from framemesh.search import QUERY_S, NoSearch, request
from framemesh.steps.client import Jobs
from framemesh.steps.functions import Skip
from framemesh.steps.job import JobStatus
from services.search import upkeep
from services.search.media import LocalLocks, MediaIndex
from services.search.passages import Where
from services.search.responder import Responder
from services.search.search import Search
from tests.integration.model_server import MODEL, ModelServer, fails, says, serving
from tests.integration.searches import (
    SPEECH,
    context,
    embedding_server,
    find,
    listed,
    searching,
    settings,
    transcript,
)
from tests.integration.stepping import plan
from tests.samples import until


@pytest.fixture
async def search(
    bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path
) -> AsyncIterator[Search]:
    async with searching(bus, registry, settings(servers, tmp_path)) as service:
        yield service


@pytest.fixture
def media() -> str:
    return f"m-{secrets.token_hex(4)}"


@pytest.fixture
def index(search: Search) -> MediaIndex:
    return MediaIndex(search.settings, search._shelf, search._embedder, LocalLocks())


async def taken(index: MediaIndex, blobs: BlobStore, media: str, *texts: str, **more: Any) -> dict[str, Any]:
    """Both steps for a media that says these; what ``index`` gave."""
    ctx = context(blobs)
    made = await index.embed(ctx, {"media": media, "transcript": transcript(*texts)} | more)
    given: dict[str, Any] = {"media": media, "passages": made["passages"]} | more
    return await index.index(ctx, given)


async def texts(search: Search, media: str) -> list[str]:
    found = [point.passage async for point in search._shelf.all(Where(media=media))]
    return [passage.text for passage in sorted(found, key=lambda passage: passage.start)]


async def test_a_media_is_indexed_and_found_at_its_time(
    search: Search, bus: Bus, blobs: BlobStore, jobs: Jobs, media: str
) -> None:
    whole = await blobs.put(json.dumps(transcript(*SPEECH)).encode())
    steps = plan(
        embed={
            "function": "embed",
            "input": {"media": media, "transcript": "$input.said", "title": "Bridge"},
        },
        index={
            "function": "index",
            "after": ["embed"],
            "input": {"media": media, "title": "Bridge", "source": "town", "passages": "$steps.embed.passages"},
        },
    )
    job = await jobs.submit(steps, {"said": {"text": "short", "transcript": whole}})
    async with asyncio.timeout(30):
        job = await jobs.wait(job.id)
    assert job.status is JobStatus.DONE, job.error
    made = job.steps["embed"].output
    assert made["count"] == 5
    assert made["model"].startswith("minilm-int8-")
    assert len(made["digest"]) == 64
    assert job.steps["index"].output == {"indexed": 5, "removed": 0, "kept": 0}
    (hit, *_) = (await find(bus, "boat over the river for pedestrians", source="town")).hits
    assert (hit.text, hit.start, hit.media, hit.title) == (SPEECH[2], 20.0, media, "Bridge")
    assert hit.link == f"/media/{media}/index.m3u8#t=20.0"
    assert (await find(bus, "Halvorsen", source="town")).hits[0].matched[0] == "words"
    assert (await find(bus, "Halvorsen", source="elsewhere")).hits == []


async def test_media_that_changed_keeps_what_did_not(
    search: Search, index: MediaIndex, blobs: BlobStore, media: str
) -> None:
    assert await taken(index, blobs, media, *SPEECH) == {"indexed": 5, "removed": 0, "kept": 0}
    assert await taken(index, blobs, media, *SPEECH) == {"indexed": 0, "removed": 0, "kept": 5}
    changed = [*SPEECH[:3], "The new name is Stork Bridge, as everybody knows.", SPEECH[4]]
    assert await taken(index, blobs, media, *changed) == {"indexed": 1, "removed": 1, "kept": 4}
    assert await texts(search, media) == changed
    assert await taken(index, blobs, media, *changed, title="Bridge") == {"indexed": 5, "removed": 0, "kept": 0}
    assert await index.unindex(context(blobs), {"media": media}) == {"removed": 5}
    assert await texts(search, media) == []


async def test_unchanged_passages_are_not_embedded_again(
    search: Search, index: MediaIndex, blobs: BlobStore, media: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await taken(index, blobs, media, *SPEECH)
    asked: list[str] = []
    embed = search._embedder.embed

    async def counted(given: Any) -> Any:
        asked.extend(given)
        return await embed(given)

    monkeypatch.setattr(search._embedder, "embed", counted)
    await taken(index, blobs, media, *SPEECH[:4], "Something else was said in the end.")
    assert asked == ["Something else was said in the end."]


async def test_two_passages_that_say_the_same_are_two(
    search: Search, index: MediaIndex, blobs: BlobStore, media: str
) -> None:
    twice = [SPEECH[0], SPEECH[1], SPEECH[0]]
    assert (await taken(index, blobs, media, *twice))["indexed"] == 3
    assert await texts(search, media) == twice
    assert await taken(index, blobs, media, *twice[:2]) == {"indexed": 0, "removed": 1, "kept": 2}


async def test_media_indexed_twice_at_once_has_the_passages_of_one(
    search: Search, index: MediaIndex, blobs: BlobStore, media: str
) -> None:
    one, two = SPEECH[:3], SPEECH[2:]
    await asyncio.gather(*(taken(index, blobs, media, *said) for said in (one, two, one, two)))
    assert await texts(search, media) in (one, two)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"transcript": "x"}, "input of embed: media: Field required"),
        ({"media": "m", "transcript": 3}, "input.transcript: want the address of a transcript"),
        ({"media": "m", "transcript": {"segments": [{"start": "soon"}]}}, "transcript: segments.0.start"),
    ],
)
async def test_bad_input_names_the_field(index: MediaIndex, blobs: BlobStore, given: Any, said: str) -> None:
    with pytest.raises(FramemeshError, match=said):
        await index.embed(context(blobs), given)


@pytest.mark.parametrize("given", [None, {"segments": []}])
async def test_nothing_said_is_skipped(index: MediaIndex, blobs: BlobStore, given: Any) -> None:
    with pytest.raises(Skip):
        await index.embed(context(blobs), {"media": "m", "transcript": given})


# -- a kill -------------------------------------------------------------------------------------------


async def test_a_kill_in_the_middle_of_indexing_loses_nothing_and_leaves_nothing_stale(
    bus: Bus,
    registry: Registry,
    servers: Mapping[str, str],
    tmp_path: Path,
    blobs: BlobStore,
    jobs: Jobs,
    media: str,
) -> None:
    """The title is another one than the vectors were made for, so that ``index`` takes its time."""
    given = settings(servers, tmp_path)
    old = [f"Old sentence number {number} of a long talk about rivers." for number in range(120)]
    new = [*old[:40], *(f"New sentence number {number} is about mountains and valleys." for number in range(160))]
    async with searching(bus, registry, given) as service:
        index = MediaIndex(given, service._shelf, service._embedder, LocalLocks())
        await taken(index, blobs, media, *old)
        made = await index.embed(context(blobs), {"media": media, "transcript": transcript(*new)})
    names = ("media", "title", "passages")
    step = {
        "function": "index",
        "input": {name: f"$input.{name}" for name in names},
        "retry": {"attempts": 3, "delay": 0.1},
    }
    asked = {"media": media, "title": "Hills", "passages": made["passages"]}
    child = await start(given)
    try:
        job = await jobs.submit(plan(index=step), asked)

        async def half_way() -> bool:
            known = await jobs.store.find(job.id)
            return bool(known and known.steps["index"].progress > 10)

        await until(half_way, within=25)
        child.kill()
        await child.wait()
        child = await start(given)
        async with asyncio.timeout(40):
            job = await jobs.wait(job.id)
    finally:
        if child.returncode is None:
            child.terminate()  # not killed: its lease would keep the next test waiting
        await child.wait()
    assert job.status is JobStatus.DONE, job.error
    async with searching(bus, registry, given) as service:
        assert await texts(service, media) == new
        assert {point.passage.title async for point in service._shelf.all(Where(media=media))} == {"Hills"}


async def start(given: Any) -> asyncio.subprocess.Process:
    """The service as a process of its own."""
    names = (
        "instance",
        "nats_host",
        "redis_host",
        "redis_port",
        "master_url",
        "search_path",
        "chunk_words",
        "chunk_overlap",
    )
    more = {name: str(getattr(given, name)) for name in names}
    path = os.pathsep.join(each for each in sys.path if each)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.search", env=os.environ | more | {"PYTHONPATH": path}
    )


# -- events and labels --------------------------------------------------------------------------------


def result(source: str, seq: int, *labels: str, at: float, confidence: float = 0.9) -> Result:
    found = [
        Detection(label=label, class_id=0, confidence=confidence, box=(0.0, 0.0, 9.0, 9.0)) for label in labels
    ]
    return Result(
        model="Det", source=source, run="r", seq=seq, timestamp=at, captured_at=at, timing_ms={}, result=found
    )


def event(source: str, states: int, **more: Any) -> Event:
    at = more.pop("at", time.time() - 60)
    steps = ["CREATED", "PENDING", "DONE", "FINISHED"][:states]
    given = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, source)), "task_key": "k", "source": source,
        "run": "r",
        "rule": "yard", "label": "horse", "counts": {"horse": states}, "start": at,
        "end": at + states, "state": steps[-1],
        "transitions": [{"state": state, "timestamp": at} for state in steps],
        "message": result(source, 1, "horse", at=at),
    }  # fmt: skip
    return Event.model_validate(given | more)


async def test_events_are_found_in_their_newest_state(search: Search, bus: Bus, source: str) -> None:
    at = time.time() - 60
    made = [
        event(source, 1, at=at),
        event(source, 4, at=at, video_url="http://127.0.0.1/e.mp4"),
        event(source, 2, at=at),
    ]
    for number, each in enumerate([*made, *made]):
        await bus.publish(subjects.events(source), each, msg_id=f"{source}/{number}")

    async def done() -> Any:
        hits = (await find(bus, "a pony in the yard", SearchKind.EVENT, source=source)).hits
        return hits if hits and hits[0].link else None

    (hit,) = await until(done)
    assert (hit.media, hit.link, hit.end - hit.start) == (made[1].id, "http://127.0.0.1/e.mp4", 4.0)
    assert hit.text == f"horse seen at {source.replace('-', ' ')} (yard)"
    await asyncio.sleep(1.5)
    assert (await find(bus, "horse", SearchKind.EVENT, source=source)).hits[0].link


async def test_labels_of_a_short_time_are_one_passage(search: Search, bus: Bus, source: str) -> None:
    begin = (time.time() // 60 - 5) * 60
    for number in range(90):
        labels = ["person"] if number < 80 else ["person", "umbrella"]
        made = result(source, number, *labels, at=begin + number)
        await bus.publish(subjects.results("Det", source), made, msg_id=f"{source}/{number}")
    weak = result(source, 200, "zebra", at=begin, confidence=0.3)
    await bus.publish(subjects.results("Det", source), weak, msg_id=f"{source}/200")

    async def done() -> Any:
        hits = (await find(bus, "person", SearchKind.LABEL, source=source)).hits
        return hits if len(hits) == 2 and max(hit.end for hit in hits) == begin + 89 else None

    hits = await until(done)
    first, second = sorted(hits, key=lambda hit: hit.start)
    assert (first.text.partition(" at ")[0], second.text.partition(" at ")[0]) == ("person", "person, umbrella")
    assert (first.start, first.end, second.start) == (begin, begin + 59, begin + 60)
    assert first.media is None
    assert not any("zebra" in hit.text for hit in (await find(bus, "zebra", source=source)).hits)


async def test_what_is_too_old_goes_and_transcripts_stay(
    search: Search, index: MediaIndex, blobs: BlobStore, bus: Bus, source: str, media: str
) -> None:
    await taken(index, blobs, media, SPEECH[0])
    await bus.publish(subjects.events(source), event(source, 1), msg_id=f"{source}/0")

    async def there() -> Any:
        return [point async for point in search._shelf.all(Where(source=source))]

    await until(there)
    await upkeep.forget(search._shelf, search.settings, time.time() + 80 * 86400)
    assert await there()
    await upkeep.forget(search._shelf, search.settings, time.time() + 91 * 86400)
    assert not await there()
    assert await texts(search, media) == [SPEECH[0]]


async def test_a_new_index_reads_the_streams_from_their_beginning(
    bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path, source: str
) -> None:
    await bus.declare(subjects.EVENTS)
    await bus.publish(subjects.events(source), event(source, 1), msg_id=f"{source}/0")
    for folder in ("one", "two"):
        async with searching(bus, registry, settings(servers, tmp_path / folder)):

            async def done() -> Any:
                return (await find(bus, "horse", SearchKind.EVENT, source=source)).hits

            await until(done)


async def test_another_model_takes_the_passages_over(
    bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path, blobs: BlobStore, media: str
) -> None:
    """A language of its own is another shelf, as another model is."""
    given = settings(servers, tmp_path)
    async with searching(bus, registry, given) as old:
        await taken(MediaIndex(given, old._shelf, old._embedder, LocalLocks()), blobs, media, *SPEECH)
    async with searching(bus, registry, settings(servers, tmp_path, search_language="german")) as new:

        async def moved() -> bool:
            return await new._library.names() == [new._name]

        await until(moved)
        assert await texts(new, media) == SPEECH
        assert (await find(bus, "Halvorsen")).hits[0].text == SPEECH[4]


async def test_what_a_media_loses_while_another_model_takes_over_stays_lost(
    bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path, blobs: BlobStore, media: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    retracted = "All else that was said here was a mistake, and is taken back."
    given, asked = settings(servers, tmp_path), asyncio.Event()
    async with searching(bus, registry, given) as old:
        await taken(MediaIndex(given, old._shelf, old._embedder, LocalLocks()), blobs, media, *SPEECH)
    take_over = upkeep.take_over

    async def late(*parts: Any) -> int:
        await asked.wait()
        return await take_over(*parts)

    monkeypatch.setattr(upkeep, "take_over", late)
    monkeypatch.setattr(upkeep, "WAIT_S", 0.05)
    async with searching(bus, registry, settings(servers, tmp_path, search_language="german")) as new:
        index = MediaIndex(given, new._shelf, new._embedder, new._alone)
        changed = asyncio.create_task(taken(index, blobs, media, *SPEECH[:2], retracted))
        await asyncio.wait([changed], timeout=0.5)
        asked.set()
        assert (await changed)["removed"] == 3
        assert await new._library.names() == [new._name]
        assert await texts(new, media) == [*SPEECH[:2], retracted]


# -- answers ------------------------------------------------------------------------------------------


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with serving() as server:
        yield server


async def asked(bus: Bus, q: str) -> Any:
    return await request(bus, subjects.SEARCH_ASK, SearchRequest(q=q), QUERY_S)


async def test_an_answer_cites_passages_that_were_given(
    bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path, blobs: BlobStore, media: str,
    model: ModelServer,
) -> None:  # fmt: skip
    more = {"gpt_base_url": model.url, "gpt_api_key": SecretStr("k"), "gpt_model": MODEL}
    given = settings(servers, tmp_path, **more)
    async with searching(bus, registry, given) as service:
        await taken(MediaIndex(given, service._shelf, service._embedder, LocalLocks()), blobs, media, *SPEECH)
        model.replies = [says({"answer": "In March, as it rusts [1].", "citations": []})]
        found = await asked(bus, "when does the old bridge close?")
        assert found.answer == "In March, as it rusts [1]."
        assert [(cited.number, cited.text) for cited in found.citations] == [(1, SPEECH[0])]
        assert f"[1] transcript of {media}: {SPEECH[0]}" in model.told()

        model.replies = [
            says({"answer": "In May [99].", "citations": []}),
            says({"answer": "In March.", "citations": [1]}),
        ]
        found = await asked(bus, "when does the old bridge close?")
        assert [cited.number for cited in found.citations] == [1]
        assert "it cites 99, but only passages 1 to" in model.told()

        model.replies = [says({"answer": "In May.", "citations": []})]
        found = await asked(bus, "when does the old bridge close?")
        assert found.trouble is SearchTrouble.FAILED
        assert "it cites no passage" in found.reason

        model.replies = [says({"answer": None, "citations": []})]
        found = await asked(bus, "when does the old bridge close?")
        assert (found.answer, found.citations, found.trouble) == (None, [], None)

        for reply, trouble in (
            (fails(503, "busy"), SearchTrouble.AWAY),
            (fails(429, "slowly"), SearchTrouble.AWAY),
            (fails(401, "bad key"), SearchTrouble.FAILED),
        ):
            model.replies = [reply]
            assert (await asked(bus, "when does the old bridge close?")).trouble is trouble


async def test_without_a_language_model_it_says_how_to_set_one(search: Search, bus: Bus) -> None:
    found = await asked(bus, "when?")
    assert found.trouble is SearchTrouble.UNSET
    assert "gpt_base_url and gpt_api_key are not set" in found.reason


async def test_the_command_tells_what_was_found(
    search: Search, index: MediaIndex, blobs: BlobStore, servers: Mapping[str, str], media: str
) -> None:
    await taken(index, blobs, media, "Really,\x1b[2J we close the bridge [b]in March[/b].", title="Town meeting")
    question = ("when does the bridge close?", "--source", media)
    plain, document, answer, nothing = await asyncio.gather(
        command(servers, *question),
        command(servers, *question, "--json"),
        command(servers, *question, "--ask"),
        command(servers, "..."),
    )
    shown = " 1.00  transcript  Town meeting  at 0:00\n       Really, [2J we close the bridge [b]in March[/b].\n"
    assert plain == (0, shown, "")
    assert json.loads(document[1])["hits"][0]["media"] == media
    assert answer[0] == nothing[0] == 1
    assert "gpt_base_url and gpt_api_key are not set" in answer[2]
    assert "QUESTION: want words to look for" in nothing[2]


async def command(servers: Mapping[str, str], *arguments: str) -> tuple[int | None, str, str]:
    """``framemesh search`` as a user calls it: its status, output and errors."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "framemesh", "search", *arguments, env=os.environ | servers,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, wrong = await child.communicate()
    return child.returncode, said.decode(), wrong.decode()


async def test_embeddings_come_from_a_server_where_one_is_set(
    bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path, blobs: BlobStore, media: str
) -> None:
    told: list[Any] = []

    async def embeddings(call: web.Request) -> web.Response:
        given = await call.json()
        told.append((call.headers["Authorization"], given))
        found = listed(([float("ferry" in text), 1.0, 0.0, 2.0] for text in given["input"]), given["model"])
        return web.json_response(found | {"data": found["data"][::-1]})

    async with embedding_server(embeddings) as url:
        more = {"embed_base_url": url, "embed_api_key": SecretStr("k1"), "embed_model": "Embed/tiny"}
        given = settings(servers, tmp_path, **more)
        async with searching(bus, registry, given) as service:
            assert service._name == "embed-tiny-4-english"
            await taken(MediaIndex(given, service._shelf, service._embedder, LocalLocks()), blobs, media, *SPEECH)
            assert (await find(bus, "ferry", source=media)).hits[0].text == SPEECH[2]
        assert told[0][0] == "Bearer k1"
        assert told[0][1]["model"] == "Embed/tiny"


async def test_nobody_answers_where_no_service_runs(bus: Bus) -> None:
    with pytest.raises(NoSearch, match="framemesh run search"):
        await request(bus, "search.nobody", SearchRequest(q="x"), QUERY_S)


async def test_more_than_a_message_can_carry_is_told_so(bus: Bus) -> None:
    async def reply(asked: SearchRequest) -> SearchReply:
        return SearchReply(answer="x" * 2_000_000)

    responder = Responder(reply, 1, 5.0)
    await responder.listen(bus, "search.much")
    assert "ask for fewer" in (await request(bus, "search.much", SearchRequest(q="x"), QUERY_S)).reason
    await responder.close()


def test_events_wait_for_vectors_however_long() -> None:
    """A server of embeddings that is away for an hour is no reason to bury them."""
    assert subjects.search_consumer(subjects.EVENTS, "x").max_unfinished == subjects.UNCOUNTED


async def test_a_request_that_is_none_is_told_so(search: Search, bus: Bus) -> None:
    message = await bus.client.request(subjects.SEARCH_QUERY, b'{"q": ""}', timeout=5)
    assert "q: String should have at least 1 character" in json.loads(message.data)["reason"]
