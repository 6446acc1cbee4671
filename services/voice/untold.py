"""Figures, and the reasons for those that cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


class Untold(Exception):
    """Why a figure cannot be told, in a few words."""


@dataclass
class Figures:
    """Fields of a finding: each has a value, or the reason for having none."""

    values: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, names: Sequence[str], measure: Callable[[], Sequence[Any]]) -> None:
        """Take the values that ``measure`` gives for ``names``, or the reason that it raises."""
        try:
            self.values.update(zip(names, measure(), strict=True))
        except Untold as reason:
            self.missing.update(dict.fromkeys(names, str(reason)))
