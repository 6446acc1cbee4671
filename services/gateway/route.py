"""A path of the API: from it the server, the scopes and ``proto/openapi.yaml`` are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web
from pydantic import BaseModel

from framemesh.tokens import Scope
from services.gateway.desk import Call
from services.gateway.documents import NoQuery
from services.gateway.uploads import Shape

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """A method of a path."""

    method: str
    path: str
    name: str
    """Its operationId."""
    summary: str
    scope: Scope
    handler: Handler
    answer: type[BaseModel] | None
    """What it answers; None where that is no JSON."""
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] | None = None
    form: Shape | None = None
    """What it takes as multipart/form-data."""
    statuses: tuple[int, ...] = (200,)
    problems: tuple[int, ...] = ()
    """Beside those that every path may answer with."""
    is_stream: bool = False
    media: tuple[str, ...] = ()
    """Media types of answers that are no JSON."""
    by_ticket: bool = False
    """Whether a ticket in its path opens it, instead of a token."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of the request that it heeds, with what they are for."""
