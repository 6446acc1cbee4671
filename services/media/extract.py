"""The sound of a video as a WAV of 16 kHz, mono, 16 bit, written while it is decoded."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from framemesh import mediafile
from framemesh.audio import FULL_SCALE, RATE, Samples
from framemesh.errors import FramemeshError

MINUTE = 60.0


class Written(NamedTuple):
    """How far it is: seconds of sound, and its highest sample so far, 0 to 1."""

    seconds: float
    peak: float


def extract(video: Path, wav: Path, max_minutes: float) -> Iterator[Written]:
    """Write the sound of ``video`` to ``wav``, and say after each second or so how far it is.

    Raises FramemeshError for a file without sound, or one that is too long.
    """
    seconds, peak = 0.0, 0.0
    with wave.open(str(wav), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        for samples in mediafile.sound(video):
            out.writeframesraw(_pcm(samples))
            seconds += len(samples) / RATE
            peak = max(peak, float(np.abs(samples).max(initial=0)))
            if seconds > max_minutes * MINUTE:
                raise FramemeshError(
                    f"input.video: longer than {max_minutes:g} minutes: cut it, or raise media_max_minutes"
                )
            yield Written(seconds, peak)


def _pcm(samples: Samples) -> bytes:
    return np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes()
