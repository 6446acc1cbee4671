"""What it means for a job that the language model's server fails."""

from __future__ import annotations

from typing import Any

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

from framemesh.delays import asked_for
from framemesh.errors import FramemeshError
from framemesh.steps.functions import StepFailed
from framemesh.telemetry import redact
from services.analyst.settings import AnalystSettings

_LONGEST = 300
_AGAIN = {408, 409, 425, 429}
_SERVER = 500
_TOO_LONG = {400, 413, 422}
_ADVICE = {
    401: "setting gpt_api_key: the server does not take it: give a valid one",
    403: "setting gpt_api_key: it may not use gpt_model {model!r}: give another, or another model",
    404: "setting gpt_model or gpt_base_url: there is no model {model!r} there, or the address lacks its end, "
    "mostly /v1",
}
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")


def explained(error: APIError, settings: AnalystSettings) -> FramemeshError | StepFailed:
    """The error for the job: what a user can mend, or what another try may."""
    where = settings.gpt_base_url
    if isinstance(error, APIStatusError):
        return _status(error, settings)
    if isinstance(error, APITimeoutError):
        return StepFailed(f"{where} did not answer within gpt_timeout, {settings.gpt_timeout:g} s")
    if isinstance(error, APIConnectionError):
        why = error.__cause__ or error
        return StepFailed(f"{where} cannot be reached, or broke off: {_clean(f'{why!r}', settings)}")
    return StepFailed(f"{where} broke off with an error: {_clean(error.message, settings)}")


def _status(error: APIStatusError, settings: AnalystSettings) -> FramemeshError | StepFailed:
    said, code = words(error, settings), error.status_code
    answer = f"{settings.gpt_base_url} answers HTTP {code}: {said}"
    if any(sign in f"{error.code} {error.type}" for sign in _NO_CREDIT):
        return FramemeshError(f"setting gpt_api_key: its account has no credit left ({answer})")
    if code in _AGAIN or code >= _SERVER:
        return StepFailed(answer, delay=asked_for(error.response.headers))
    if code in _TOO_LONG and (error.code == "context_length_exceeded" or "context" in said):
        return FramemeshError(
            f"setting gpt_chunk_tokens: {settings.gpt_chunk_tokens} and gpt_max_tokens for the answer do not fit "
            f"into the model's context: lower one ({answer})"
        )
    advice = _ADVICE.get(
        code, "settings gpt_model, gpt_max_tokens, gpt_base_url: the request is refused: check them"
    )
    return FramemeshError(f"{advice.format(model=settings.gpt_model)} ({answer})")


def words(error: APIStatusError, settings: AnalystSettings) -> str:
    """What the server said, in one line, without the key."""
    body: Any = error.body
    said = body.get("message") if isinstance(body, dict) else None
    return _clean(str(said or error.response.text or "no reason given"), settings)


def _clean(text: str, settings: AnalystSettings) -> str:
    key = settings.gpt_api_key.get_secret_value()
    line = redact(" ".join(text.replace(key, "***").split() if key else text.split()))
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
