"""Tokens and what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_MILLION = 1_000_000


@dataclass(frozen=True)
class Usage:
    """Tokens of requests and their answers."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: int = 0
    """Requests whose tokens the server did not count."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.estimated + other.estimated,
        )

    def told(self) -> dict[str, Any]:
        """For the output."""
        return {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "estimated": self.estimated > 0,
            "estimated_requests": self.estimated,
        }

    def cost(self, price_input: float, price_output: float) -> float | None:
        """In the currency of the prices, each of a million tokens; None where both are 0, so not known."""
        if not price_input and not price_output:
            return None
        return round((self.input_tokens * price_input + self.output_tokens * price_output) / _MILLION, 8)


def total(usages: Iterable[Usage]) -> Usage:
    """All together."""
    return sum(usages, Usage())
