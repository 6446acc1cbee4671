"""Pictures in collections: what the gateway and the images service have in common."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from functools import cache
from typing import Any

from framemesh.steps.plan import Plan

SIZES = (150, 300, 600)
"""Longer side of each thumbnail, pixels."""
FORMATS = ("webp", "jpeg")
BUCKET = "images"
BUCKET_PATTERN = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
UPLOAD_PLAN, BULK_PLAN = "image", "images"
TYPES = ("jpeg", "png", "webp", "gif")
_SIGNATURES = {
    "jpeg": rb"\xff\xd8\xff", "png": rb"\x89PNG\r\n\x1a\n", "gif": rb"GIF8[79]a", "webp": rb"RIFF....WEBPVP8[ LX]",
}  # fmt: skip
HEAD_BYTES = 16
_WHOLE = {"attempts": 5, "delay": 1.0, "most": 30.0}


def sniffed(head: bytes) -> str | None:
    """What kind of picture a file is by its first 16 bytes; None for what is not taken, whatever its name."""
    return next((kind for kind, sign in _SIGNATURES.items() if re.match(sign, head, re.DOTALL)), None)


def new_image_id() -> str:
    """An id that no picture has had: what lies under it is never another picture's."""
    return secrets.token_hex(12)


def new_key(image: str, kind: str) -> str:
    """A key of the bucket for a picture itself. It is written once, so it never means another file."""
    return f"{image}/{secrets.token_hex(8)}.{kind}"


def thumbnail_key(image: str, size: int, kind: str) -> str:
    """The key of a thumbnail."""
    return f"{image}/{size}.{kind}"


def thumbnail_keys(image: str) -> list[str]:
    """The keys of all thumbnails that a picture may have."""
    return [thumbnail_key(image, size, kind) for size in SIZES for kind in FORMATS]


def image_of(key: str) -> str | None:
    """The id of the picture whose file a key is; None for what is none of these."""
    found = re.fullmatch(r"([0-9a-f]{24})/(?:[0-9a-f]{16}|[0-9]{2,4})\.[a-z]{3,4}", key)
    return found[1] if found else None


def orphans(keys: Iterable[str], known: dict[str, str]) -> list[str]:
    """Of keys those that are no picture's. ``known`` has the key of each picture by its id.

    A thumbnail is its picture's as long as that is there; another file is one that a newer replaced.
    """
    return [key for key in keys if (image := image_of(key)) and not _belongs(key, image, known)]


def _belongs(key: str, image: str, known: dict[str, str]) -> bool:
    return image in known and (key == known[image] or key in thumbnail_keys(image))


@cache
def upload_plan() -> Plan:
    """A picture that was uploaded: store and record it, then make its thumbnails."""
    given: dict[str, Any] = {name: f"$input.{name}" for name in ("upload", "collection", "name", "owner")}
    steps = {
        "process_image": {"function": "process_image", "input": given, "retry": _WHOLE},
        "generate_thumbnails": {
            "function": "generate_thumbnails",
            "after": ["process_image"],
            "input": {"image": "$steps.process_image.image"},
            "retry": _WHOLE,
        },
    }
    output = {"image": "$steps.process_image", "thumbnails": "$steps.generate_thumbnails.thumbnails"}
    return Plan.model_validate({"name": UPLOAD_PLAN, "steps": steps, "output": output})


@cache
def bulk_plan() -> Plan:
    """Many pictures. Its input has ``files``, the address of a list of what was uploaded."""
    step = {
        "function": "bulk_process_images",
        "input": {name: f"$input.{name}" for name in ("files", "collection", "owner")},
        "timeout": 6 * 3600.0,
        "retry": {"attempts": 10, "delay": 1.0, "most": 60.0},
    }
    output = "$steps.bulk_process_images"
    names = ("done", "failed", "failures", "report")
    return Plan.model_validate(
        {
            "name": BULK_PLAN,
            "steps": {"bulk_process_images": step},
            "output": {name: f"{output}.{name}" for name in names},
        }
    )


@cache
def task_plan(function: str) -> Plan:
    """One of the functions of the images service by itself, as schedules ask for it."""
    step = {"function": function, "timeout": 6 * 3600.0, "retry": {"attempts": 10, "delay": 5.0, "most": 300.0}}
    return Plan.model_validate({"name": function, "steps": {function: step}})
