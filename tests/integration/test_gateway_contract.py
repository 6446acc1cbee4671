"""The API does what ``proto/openapi.yaml`` says, whatever it is asked (schemathesis)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings
from pydantic import SecretStr
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.generation.case import Case

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.media import upload_plan as media_plan
from framemesh.messages import SearchKind
from framemesh.registry import Registry
from framemesh.steps.client import Jobs
from framemesh.steps.context import Context
from framemesh.steps.functions import Function
from framemesh.tokens import Scope
from services.gateway import openapi
from services.gateway.routes import ROUTES
from services.search.passages import Passage
from tests.integration import model_server
from tests.integration.gateways import Client, Pipeline, Site, serving, working
from tests.integration.searches import searching
from tests.integration.searches import settings as settings_of_search
from tests.integration.stepping import Begin
from tests.pictures import encoded, scene
from tests.searching import fill

EXAMPLES = 25
LONGEST_QUERY = 7000
"""Of a longer request line aiohttp says in plain text that it is too long."""
PICTURE = encoded(scene(8, 8), "PNG")
COLLECTION = "contract"
PATHS = {(route.method, route.path) for route in ROUTES} | {("GET", "/healthz")}


def test_the_file_is_what_the_code_says() -> None:
    assert openapi.main(["--check", str(Path(__file__).parents[2] / "proto")]) == 0


def test_a_file_that_has_drifted_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert openapi.main(["--check", str(tmp_path)]) == 1
    assert "openapi.yaml has drifted from the code; run `make generate`" in capsys.readouterr().err
    assert openapi.main([str(tmp_path)]) == 0
    assert openapi.main(["--check", str(tmp_path)]) == 0


def test_every_route_is_told_once() -> None:
    told = yaml.safe_load(openapi.text())["paths"]
    assert {(method.upper(), path) for path, methods in told.items() for method in methods} == PATHS
    names = [operation["operationId"] for methods in told.values() for operation in methods.values()]
    assert len(set(names)) == len(names)


@pytest.fixture
async def site(bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(bus, registry, servers, tmp_path) as made:
        yield made
    await bus.purge(subjects.TRIGGERS.name, subjects.trigger(">"))  # nobody is to make jobs of these


@pytest.fixture
async def pipeline(begin: Begin, jobs: Jobs, bus: Bus) -> AsyncIterator[Pipeline]:
    async with working(begin, jobs, bus) as made:
        yield made


@pytest.fixture
async def painters(begin: Begin) -> AsyncIterator[None]:
    """A worker with the functions that uploads of pictures and media need."""

    async def body(ctx: Context, given: Any) -> Any:
        return {"image": "0" * 24, "thumbnails": [], "done": 1, "failed": 0, "failures": [], "report": ""}

    media = {str(step.function) for step in media_plan().steps.values() if not step.optional}
    names = ("process_image", "generate_thumbnails", "bulk_process_images", *media)
    async with begin(*(Function(name, body) for name in names)):
        yield


def operations() -> dict[tuple[str, str], Any]:
    schema = schemathesis.openapi.from_dict(yaml.safe_load(openapi.text()))
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    return {(operation.method.upper(), operation.path): operation for operation in found}


def fuzz(operation: Any, client: Client, mode: GenerationMode) -> None:
    """Ask many things of one operation, and look whether each answer is one that it may give."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        if mode is GenerationMode.POSITIVE:
            _make_pictures(case.body)
            case.query.pop("cursor", None)  # what looks like a cursor need not be one
            if isinstance(case.body, dict) and "key" in case.body:
                case.headers.pop("Idempotency-Key", None)  # the two must say the same
        assume(len(quote(str(case.query))) < LONGEST_QUERY)
        response = case.call(base_url=client.base, headers=client.headers, timeout=20)
        case.validate_response(response, headers=client.headers)

    ask()


def _make_pictures(body: Any) -> None:
    """What is uploaded as a picture is one, into a collection that there is: no schema says so much."""
    if isinstance(body, dict) and "collection" in body:
        body |= {"file": PICTURE} if "file" in body else {}
        body |= {"files[]": [PICTURE for _ in body["files[]"][:3]]} if "files[]" in body else {}
        if "file" in body or "files[]" in body:
            body["collection"] = COLLECTION
        if "file" in body:
            body["name"] = f"{secrets.token_hex(4)}.jpg"


@pytest.fixture
async def finders(
    path: str, bus: Bus, registry: Registry, servers: Mapping[str, str], tmp_path: Path
) -> AsyncIterator[None]:
    """A search service with a language model, for the paths that ask it."""
    if path not in {"/search", "/ask"}:
        yield
        return
    async with model_server.serving() as model:
        model.replies = [model_server.says({"answer": None, "citations": []})]
        more = {"gpt_base_url": model.url, "gpt_api_key": SecretStr("k"), "gpt_model": model_server.MODEL}
        async with searching(bus, registry, settings_of_search(servers, tmp_path, **more)) as service:
            text = Passage(kind=SearchKind.TRANSCRIPT, text="so it goes", start=0, end=1, time=2e9, media="m")
            await fill(service._shelf, service._embedder, [text])
            yield


# The server runs beside the strategies in this process, and takes its own random numbers.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
@pytest.mark.filterwarnings("ignore:unread_data:DeprecationWarning")  # aiohttp's, of what it calls itself
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), sorted(PATHS))
async def test_an_operation_keeps_its_word(
    site: Site, pipeline: Pipeline, painters: None, finders: None, method: str, path: str, mode: GenerationMode
) -> None:
    operation = operations()[method, path]
    if mode is GenerationMode.NEGATIVE and path == "/healthz":
        pytest.skip("it takes nothing that could be wrong")
    client = await site.client("fuzzer", Scope.ADMIN)
    await site.gateway.desk.images.create_collection(COLLECTION, client.name)
    await asyncio.to_thread(fuzz, operation, client, mode)
