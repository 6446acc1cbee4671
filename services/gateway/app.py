"""The web application: who may come in, and what is said when something goes wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from aiohttp import web
from nats.errors import Error as NatsError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from framemesh.blobs import BlobError
from framemesh.bus import BusError
from framemesh.tokens import Token
from services.gateway import handlers, tickets
from services.gateway.bodies import MOST_JSON, read_query
from services.gateway.desk import Call, Desk
from services.gateway.problems import Problem, away, of_http
from services.gateway.route import Route
from services.gateway.routes import HEALTH, ROUTES

log = logging.getLogger(__name__)

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]
TOKEN: web.RequestKey[Token] = web.RequestKey("token", Token)
SECRET: web.RequestKey[str] = web.RequestKey("secret", str)
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_CHALLENGE = 'Bearer realm="framemesh"'


def make_app(desk: Desk) -> web.Application:
    """The API on a desk's connections."""
    app = web.Application(middlewares=[_problems, _doorkeeper(desk)], client_max_size=MOST_JSON)
    app.on_response_prepare.append(_add_headers)
    app.router.add_get(HEALTH, handlers.alive)
    for route in ROUTES:
        if route.method == "GET":
            app.router.add_get(route.path, _served(desk, route), allow_head=not route.is_stream)
        else:
            app.router.add_route(route.method, route.path, _served(desk, route), expect_handler=_later)
    return app


async def _later(request: web.Request) -> None:
    """Who asks whether to send a body is answered when it is about to be read."""


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


@web.middleware
async def _problems(request: web.Request, handler: Answering) -> web.StreamResponse:
    """Whatever goes wrong is a problem document."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except web.HTTPException as error:
        return of_http(error).response()
    except (BusError, NatsError, RedisError, SQLAlchemyError, BlobError, OSError) as error:
        if request.transport is not None:  # else the client has gone, and nobody hears the answer
            log.warning("%s %s: %s", request.method, shown(request), str(error).partition("\n")[0])
        return away("a server that is needed does not answer: try again in some seconds").response()
    except Exception:
        log.exception("%s %s failed", request.method, shown(request))
        return Problem(500, "the gateway failed; its log says more").response()


def shown(request: web.Request) -> str:
    """A path as it may be logged: a ticket opens a medium."""
    return quote(re.sub("^/play/[^/]*", "/play/...", request.path)[:200])


def _doorkeeper(desk: Desk) -> Any:
    """Without a token only health answers: not even which paths there are is told."""

    @web.middleware
    async def middleware(request: web.Request, handler: Answering) -> web.StreamResponse:
        if request.path != HEALTH:
            token = (
                await _by_ticket(desk, request)
                if "ticket" in request.match_info
                else await _by_token(desk, request)
            )
            if token is None:
                raise _unauthorized("the token is not known, was revoked, or its time is over", "invalid_token")
            request[TOKEN] = token
        return await handler(request)

    return middleware


async def _by_token(desk: Desk, request: web.Request) -> Token | None:
    request[SECRET] = _bearer(request)
    return await desk.tokens.find(request[SECRET])


async def _by_ticket(desk: Desk, request: web.Request) -> Token | None:
    request[SECRET] = ""
    return await tickets.admitted(desk.tokens, request.match_info["ticket"], request.match_info["mediaId"])


def _bearer(request: web.Request) -> str:
    found = re.fullmatch(r"(?i:bearer) +([!-~]+) *", request.headers.get("Authorization", ""))
    if not found:
        raise _unauthorized("send Authorization: Bearer <token>; `framemesh tokens create NAME` makes one")
    return found[1]


def _unauthorized(detail: str, error: str = "") -> Problem:
    challenge = _CHALLENGE + (f', error="{error}"' if error else "")
    return Problem(401, detail, headers={"WWW-Authenticate": challenge})


def _check_coding(request: web.Request) -> None:
    """Bodies are taken as they are: what a few bytes can become of a compressed one is nobody's guess."""
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() != "identity":
        raise Problem(
            415,
            f"Content-Encoding: {coding[:40]} is not taken: send the body as it is",
            field="Content-Encoding",
            headers={"Accept-Encoding": "identity"},
        )


def _served(desk: Desk, route: Route) -> Answering:
    async def served(request: web.Request) -> web.StreamResponse:
        token = request[TOKEN]
        if not token.scope.covers(route.scope):
            raise Problem(
                403,
                f"the token {token.name} is for {token.scope}s, this needs {route.scope}",
                headers={"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope", scope="{route.scope}"'},
            )
        query = read_query(request, route.query)
        _check_coding(request)
        return await route.handler(Call(desk, request, token, request[SECRET], query))

    return served
