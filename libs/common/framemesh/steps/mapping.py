"""Where a step's input comes from: references such as ``$steps.extract.audio`` in plain JSON.

``$input`` is the job's input, ``$steps.<name>`` the output of a step, ``$item`` and ``$index`` those of a fan-out,
``$error`` the reason for a failure. A path goes into objects by name and into lists by number. With ``?`` at the
end what is not there is null. A string that begins with ``$$`` is that string with one ``$``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

_REFERENCE = re.compile(r"\$([a-z]+)((?:\.[A-Za-z0-9_-]+)*)(\??)")
_ROOTS = frozenset({"input", "steps", "item", "index", "error"})


class MappingError(Exception):
    """A reference that is none, or to nothing."""


def references(value: Any) -> list[str]:
    """Every reference in a value."""
    return [text for text in _strings(value) if text.startswith("$") and not text.startswith("$$")]


def resolve(value: Any, known: Mapping[str, Any]) -> Any:
    """The value with its references filled in from ``known``. Raises MappingError."""
    if isinstance(value, dict):
        return {name: resolve(each, known) for name, each in value.items()}
    if isinstance(value, list):
        return [resolve(each, known) for each in value]
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    if value.startswith("$$"):
        return value[1:]
    return _look_up(value, known)


def unresolved(value: Any, steps: Collection[str], roots: Collection[str]) -> str:
    """What is wrong with the references of a value before anything has run; empty when nothing is.

    ``steps`` are those whose output will be there. Raises MappingError for what is no reference.
    """
    for text in references(value):
        root, path, _ = _parse(text)
        if root == "steps":
            if not path or path[0] not in steps:
                named = f"step {path[0]!r}" if path else "no step"
                return f"{text} refers to {named}, which is not done before: add it to after"
        elif root != "input" and root not in roots:
            return f"{text} has no meaning here"
    return ""


def wanted_inputs(value: Any) -> list[str]:
    """The references to the job's input that must lead somewhere."""
    parsed = [(text, *_parse(text)) for text in references(value)]
    return [text for text, root, _, optional in parsed if root == "input" and not optional]


def leads_somewhere(reference: str, given: Mapping[str, Any]) -> bool:
    """Whether a reference to the job's input is to something that was given."""
    try:
        _look_up(reference, {"input": given})
    except MappingError:
        return False
    return True


def copied(value: Any) -> Any:
    """A value of JSON in which nothing is shared with the first."""
    if isinstance(value, dict):
        return {name: copied(each) for name, each in value.items()}
    return [copied(each) for each in value] if isinstance(value, list) else value


def _look_up(text: str, known: Mapping[str, Any]) -> Any:
    root, path, optional = _parse(text)
    value: Any = known.get(root)
    for at, part in enumerate(path):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            if optional:
                return None
            raise MappingError(f"{text}: there is no {'.'.join((root, *path[: at + 1]))}") from None
    return value


def _parse(text: str) -> tuple[str, list[str], bool]:
    match = _REFERENCE.fullmatch(text)
    if not match or match[1] not in _ROOTS:
        raise MappingError(
            f"{text!r} is no reference: want $input, $steps.<name> or $item, with .fields; $$ for a $"
        )
    return match[1], match[2].split(".")[1:], bool(match[3])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
