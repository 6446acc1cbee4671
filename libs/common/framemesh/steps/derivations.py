"""What functions have given, remembered by the hash of what they were given: the same is not done twice.

Each is remembered in a scope, such as one medium, and forgotten with it. An input names files by their addresses,
so a file that comes again must come under the address that it had.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from pydantic import Field, ValidationError

from framemesh import subjects
from framemesh.bus import Bus
from framemesh.messages import Message
from framemesh.settings import ttl_seconds
from framemesh.steps.job import JobId

KEPT_SHARE = 0.8
"""Of the time to live of what steps store: what is remembered must still be there for who reads it."""
FOR_EVER_S = 10 * 365 * 86400.0


class Derivation(Message):
    """What a function gave for an input (``derived.<scope>.<function>.<digest>``)."""

    output: Any
    job: JobId = Field(description="That gave it, or has taken it last")
    until: float = Field(description="When what it names may be gone, seconds since the epoch")


def digest(given: Any) -> str:
    """Hash of an input: the same for the same JSON, whatever the order of its fields."""
    text = json.dumps(given, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def kept_seconds(ttl: str) -> float:
    """How long an output is remembered that names what lies in a store with this time to live."""
    return KEPT_SHARE * ttl_seconds(ttl) if ttl else FOR_EVER_S


class Derivations:
    """The memory of a mesh."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def recall(self, scope: str, function: str, given: Any, job: str) -> Derivation | None:
        """What the function gave for this input in the scope before; the job is noted as who took it last."""
        subject = subjects.derived(scope, function, digest(given))
        stored = await self._bus.newest(subjects.DERIVATIONS.name, subject)
        try:
            found = Derivation.model_validate_json(stored[1]) if stored else None
        except ValidationError:
            return None
        if found is None or found.until < time.time():
            return None
        if found.job != job:
            found = found.model_copy(update={"job": job})
            await self._bus.publish_raw(subject, found.model_dump_json().encode(), {})
        return found

    async def keep(self, scope: str, function: str, given: Any, output: Any, job: str, seconds: float) -> None:
        """Remember an output for some time."""
        made = Derivation(output=output, job=job, until=time.time() + seconds)
        subject = subjects.derived(scope, function, digest(given))
        await self._bus.publish_raw(subject, made.model_dump_json().encode(), {})

    async def forget(self, scope: str, but: str = "") -> int:
        """Forget all of a scope, but what a job gave or has taken last; returns how many."""
        stream, subject = subjects.DERIVATIONS.name, subjects.derived(scope, "*", "*")
        found = [stored async for stored in self._bus.read(stream, subject, 1, Derivation)]
        gone = [stored.seq for stored in found if stored.message.job != but]
        for seq in gone:
            await self._bus.delete(stream, seq)
        return len(gone)
