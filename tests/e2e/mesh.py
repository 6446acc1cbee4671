"""What the end-to-end tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PRESENCES = [
    (presence["enter_s"], presence["leave_s"])
    for presence in json.loads((Path(__file__).parents[1] / "data" / "people_presence.json").read_text())
]
"""When somebody is to be seen in the clip ``people``, by eye: seconds."""


def environment(**changes: str) -> dict[str, str]:
    """This environment, with changes; an empty value takes a variable out."""
    merged = dict(os.environ) | changes
    return {name: value for name, value in merged.items() if value}


def framemesh(*arguments: str, timeout: float = 120, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the CLI as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "framemesh", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**changes),
        check=False,
    )


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two spans of time."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return max(0.0, shared) / (max(one[1], other[1]) - min(one[0], other[0]))
