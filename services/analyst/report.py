"""The step ``saving-results``: the report, one JSON document in the blob store."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from framemesh import __version__
from framemesh.errors import FramemeshError
from framemesh.steps.context import Context
from framemesh.steps.functions import step

REPORT_VERSION = 1
_MADE_BY = ("version", "model", "model_name", "model_sha256", "prompt")
"""Fields by which a part says what made it."""


@step("saving-results", timeout=300)
async def saving_results(ctx: Context, given: Any) -> dict[str, Any]:
    """Store the report of a job; its address, length and SHA-256."""
    if not isinstance(given, dict):
        raise FramemeshError("input of saving-results: want an object with the results by name")
    data = encoded(report(ctx.job, given))
    url = await ctx.put(data, "report.json")
    ctx.log.info("report of %d bytes stored", len(data))
    return {"report": url, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def report(job: str, parts: dict[str, Any]) -> dict[str, Any]:
    """The document. It has no time of its own, so a try that is repeated gives the same one."""
    return {
        "report": REPORT_VERSION,
        "framemesh": __version__,
        "job": job,
        "parts": parts,
        "absent": sorted(name for name, part in parts.items() if part is None),
        "versions": {name: made for name, part in sorted(parts.items()) if (made := _made_by(part))},
    }


def encoded(document: dict[str, Any]) -> bytes:
    """As JSON that people can read too; the same document gives the same bytes. Raises FramemeshError."""
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True, indent=2)
        return text.encode() + b"\n"
    except ValueError as error:  # NaN, or half a surrogate pair
        raise FramemeshError(f"input of saving-results: cannot be written as JSON: {error}") from None


def _made_by(part: Any) -> dict[str, Any]:
    return {name: part[name] for name in _MADE_BY if name in part} if isinstance(part, dict) else {}
