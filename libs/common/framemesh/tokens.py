"""Bearer tokens: who may use the API, and for what.

A token is 256 random bits, so that nobody can guess it or try it out from its hash: one plain SHA-256 is enough to
keep it, and quick enough to look it up at each request. (Salt and slow hashes are for passwords, which people
choose.) The token itself is shown once and lies nowhere. What is looked up is the hash, so the time that it takes
tells nothing of the token.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum

from framemesh.errors import FramemeshError
from framemesh.steps.plan import NAME_PATTERN

PREFIX = "fm_"
"""So that people, and scanners for secrets, see what it is."""
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


class Scope(StrEnum):
    """What a token is for; each may do what those before it may."""

    VIEWER = "viewer"
    """See one's own jobs."""
    OPERATOR = "operator"
    """Submit, cancel and retry one's own jobs, too."""
    ADMIN = "admin"
    """All of that with everybody's jobs."""

    def covers(self, other: Scope) -> bool:
        """Whether it may do what the other may."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Token:
    """What is known of a token. Its name owns the jobs that it submits."""

    name: str
    scope: Scope
    created: float
    expires: float | None = None

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= time.time()


def new_secret() -> str:
    """A token as its holder has it."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """A token as it is kept."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def check_name(name: str) -> None:
    """Raise FramemeshError for what cannot own jobs."""
    if not re.fullmatch(NAME_PATTERN.strip("^$"), name):
        raise FramemeshError(f"name {name!r}: want letters, digits, - and _, 64 at most, e.g. mobile-app")


def duration(text: str) -> float:
    """Seconds of ``90m``, ``12h``, ``30d`` or ``8w``. Raises FramemeshError."""
    found = re.fullmatch(r"([1-9][0-9]{0,3})([mhdw])", text)
    if not found:
        raise FramemeshError(f"expires {text!r}: want a number up to 9999 and one of m, h, d, w, e.g. 30d")
    return float(found[1]) * _UNITS[found[2]]
