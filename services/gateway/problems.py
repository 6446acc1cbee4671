"""What went wrong, as RFC 9457 says it: ``application/problem+json``."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

from framemesh.telemetry import redact

MEDIA_TYPE = "application/problem+json"
TITLES = {
    400: ("invalid", "The request is not valid"),
    401: ("unauthorized", "A bearer token is needed"),
    403: ("forbidden", "The token may not do that"),
    404: ("not-found", "There is no such thing"),
    405: ("method-not-allowed", "The method is not for this path"),
    409: ("conflict", "It does not fit how things stand"),
    416: ("range-not-satisfiable", "There is no such part of it"),
    413: ("too-large", "The request is too large"),
    415: ("unsupported-media-type", "The media type is not taken"),
    500: ("internal", "The gateway failed"),
    501: ("not-configured", "This is not set up here"),
    503: ("unavailable", "A server that is needed is away or busy"),
}
_LONGEST = 1000


class ProblemDocument(BaseModel):
    """A problem (RFC 9457)."""

    type: str = Field(description="What kind it is, for programs: urn:framemesh:problem:…")
    title: str = Field(description="The same for people")
    status: int
    detail: str = Field(description="What is wrong here, and what to do")
    field: str | None = Field(None, description="The part of the request that it is about")


class Problem(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self, status: int, detail: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.field, self.headers = status, field, dict(headers or {})

    @property
    def document(self) -> ProblemDocument:
        """The document."""
        kind, title = TITLES.get(self.status, ("other", "The request cannot be served"))
        return ProblemDocument(
            type=f"urn:framemesh:problem:{kind}",
            title=title,
            status=self.status,
            detail=redact(" ".join(str(self).split()))[:_LONGEST],
            field=self.field,
        )

    def response(self) -> web.Response:
        """The document as an answer."""
        body = self.document.model_dump_json(exclude_none=True).encode()
        return web.Response(status=self.status, body=body, content_type=MEDIA_TYPE, headers=self.headers)


def away(detail: str, seconds: int = 5) -> Problem:
    """A server that is needed does not answer, or there is no room: later."""
    return Problem(503, detail, headers={"Retry-After": str(seconds)})


def of_http(error: web.HTTPException) -> Problem:
    """What aiohttp says, as a problem."""
    headers = {name: error.headers[name] for name in ("Allow", "Retry-After") if name in error.headers}
    match error:
        case web.HTTPNotFound():
            detail = "there is nothing at this path: proto/openapi.yaml lists what there is"
        case web.HTTPMethodNotAllowed():
            detail = f"{error.method} is not for this path: use {', '.join(sorted(error.allowed_methods))}"
        case web.HTTPRequestEntityTooLarge():
            detail = "the body is too large: send a file as multipart/form-data, and less than 64 KiB of metadata"
        case _:
            detail = error.text or error.reason
    return Problem(error.status, detail, headers=headers)


def of_validation(error: ValidationError) -> Problem:
    """The first thing that does not fit a model, by its field."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    reason = str(first["msg"]).removeprefix("Value error, ")
    return Problem(400, f"{field}: {reason}" if field else reason, field=field or None)
