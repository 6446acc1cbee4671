"""Bodies and queries of requests, checked against their models."""

from __future__ import annotations

from typing import Any, TypeVar

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from services.gateway.patience import Patience
from services.gateway.problems import Problem, of_validation

MOST_JSON = 256 * 1024
BROKEN = (HttpProcessingError, ClientError, ConnectionResetError, web.RequestPayloadError)
"""What reading a body raises when the client breaks it off, or does not keep to HTTP."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

M = TypeVar("M", bound=BaseModel)


async def read_json(request: web.Request) -> Any:
    """The body as JSON. Raises Problem."""
    await invite(request)
    try:
        data = await Patience().within(request.read())
    except BROKEN as error:
        raise Problem(400, f"the body broke off: {error}") from error
    return parse_json(data, "the body")


async def invite(request: web.Request) -> None:
    """Let a client send its body that asked whether it may: it is welcome only when it is about to be read."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(CONTINUE)


def parse_json(data: bytes, what: str, field: str | None = None) -> Any:
    """Strict JSON: no NaN, no lone surrogates, which could not be written down again. Raises Problem."""
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, f"{what} is no JSON: {error}", field=field) from None


def checked(model: type[M], given: Any) -> M:
    """What was given as a model. Raises Problem that names the field."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise of_validation(error) from None


def read_query(request: web.Request, model: type[M]) -> M:
    """The query as a model. Raises Problem."""
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise Problem(400, f"{name[:100]}: given more than once: give it once", field=name[:100])
        if name not in model.model_fields:
            known = ", ".join(model.model_fields) or "none"
            raise Problem(400, f"{name[:100]}: no parameter of this path; it takes: {known}", field=name[:100])
    return checked(model, dict(request.query))
