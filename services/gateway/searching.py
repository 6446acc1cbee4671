"""``GET /search`` and ``GET /ask``: both are answered by the search service, over NATS."""

from __future__ import annotations

import re
from typing import Annotated, cast

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from framemesh.messages import (
    LONGEST_QUESTION,
    MOST_HITS,
    QUESTION_PATTERN,
    Citation,
    SearchHit,
    SearchKind,
    SearchReply,
    SearchRequest,
    SearchTrouble,
)
from framemesh.search import ASK_S, QUERY_S, NoSearch, request
from framemesh.subjects import SEARCH_ASK, SEARCH_QUERY
from framemesh.tokens import Scope
from services.gateway.desk import Call
from services.gateway.handlers import answer
from services.gateway.problems import Problem, away
from services.gateway.route import Route


def _asks(text: str) -> str:
    if not re.search(QUESTION_PATTERN, text):
        raise ValueError("want words to look for, e.g. q=bread prices")
    return text


class SearchQuery(BaseModel):
    """What is looked for."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    q: Annotated[str, AfterValidator(_asks)] = Field(
        min_length=1,
        max_length=LONGEST_QUESTION,
        description="Words, a name, or a question",
        json_schema_extra={"pattern": QUESTION_PATTERN},
    )
    source: str | None = Field(
        None, min_length=1, max_length=256, description="Only of this camera, or of media with this source"
    )
    since: float | None = Field(
        None,
        ge=0,
        le=1e11,
        description="Nothing older, seconds since the epoch; for a transcript, when it came",
    )
    kind: SearchKind | None = Field(None, description="Only these")
    limit: int = Field(10, ge=1, le=MOST_HITS, description="Most in one answer")


class SearchHits(BaseModel):
    """What was found, the best first."""

    hits: list[SearchHit]


class AskDocument(BaseModel):
    """An answer from what was found."""

    answer: str | None = Field(description="With numbers of citations in brackets; null: nothing tells it")
    citations: list[Citation] = Field(description="The passages that it rests on")
    model: str = Field(description="Which language model answered; empty where none was asked")


async def search(call: Call) -> web.Response:
    """Passages by words and by meaning."""
    found = await _reply(call, SEARCH_QUERY, QUERY_S)
    return answer(SearchHits(hits=found.hits))


async def ask(call: Call) -> web.Response:
    """An answer by a language model, with citations."""
    found = await _reply(call, SEARCH_ASK, ASK_S)
    return answer(AskDocument(answer=found.answer, citations=found.citations, model=found.model))


async def _reply(call: Call, subject: str, seconds: float) -> SearchReply:
    asked = SearchRequest(**cast(SearchQuery, call.query).model_dump(), reader=call.whose(None, "media"))
    try:
        found = await request(call.desk.bus, subject, asked, seconds)
    except NoSearch as error:
        raise away(str(error)) from error
    match found.trouble:
        case None:
            return found
        case SearchTrouble.UNSET:
            raise Problem(501, found.reason)
        case SearchTrouble.AWAY:
            raise away(found.reason)
        case _:
            raise away(f"the search service cannot answer: {found.reason}", 60)


ROUTES = (
    Route(
        "GET", "/search", "search",
        "Look for passages of transcripts, events and labels, by their words and by their meaning. "
        "Other owners' media are not found, but by admin.",
        Scope.VIEWER, search, SearchHits, SearchQuery,
    ),
    Route(
        "GET", "/ask", "ask",
        "Answer a question from what a search finds, with citations, by the language model of the search service.",
        Scope.VIEWER, ask, AskDocument, SearchQuery, problems=(501,),
    ),
)  # fmt: skip
