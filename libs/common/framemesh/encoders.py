"""Which encoder of FFmpeg's writes H.264."""

from __future__ import annotations

import contextlib

import av

from framemesh.errors import FramemeshError

ENCODERS = ("libopenh264", "libx264")
"""The first one that there is; of another licence than the second."""


def pick_encoder(wanted: str | None = None) -> str:
    """The H.264 encoder to use: `wanted`, or libopenh264 when this FFmpeg has it, else libx264.

    Raises FramemeshError when this FFmpeg has no such encoder.
    """
    for name in [wanted] if wanted else ENCODERS:
        with contextlib.suppress(av.codec.codec.UnknownCodecError):
            if av.Codec(name, "w").id == av.Codec("h264", "r").id:
                return name
    raise FramemeshError(f"this FFmpeg has no H.264 encoder {wanted or ''}: name another or leave it out")
