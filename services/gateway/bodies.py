"""Bodies and queries of requests, checked against their models."""

from __future__ import annotations

from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from services.gateway.problems import Problem, of_validation

MOST_JSON = 256 * 1024

M = TypeVar("M", bound=BaseModel)


async def read_json(request: web.Request) -> Any:
    """The body as JSON. Raises Problem."""
    return parse_json(await request.read(), "the body")


def parse_json(data: bytes, what: str) -> Any:
    """Strict JSON: no NaN, no lone surrogates, which could not be written down again. Raises Problem."""
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, f"{what} is no JSON: {error}") from None


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
