"""The step ``gpt-analysis`` against a real HTTP server that speaks the chat completions protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from framemesh.blobs import BlobStore
from framemesh.errors import FramemeshError
from framemesh.llm.tokens import estimate
from framemesh.steps.context import Cancelled, Context
from framemesh.steps.functions import Skip, StepFailed
from services.analyst.answer import QUALITIES
from services.analyst.gpt import GptAnalysis
from services.analyst.settings import AnalystSettings
from tests.integration.model_server import MODEL, ModelServer, Reply, begin, chunk, event, fails, says, serving

KEY = "sk-test-0123456789abcdef"
SPEECH = [
    "and so my fellow Americans",
    "ask not what your country can do for you",
    "ask what you can do for your country",
]


def answer(**changes: Any) -> dict[str, Any]:
    quality = {
        name: {"score": 60 + 5 * at, "reason": f"Because of {name}.", "quotes": ["ask not what your country"]}
        for at, name in enumerate(QUALITIES)
    }
    made = {
        "summary": "A call to serve the country.",
        "topics": ["country", "duty"],
        "sentiment": {"value": 0.6, "label": "positive", "reason": "It encourages."},
        "quality": quality,
        "strengths": ["Short."],
        "improvements": ["Say how."],
    }
    return made | changes


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with serving() as started:
        yield started


class Asking:
    """One analyst and one try of its step."""

    def __init__(self, url: str, blobs: BlobStore, **settings: Any) -> None:
        given = {"gpt_base_url": url, "gpt_api_key": SecretStr(KEY), "gpt_model": MODEL, "gpt_timeout": 5.0}
        self.said: list[tuple[float, str]] = []
        self.log = logging.Logger("step")
        self.lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        self.log.addHandler(handler)
        self.ctx = Context("j1", "gpt", None, 1, "j1/gpt", self.log, blobs, self._say)
        self.analysis = GptAnalysis(AnalystSettings.model_validate(given | settings))

    async def _say(self, percent: float, text: str) -> None:
        self.said.append((percent, text))

    async def analyse(self, segments: list[str] | None = None, **given: Any) -> dict[str, Any]:
        made = [
            {"text": text, "start": 4.0 * at, "end": 4.0 * at + 3.5, "confidence": 0.9, "words": []}
            for at, text in enumerate(SPEECH if segments is None else segments)
        ]
        url = await self.ctx.put(json.dumps({"language": "en", "segments": made}).encode())
        return await self.analysis.analyse(self.ctx, {"transcript": url} | given)


@pytest.fixture
async def ask(server: ModelServer, blobs: BlobStore) -> AsyncIterator[Callable[..., Asking]]:
    made: list[Asking] = []

    def begin(url: str = "", **settings: Any) -> Asking:
        made.append(Asking(url or server.url, blobs, **settings))
        return made[-1]

    yield begin
    for each in made:
        await each.analysis.close()


Ask = Callable[..., Asking]


async def test_an_analysis_has_all_that_was_asked_for(server: ModelServer, ask: Ask) -> None:
    server.replies = [says(answer())]
    it = ask(gpt_price_input=2.0, gpt_price_output=8.0)
    output = await it.analyse(metadata={"title": "Inaugural address"})
    assert output["summary"] == "A call to serve the country."
    assert output["sentiment"] == {"value": 0.6, "label": "positive", "reason": "It encourages."}
    assert [item["name"] for item in output["quality"]] == list(QUALITIES)
    assert output["quality"][0]["quotes"] == [{"text": "ask not what your country", "start": 4.0}]
    assert (output["language"], output["parts"], output["repairs"], output["form"]) == ("en", 1, 0, "json_schema")
    assert output["model"] == "tiny-1-2026"
    assert output["usage"] == {
        "requests": 1, "input_tokens": 120, "output_tokens": 45, "total_tokens": 165,
        "estimated": False, "estimated_requests": 0,
    }  # fmt: skip
    assert output["cost"] == pytest.approx((120 * 2 + 45 * 8) / 1e6)
    assert (output["prompt"]["version"], len(output["prompt"]["sha256"])) == ("v1", 64)
    assert output["missing"] == {}
    (request,) = server.asked
    assert (request["model"], request["stream"], request["temperature"]) == (MODEL, True, 0)
    assert request["response_format"]["json_schema"]["strict"] is True
    assert server.keys == [f"Bearer {KEY}"]
    assert "[0:04] ask not what your country can do for you" in server.told()
    assert "Inaugural address" in server.told()
    percents = [percent for percent, _ in it.said]
    assert percents == sorted(percents)
    assert len({percent for percent in percents if 0 < percent < 100}) > 5
    assert KEY not in json.dumps(output) + "".join(it.lines)


async def test_what_the_environment_says_of_another_server_is_not_sent(
    server: ModelServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/another")
    server.replies = [says(answer())]
    await ask().analyse()
    assert "another" not in json.dumps(server.headers)
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"gpt_base_url": "", "gpt_api_key": ""}, "gpt_base_url and gpt_api_key are not set"),
        ({"gpt_base_url": ""}, "gpt_base_url is not set"),
        ({"gpt_api_key": " \n"}, "gpt_api_key is not set"),
    ],
)
async def test_without_key_or_address_nothing_is_made_up(ask: Ask, settings: dict[str, str], reason: str) -> None:
    with pytest.raises(Skip, match=reason):
        await ask(**settings).analyse()


async def test_a_transcript_without_words_is_skipped(server: ModelServer, ask: Ask) -> None:
    with pytest.raises(Skip, match="the transcript has no words"):
        await ask().analyse(["", "  "])
    assert not server.asked


async def test_the_text_is_taken_where_there_are_no_segments(server: ModelServer, ask: Ask) -> None:
    server.replies = [says(answer())]
    await ask().analyse([], text=" ".join(SPEECH))
    assert "[0:00] and so my fellow Americans ask not" in server.told()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gpt_model": ""}, "setting gpt_model: not set"),
        ({"gpt_api_key": "sk-\u2026é"}, "setting gpt_api_key: has"),
    ],
)
async def test_what_no_request_can_be_made_of_is_said_at_the_start(
    ask: Ask, settings: dict[str, str], said: str
) -> None:
    with pytest.raises(FramemeshError, match=said):
        ask(**settings)


async def test_a_transcript_that_is_none_is_the_users_to_mend(ask: Ask, blobs: BlobStore) -> None:
    it = ask()
    url = await it.ctx.put(b'{"segments": [{"start": 1}]}')
    with pytest.raises(FramemeshError, match=r"^input transcript: segments\.0\.text: Field required"):
        await it.analysis.analyse(it.ctx, {"transcript": url})
    with pytest.raises(FramemeshError, match=r"^input of gpt-analysis: transcript: "):
        await it.analysis.analyse(it.ctx, {"transcript": 7})
    await blobs.delete(url)
    with pytest.raises(FramemeshError, match=r"nothing there .* run the step transcribing again"):
        await it.analysis.analyse(it.ctx, {"transcript": url})


# -- answers ---------------------------------------------------------------------------------------


async def test_quotes_that_nobody_said_are_dropped(server: ModelServer, ask: Ask) -> None:
    made = answer()
    made["quality"]["clarity"]["quotes"] = ["I have a dream", "Ask what YOU can do, for your country!"]
    server.replies = [says(made)]
    output = await ask().analyse()
    assert output["quality"][1]["quotes"] == [{"text": "Ask what YOU can do, for your country!", "start": 8.0}]
    assert output["dropped_quotes"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "```json\n{}\n```",
        '<think>I could write {"summary": 1} here</think>\n{}',
        "Here you are:\n{}\nI hope that helps.",
    ],
)
async def test_what_lies_around_the_json_does_no_harm(server: ModelServer, ask: Ask, text: str) -> None:
    made = json.dumps(answer(more="a field that nobody asked for"))
    server.replies = [says(made.join(text.rsplit("{}", 1)))]
    assert (await ask().analyse())["repairs"] == 0


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ('{"summary": "cut o', "there is no JSON object"),
        ('{"summary": }', "it is not valid JSON"),
        (
            answer(sentiment={"value": 5, "label": "positive", "reason": ""}),
            "sentiment.value: Input should be less",
        ),
        (answer(sentiment={"value": -0.9, "label": "positive", "reason": ""}), "contradicts the value -0.9"),
        (answer(quality={}), "quality.structure: Field required"),
    ],
)
async def test_an_answer_that_does_not_fit_is_mended_once(
    server: ModelServer, ask: Ask, wrong: Any, problem: str
) -> None:
    server.replies = [says(wrong), says(answer(), usage=(300, 50))]
    output = await ask().analyse()
    assert (output["repairs"], output["usage"]["input_tokens"], output["usage"]["requests"]) == (1, 420, 2)
    assert problem in server.told()
    assert server.asked[1]["messages"][2]["role"] == "assistant"


async def test_an_answer_that_never_fits_fails_clearly(server: ModelServer, ask: Ask) -> None:
    server.replies = [says("I would rather not."), says(answer(summary=""))]
    with pytest.raises(StepFailed, match=r"does not fit, and neither .*: summary: String should have") as caught:
        await ask().analyse()
    assert not caught.value.retry
    assert len(server.asked) == 2


async def test_too_long_an_answer_is_cut_to_what_an_output_holds(server: ModelServer, ask: Ask) -> None:
    much = "木" * 5000
    quality = {name: {"score": 50, "reason": much, "quotes": ["木木" * 150] * 9} for name in QUALITIES}
    made = answer(
        summary=much, topics=[much] * 50, quality=quality, strengths=[much] * 9, improvements=[much] * 9,
        sentiment={"value": 0, "label": "mixed", "reason": much},
    )  # fmt: skip
    server.replies = [says(json.dumps(made, ensure_ascii=False), size=1000)]
    output = await ask(gpt_chunk_tokens=100_000).analyse(["木" * 400])
    assert len(json.dumps(output)) < 64 * 1024
    assert len(output["topics"]) == 12


async def test_tokens_that_the_server_does_not_count_are_estimated_and_said_to_be(
    server: ModelServer, ask: Ask
) -> None:
    server.replies = [says(answer(), usage=None)]
    output = await ask(gpt_price_output=1.0).analyse()
    usage = output["usage"]
    assert (usage["estimated"], usage["estimated_requests"]) == (True, 1)
    assert usage["output_tokens"] == estimate(json.dumps(answer()))
    assert usage["input_tokens"] > estimate(" ".join(SPEECH))


async def test_a_cost_without_prices_is_not_told(server: ModelServer, ask: Ask) -> None:
    server.replies = [says(answer())]
    output = await ask().analyse()
    assert output["cost"] is None
    assert output["missing"] == {"cost": "gpt_price_input and gpt_price_output are not set"}


# -- long transcripts ------------------------------------------------------------------------------


async def test_a_long_transcript_is_analysed_in_parts_and_put_together(server: ModelServer, ask: Ask) -> None:
    long = [
        f"sentence number {number} is about the budget of the town and its many streets" for number in range(120)
    ]
    part, whole = answer(summary="A part."), answer(summary="The whole.")
    server.replies = [says(part), says(part), says(part), says(part), says(part), says(whole)]
    it = ask(gpt_chunk_tokens=600)
    output = await it.analyse(long)
    assert output["parts"] == 5
    assert output["summary"] == "The whole."
    assert output["usage"]["requests"] == len(server.asked) > 6  # the parts' answers are put together in layers
    for number in range(120):
        assert sum(f"sentence number {number} is" in server.told(at) for at in range(5)) == 1
    assert "part 1 of 5" in server.told(0)
    assert '"A part."' in server.told(5)
    assert (it.said[-1], "part 3 of 5") == ((100, "analysed"), next(text for _, text in it.said if "3" in text))
    percents = [percent for percent, _ in it.said]
    assert percents == sorted(percents)


async def test_another_try_pays_only_for_what_is_missing(server: ModelServer, ask: Ask) -> None:
    long = [f"sentence number {number} is about the budget" for number in range(60)]
    server.replies = [says(answer()), fails(429, headers={"Retry-After": "7"}), says(answer())]
    it = ask(gpt_chunk_tokens=500)
    with pytest.raises(StepFailed) as caught:
        await it.analyse(long)
    assert caught.value.delay == 7
    output = await it.analyse(long)
    assert (output["parts"], output["usage"]["requests"]) == (2, 3)
    assert len(server.asked) == 4
    it.ctx.key = "another/job"
    await it.analyse(long)
    assert len(server.asked) == 7


# -- servers that fail -----------------------------------------------------------------------------


IN_90_S = "in 90 seconds"


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "12"}, 12, 12),
        ({"Retry-After": "0.5"}, 0.5, 0.5),
        ({"Retry-After-Ms": "250", "Retry-After": "9"}, 0.25, 0.25),
        ({"Retry-After": IN_90_S}, 60, 91),
        ({"Retry-After": "86400"}, 3600, 3600),
        ({"Retry-After": "soon"}, None, None),
        ({}, None, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_is_busy_says_when_to_come_again(
    server: ModelServer, ask: Ask, status: int, headers: dict[str, str], least: float | None, most: float | None
) -> None:
    date = formatdate(time.time() + 90, usegmt=True)  # not when the tests are collected
    given = {name: date if value == IN_90_S else value for name, value in headers.items()}
    server.replies = [fails(status, "slow down", given)]
    with pytest.raises(StepFailed, match=f"answers HTTP {status}: slow down") as caught:
        await ask().analyse()
    assert caught.value.retry
    if least is None or most is None:
        assert caught.value.delay is None
    else:
        assert caught.value.delay is not None
        assert least <= caught.value.delay <= most
    assert len(server.asked) == 1  # the plan tries again, not the client


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (fails(401, f"Incorrect API key provided: {KEY}"), "setting gpt_api_key: the server does not take it"),
        (fails(403, "no"), "setting gpt_api_key: it may not use gpt_model 'tiny-1'"),
        (fails(404, "no such model"), "setting gpt_model or gpt_base_url: there is no model 'tiny-1'"),
        (fails(400, "no idea"), "settings gpt_model and gpt_base_url: the request is refused"),
        (fails(400, "too long", code="context_length_exceeded"), "setting gpt_chunk_tokens: 6000 and"),
        (fails(429, "You exceeded your quota", code="insufficient_quota"), "setting gpt_api_key: its account"),
        (says(answer(), finish="length"), "setting gpt_max_tokens: the answer needs more than 4000: raise it"),
    ],
)
async def test_what_a_user_can_mend_names_the_setting(
    server: ModelServer, ask: Ask, reply: Reply, said: str
) -> None:
    server.replies = [reply]
    with pytest.raises(FramemeshError, match=f"^{said}") as caught:
        await ask().analyse()
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


async def html(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>welcome</html>", content_type="text/html")


async def no_json(request: web.Request) -> web.StreamResponse:
    stream = await begin(request)
    await stream.write(chunk("{") + b"data: {this is not JSON\n\n")
    return stream


async def breaks(request: web.Request) -> web.StreamResponse:
    stream = await begin(request)
    await stream.write(chunk('{"summary": "cut'))
    assert request.transport
    request.transport.abort()
    return stream


async def ends_early(request: web.Request) -> web.StreamResponse:
    stream = await begin(request)
    await stream.write(chunk('{"summary": "cut'))
    return stream


async def fails_within(request: web.Request) -> web.StreamResponse:
    stream = await begin(request)
    await stream.write(chunk("{") + event({"error": {"message": f"overloaded, {KEY}", "code": "overloaded"}}))
    return stream


async def refuses(request: web.Request) -> web.StreamResponse:
    stream = await begin(request)
    await stream.write(
        chunk(choices=[{"index": 0, "delta": {"refusal": "I cannot do that"}}]) + chunk(None, "stop")
    )
    return stream


async def floods(request: web.Request) -> web.StreamResponse:
    stream = await begin(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await stream.write(chunk("x" * 65536))
    return stream


@pytest.mark.parametrize(
    ("reply", "said", "retry"),
    [
        (fails(500, "oops"), "answers HTTP 500: oops", True),
        (no_json, "sent an event that is not JSON", True),
        (breaks, "cannot be reached, or broke off", True),
        (ends_early, "broke off after 16 characters of the answer", True),
        (fails_within, r"broke off with an error: overloaded, \*\*\*$", True),
        (refuses, "the model refuses: I cannot do that", False),
        (says("{", finish="content_filter"), "content filter held the answer back", False),
        (floods, "the answer has more than 524288 characters", False),
    ],
)
async def test_a_server_that_fails_fails_the_try(
    server: ModelServer, ask: Ask, reply: Reply, said: str, retry: bool
) -> None:
    server.replies = [reply]
    with pytest.raises(StepFailed, match=said) as caught:
        await ask().analyse()
    assert caught.value.retry is retry


async def test_an_address_without_a_model_server_is_the_users_to_mend(server: ModelServer, ask: Ask) -> None:
    server.replies = [html]
    with pytest.raises(FramemeshError, match=r"^setting gpt_base_url: .* answers with text/html, not a stream"):
        await ask().analyse()


async def test_a_server_that_is_away_is_asked_again_later(ask: Ask) -> None:
    with pytest.raises(StepFailed, match="cannot be reached") as caught:
        await ask("http://127.0.0.1:9/v1").analyse()
    assert caught.value.retry


@pytest.mark.parametrize("comments", [False, True])
async def test_a_server_that_stalls_is_noticed(server: ModelServer, ask: Ask, comments: bool) -> None:
    async def stalls(request: web.Request) -> web.StreamResponse:
        stream = await begin(request)
        await stream.write(chunk("{"))
        for _ in range(100):
            if comments:
                await stream.write(b": still there\n\n")
            await asyncio.sleep(0.1)
        return stream

    server.replies = [stalls]
    with pytest.raises(StepFailed, match="gpt_timeout, 1 s"):
        await ask(gpt_timeout=1.0).analyse()
    await asyncio.wait_for(server.gone.wait(), 2)  # the connection is closed, so the server may stop as well


async def test_a_slow_server_that_goes_on_is_waited_for(server: ModelServer, ask: Ask) -> None:
    server.replies = [says(answer(), pause=0.09)]
    began = time.monotonic()
    await ask(gpt_timeout=1.0).analyse()
    assert time.monotonic() - began > 1.2


async def test_a_cancelled_job_ends_the_request(server: ModelServer, ask: Ask) -> None:
    server.replies = [says(answer(), pause=0.5)]
    it = ask()
    asyncio.get_running_loop().call_later(0.3, it.ctx.cancel)
    with pytest.raises(Cancelled):
        await it.analyse()
    await asyncio.wait_for(server.gone.wait(), 2)


# -- servers that speak less than the whole protocol --------------------------------------------------


@pytest.mark.parametrize(
    ("message", "form", "count"),
    [
        ("'response_format' of type 'json_schema' is not supported with this model", "json_object", 2),
        ("This model does not support response format `json_schema`", "json_object", 2),
    ],
)
async def test_plain_json_is_asked_for_where_the_schema_is_refused(
    server: ModelServer, ask: Ask, message: str, form: str, count: int
) -> None:
    server.replies = [fails(400, message), says(answer())]
    it = ask()
    assert (await it.analyse())["form"] == form
    assert len(server.asked) == count
    assert server.asked[1]["response_format"] == {"type": "json_object"}
    assert '"additionalProperties": false' in server.told(1)
    it.ctx.key = "another/job"
    await it.analyse()
    assert len(server.asked) == count + 1  # it is not asked for again


async def test_a_server_that_refuses_nearly_everything_still_answers(server: ModelServer, ask: Ask) -> None:
    server.replies = [
        fails(400, "Unsupported parameter: use 'max_completion_tokens' instead.", param="max_tokens"),
        fails(400, "Unsupported value: 'temperature' does not support 0", param="temperature"),
        fails(422, "extra fields not permitted: stream_options"),
        fails(400, "response_format.type must be 'json_object' or 'text'"),
        fails(400, "no json mode for this model", param="response_format"),
        says(answer(), usage=None),
    ]
    assert (await ask().analyse())["form"] == "text"
    last = server.asked[-1]
    assert set(last) == {"model", "messages", "stream", "max_completion_tokens"}


async def test_a_server_that_refuses_whatever_it_gets_is_not_asked_for_ever(server: ModelServer, ask: Ask) -> None:
    server.replies = [fails(400, "response_format temperature stream_options max_completion_tokens")]
    with pytest.raises(FramemeshError, match="the request is refused"):
        await ask().analyse()
    assert len(server.asked) == 6
