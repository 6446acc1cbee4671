"""Loudness: integrated and how much it moves, the highest sample, and what was cut off."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pyloudnorm import Meter

from framemesh.audio import RATE, Samples
from services.voice.sound import FULL_SCALE
from services.voice.untold import Untold

BLOCK_S = 0.4
STEP = round(BLOCK_S / 4 * RATE)
GATE_LUFS = -70.0
BELOW_LU = 20.0
"""Blocks further below the loudness are pauses, not quiet speech (EBU Tech 3342, the relative gate)."""


class Loudness(NamedTuple):
    """Loudness in LUFS, and of each block of 0.4 s, one every 0.1 s."""

    integrated: float
    blocks: list[float]


def loudness(samples: Samples) -> Loudness:
    """Of ``samples`` [n] by ITU-R BS.1770-4; a full-scale sine of 997 Hz, one channel, has -3.0. Raises Untold."""
    whole = len(samples) - len(samples) % STEP  # the meter counts what lacks in a last block as silence
    if whole < BLOCK_S * RATE:
        raise Untold(f"shorter than {BLOCK_S} s")
    meter = Meter(RATE, block_size=BLOCK_S)
    integrated = float(meter.integrated_loudness(samples[:whole].astype(np.float64)))
    if not np.isfinite(integrated):
        raise Untold(f"below {GATE_LUFS:.0f} LUFS")
    return Loudness(integrated, [float(block) for block in meter.blockwise_loudness])


def deviation(loudness: Loudness) -> float:
    """Standard deviation in dB over the blocks that are not silence. Raises Untold."""
    gate = max(GATE_LUFS, loudness.integrated - BELOW_LU)
    heard = [block for block in loudness.blocks if block >= gate]
    if len(heard) < 2:  # noqa: PLR2004 - a deviation takes two
        raise Untold(f"fewer than two blocks of {BLOCK_S} s")
    return float(np.std(heard))


def peak_dbfs(samples: Samples) -> float:
    """The highest sample, dB of the full scale. Raises Untold for digital silence."""
    peak = float(np.abs(samples).max(initial=0))
    if not peak:
        raise Untold("digital silence")
    return float(20 * np.log10(peak))


def clipped_share(samples: Samples) -> float:
    """Share of the samples that are at full scale; 0 for none."""
    return float(np.mean(np.abs(samples) >= FULL_SCALE)) if len(samples) else 0.0
