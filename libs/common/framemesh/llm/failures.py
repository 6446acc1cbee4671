"""What it means for a job that the language model's server fails."""

from __future__ import annotations

from typing import Any

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

from framemesh.delays import asked_for
from framemesh.errors import FramemeshError
from framemesh.llm.server import Server
from framemesh.steps.functions import StepFailed
from framemesh.telemetry import redact

_LONGEST = 300
_AGAIN = {408, 409, 425, 429}
_SERVER = 500
_TOO_LONG = {400, 413, 422}
_ADVICE = {
    401: "setting {kind}_api_key: the server does not take it: give a valid one",
    403: "setting {kind}_api_key: it may not use {kind}_model {model!r}: give another, or another model",
    404: "setting {kind}_model or {kind}_base_url: there is no model {model!r} there, or the address lacks its "
    "end, mostly /v1",
}
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")


def explained(error: APIError, server: Server) -> FramemeshError | StepFailed:
    """The error for the job: what a user can mend, or what another try may."""
    where = server.url
    if isinstance(error, APIStatusError):
        return _status(error, server)
    if isinstance(error, APITimeoutError):
        return StepFailed(f"{where} did not answer within {server.kind}_timeout, {server.timeout:g} s")
    if isinstance(error, APIConnectionError):
        why = error.__cause__ or error
        return StepFailed(f"{where} cannot be reached, or broke off: {_clean(f'{why!r}', server)}")
    return StepFailed(f"{where} broke off with an error: {_clean(error.message, server)}")


def _status(error: APIStatusError, server: Server) -> FramemeshError | StepFailed:
    said, code = words(error, server), error.status_code
    answer = f"{server.url} answers HTTP {code}: {said}"
    if any(sign in f"{error.code} {error.type}" for sign in _NO_CREDIT):
        return FramemeshError(f"setting {server.kind}_api_key: its account has no credit left ({answer})")
    if code in _AGAIN or code >= _SERVER:
        return StepFailed(answer, delay=asked_for(error.response.headers))
    if code in _TOO_LONG and (error.code == "context_length_exceeded" or "context" in said):
        return FramemeshError(f"{server.too_long} ({answer})")
    advice = _ADVICE.get(code, "settings {kind}_model and {kind}_base_url: the request is refused: check them")
    return FramemeshError(f"{advice.format(kind=server.kind, model=server.model)} ({answer})")


def words(error: APIStatusError, server: Server) -> str:
    """What the server said, in one line, without the key."""
    body: Any = error.body
    said = body.get("message") if isinstance(body, dict) else None
    return _clean(str(said or error.response.text or "no reason given"), server)


def _clean(text: str, server: Server) -> str:
    key = server.key.get_secret_value()
    line = redact(" ".join(text.replace(key, "***").split() if key else text.split()))
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
