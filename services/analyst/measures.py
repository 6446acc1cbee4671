"""What counts for which score, how much, and where the thresholds come from: docs/scores.md has the sources."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from services.analyst.answer import QUALITIES
from services.analyst.curves import Curve, curve
from services.analyst.inputs import Inputs, Place, Unknown, evidence, look_up, number

VERSION = "1"
"""Another weight, curve or formula is another version: scores of two versions cannot be compared."""

WEIGHTS = {
    "clarity": 0.25,
    "pace": 0.15,
    "pauses": 0.15,
    "expressiveness": 0.15,
    "eye_contact": 0.15,
    "content": 0.15,
    "sentiment": 0.0,
}
"""Of the scores in the overall one. Sentiment says what tone was chosen, not how well."""


class Reading(NamedTuple):
    """A value, where it is from, and how far it can be relied on, 0 to 1."""

    value: float
    source: str
    evidence: float


Read = Callable[[Inputs], Reading]


@dataclass(frozen=True)
class Measure:
    """One input of one score."""

    name: str
    score: str
    weight: float
    unit: str
    curve: Curve
    read: Read


def _at(*places: str | tuple[str, float], low: float = 0.0, high: float = math.inf) -> Read:
    """The value of the first place that has one. Its evidence is that of the best place that has one."""
    known = [Place(place) if isinstance(place, str) else Place(*place) for place in places]

    def read(inputs: Inputs) -> Reading:
        found: list[Reading] = []
        reasons: list[str] = []
        for place in known:
            try:
                value = number(inputs, place, low, high)
            except Unknown as reason:
                reasons.append(str(reason))
            else:
                found.append(Reading(value, place.path, evidence(inputs, place.path.partition(".")[0])))
        if not found:
            raise Unknown(reasons[0])
        return found[0]._replace(evidence=max(reading.evidence for reading in found))

    return read


def _english(read: Read) -> Read:
    """Only for English: words are longer or shorter elsewhere, and so are what counts as fast and slow."""

    def checked(inputs: Inputs) -> Reading:
        reading = read(inputs)
        try:
            language = str(look_up(inputs, "transcript.language"))
        except Unknown:
            raise Unknown("the language is not known, and the thresholds are of English") from None
        if language.partition("-")[0].lower() not in {"en", "english"}:
            raise Unknown(f"the thresholds are of English, the language is {language[:16] or 'not known'}")
        return reading

    return checked


def _animation(inputs: Inputs) -> Reading:
    """Share of the frames in which another expression than neutral is the likeliest."""
    name = "expressions" if _has(inputs, "face.expressions") else "expression_shares"
    shares = look_up(inputs, f"face.{name}")
    if not isinstance(shares, dict):
        raise Unknown(f"face.{name} is no object")
    told = {key: number(inputs, Place(f"face.{name}.{key}"), 0, 1) for key in shares if shares[key] is not None}
    if "neutral" not in told and abs(math.fsum(told.values()) - 1) > _ROUNDING:
        raise Unknown(f"face.{name} has no neutral")  # one that never was the likeliest may be left out
    return Reading(1 - told.get("neutral", 0.0), f"face.{name}", evidence(inputs, "face"))


def _has(inputs: Inputs, path: str) -> bool:
    try:
        return look_up(inputs, path) is not None
    except Unknown:
        return False


def _quality(name: str) -> Read:
    def read(inputs: Inputs) -> Reading:
        items: Any = look_up(inputs, "gpt.quality")
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and item.get("name") == name:
                found = number({"gpt": item}, Place("gpt.score"), 0, 100)
                return Reading(found, f"gpt.quality.{name}", evidence(inputs, "gpt"))
        raise Unknown(f"gpt.quality has no {name}")

    return read


_ROUNDING = 0.01
_AS_IT_IS = curve((0, 0), (100, 100))

MEASURES = (
    Measure("recognition", "clarity", 0.5, "share", curve((0.4, 0), (0.9, 100)),
            _at("transcript.confidence", high=1)),
    Measure("loudness", "clarity", 0.2, "LUFS", curve((-50, 0), (-28, 100), (-14, 100), (-6, 50)),
            _at("voice.loudness_lufs", low=-120, high=20)),
    Measure("jitter", "clarity", 0.15, "%", curve((1.04, 100), (5, 0)),
            _at("voice.jitter_percent", "voice.jitter", high=100)),
    Measure("shimmer", "clarity", 0.15, "%", curve((3.81, 100), (15, 0)),
            _at("voice.shimmer_percent", "voice.shimmer", high=100)),
    Measure("words_per_minute", "pace", 0.6, "words/min", curve((60, 0), (120, 100), (180, 100), (260, 0)),
            _english(_at("voice.words_per_minute", "transcript.words_per_minute", high=1000))),
    Measure("syllables_per_s", "pace", 0.4, "syllables/s", curve((1.5, 0), (3.3, 100), (5.5, 100), (8, 0)),
            _at("voice.syllables_per_s", "voice.syllables_per_second", high=20)),
    Measure("pause_share", "pauses", 0.6, "share", curve((0, 40), (0.1, 100), (0.3, 100), (0.6, 0)),
            _at("voice.pause_share", "voice.pauses.share", high=1)),
    Measure("longest_pause_s", "pauses", 0.4, "s", curve((1.5, 100), (6, 0)),
            _at("voice.longest_pause_s", "voice.pauses.longest_s")),
    Measure("pitch_range", "expressiveness", 0.5, "semitones", curve((3.3, 0), (12, 100)),
            _at("voice.pitch_range_semitones", high=120)),
    Measure("loudness_deviation", "expressiveness", 0.2, "dB", curve((1, 0), (5, 100)),
            _at("voice.loudness_deviation_db", ("voice.loudness_range_db", 1 / 2.93), high=60)),
    Measure("animation", "expressiveness", 0.15, "share", curve((0, 0), (0.5, 100)), _animation),
    Measure("smile", "expressiveness", 0.15, "share", curve((0, 30), (0.4, 100)), _at("face.smile_mean", high=1)),
    Measure("eye_contact_share", "eye_contact", 1.0, "share", curve((0.1, 0), (0.6, 100)),
            _at("face.eye_contact_share", high=1)),
    *(Measure(name, "content", 0.2, "0 to 100", _AS_IT_IS, _quality(name)) for name in QUALITIES),
    Measure("sentiment", "sentiment", 1.0, "-1 to 1", curve((-1, 0), (1, 100)),
            _at("gpt.sentiment.value", low=-1, high=1)),
)  # fmt: skip
"""Every input. The weights of each score's inputs sum to 1."""
