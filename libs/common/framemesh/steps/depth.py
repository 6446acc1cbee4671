"""How deep what is given to a job, or comes of a step, may be nested: parsers of JSON read so many levels only.

What can be written but not read again would take its whole job along.
"""

from __future__ import annotations

import json
from typing import Any

MOST_DEPTH = 100
"""Levels of lists and objects. pydantic reads 200, and a job puts some around it."""


_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


def json_bytes(value: Any) -> bytes:
    """As JSON. Raises TypeError, ValueError or RecursionError for what JSON cannot say."""
    return _encode(value).encode()


def too_deep(value: Any, levels: int = MOST_DEPTH) -> bool:
    """Whether a value of JSON has more levels of lists and objects than that."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    if inner is None:
        return False
    return levels < 1 or any(too_deep(each, levels - 1) for each in inner)
