"""An answer of a language model that must fit a model of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from framemesh.llm.chat import Chat, Heard, Said, Turn
from framemesh.llm.prompts import Prompts
from framemesh.steps.functions import StepFailed

A = TypeVar("A", bound=BaseModel)

_THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)


@dataclass(frozen=True)
class Read(Generic[A]):
    """An answer that fits."""

    answer: A
    said: Said
    repairs: int = 0
    """How often it had to be mended; the tokens of that are in ``said``."""


def parse(text: str, model: type[A]) -> A:
    """The answer in what a model wrote, with fences or thoughts around it or not. Raises ValueError."""
    bare = _THINKING.sub("", text)
    begin, end = bare.find("{"), bare.rfind("}")
    if begin < 0 or end < begin:
        raise ValueError("there is no JSON object in it")
    try:
        value = json.loads(bare[begin : end + 1], strict=False)  # models forget to escape line breaks
    except ValueError as error:
        raise ValueError(f"it is not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError("it is not valid JSON: nested too deep") from None
    return model.model_validate(value)


async def ask(
    chat: Chat, turns: list[Turn], schema: dict[str, Any], heard: Heard,
    parsed: Callable[[str], A], prompts: Prompts, warn: Callable[[str], None],
) -> Read[A]:  # fmt: skip
    """An answer that fits, also after one request to mend it (the prompt ``repair``). Raises StepFailed."""
    first = await chat.ask(turns, schema, heard)
    try:
        return Read(parsed(first.text), first)
    except ValueError as error:
        problem = _problem(error)
    warn(problem)
    again: list[Turn] = [
        *turns,
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": prompts.fill("repair", problem=problem)},
    ]
    second = await chat.ask(again, schema, heard)
    try:
        found = parsed(second.text)
    except ValueError as error:
        raise StepFailed(
            f"{second.model}: its answer does not fit, and neither does the one after a request to mend it: "
            f"{_problem(error)}",
            retry=False,
        ) from None
    return Read(found, replace(second, usage=first.usage + second.usage), repairs=1)


def _problem(error: ValueError) -> str:
    return explain(error) if isinstance(error, ValidationError) else str(error)


def explain(error: ValidationError, most: int = 5) -> str:
    """What is wrong, without the values: they may be long, and somebody's own."""
    found = [_one(item) for item in error.errors(include_url=False, include_input=False, include_context=False)]
    more = f"; and {len(found) - most} more" if len(found) > most else ""
    return "; ".join(found[:most]) + more


def _one(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    said = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {said}" if where else said
