"""Media: what the gateway and the media service have in common, and the plans that start when one is uploaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

from framemesh.messages import SOURCE_PATTERN
from framemesh.steps.plan import Plan

BUCKET = "media"
UPLOADED, DELETED = "media.uploaded", "media.deleted"
"""Triggers."""
MEDIA_PATTERN = SOURCE_PATTERN
EDITION_PATTERN = r"^[0-9a-f]{32}$"
RENDITION_PATTERN = r"^[a-z0-9-]{1,32}$"
FILE_PATTERN = r"^(index\.m3u8|init\.mp4|[0-9]{5}\.m4s)$"
MASTER = "index.m3u8"
TRANSCRIPT = "transcript.json"
TYPES = {".m3u8": "application/vnd.apple.mpegurl", ".mp4": "video/mp4", ".m4s": "video/iso.segment"}
_HOUR = 3600.0
_WHOLE = {"attempts": 5, "delay": 2.0, "most": 60.0}
"""Tries of what a medium cannot do without: servers and networks come back."""
_PART = {"attempts": 3, "delay": 2.0, "most": 60.0}
_ABOUT = {"media": "$input.media", "title": "$input.title?", "source": "$input.source?"}


def key(media: str, *names: str) -> str:
    """Where something of a medium lies in the bucket."""
    return "/".join((media, *names))


def edition_of(job: str) -> str:
    """The edition that a job makes, whatever it makes it of: so no two write under the same keys."""
    return hashlib.sha256(job.encode()).hexdigest()[:32]


def playlist_path(media: str) -> str:
    """Path of the playlist of a medium, at the gateway."""
    return f"/media/{media}/{MASTER}"


@cache
def upload_plan() -> Plan:
    """What is made of a medium. Its input: ``media``, and ``url`` or ``upload``; ``title`` and ``source`` or none.

    Without its file nothing can be made; what is said in it, and finding that, is more that may be lacking. What
    has been made of the same bytes before is taken again. Only what is published is to be found.
    """
    steps: dict[str, dict[str, Any]] = {
        "registering": {
            "input": _ABOUT | {name: f"$input.{name}?" for name in ("version", "owner")},
            "timeout": 60.0,
            "retry": _WHOLE,
        },
        "fetching-media": {
            "after": ["registering"],
            "input": {
                "url": "$input.url?",
                "upload": "$input.upload?",
                "version": "$steps.registering.version?",
                "known": "$steps.registering.known?",
            },
            "timeout": 2 * _HOUR,
            "retry": _WHOLE,
        },
        "transcoding": {
            "after": ["fetching-media"],
            "input": {
                "media": "$input.media",
                **{
                    name: f"$steps.fetching-media.{name}?"
                    for name in ("video", "sha256", "duration_s", "renditions", "loudness")
                },
            },
            "timeout": 12 * _HOUR,
            "retry": _WHOLE,
            "remember": "$input.media",
        },
        "extracting-audio": {
            "after": ["fetching-media"],
            "input": {"video": "$steps.fetching-media.video?"},
            "timeout": 2 * _HOUR,
            "optional": True,
            "remember": "$input.media",
        },
        "transcribing": {
            "after": ["extracting-audio"],
            "input": {"audio": "$steps.extracting-audio.audio?"},
            "timeout": 6 * _HOUR,
            "optional": True,
            "remember": "$input.media",
        },
        "publishing": {
            "after": ["transcoding", "transcribing"],
            "input": {
                "media": "$input.media",
                "file": "$steps.fetching-media?",
                "hls": "$steps.transcoding?",
                "transcript": "$steps.transcribing?",
            },
            "timeout": _HOUR,
            "retry": _WHOLE,
        },
        "embed": {
            "after": ["publishing"],
            "input": _ABOUT | {"transcript": "$steps.publishing.transcript?"},
            "timeout": _HOUR,
            "optional": True,
            "remember": "$input.media",
        },
        "index": {
            "after": ["publishing", "embed"],
            "input": _ABOUT
            | {
                "owner": "$steps.registering.owner?",
                "passages": "$steps.embed.passages?",
                "version": "$steps.publishing.version?",
            },
            "timeout": _HOUR,
            "optional": True,
        },
        "notifying": {
            "after": ["publishing", "index"],
            "input": {
                "media": "$input.media",
                "version": "$steps.publishing.version?",
                "indexed": "$steps.index.indexed?",
            },
            "timeout": 300.0,
            "retry": _WHOLE,
        },
    }
    plan = {
        "name": "media",
        "steps": {
            name: {"function": name, "status": name, "retry": _PART} | parts for name, parts in steps.items()
        },
        "output": {
            "media": "$input.media",
            "published": "$steps.publishing?",
            "indexed": "$steps.index.indexed?",
        },
        "on_failure": {
            "function": "notifying",
            "input": {"media": "$input.media?", "version": "$input.version?", "failed": "$error"},
        },
    }
    return Plan.model_validate(plan)


@cache
def delete_plan() -> Plan:
    """A medium is to be forgotten: all that was made of it, and its passages. Its input: ``media``."""
    given = {"media": "$input.media", "version": "$input.version?"}
    steps: dict[str, Any] = {
        "unindex": {
            "function": "unindex", "input": {"media": "$input.media"}, "optional": True, "retry": _PART,
        },
        "removing": {"function": "removing", "input": given, "retry": _WHOLE},  # though search be away
    }  # fmt: skip
    return Plan.model_validate({"name": "media-removal", "steps": steps})


BUILT_IN: dict[str, Callable[[], Plan]] = {UPLOADED: upload_plan, DELETED: delete_plan}
"""Plans by the triggers that start them, where nobody has subscribed another one."""
