"""How somebody speaks in a whole sound, from the windows that it was measured in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from framemesh.audio import RATE, Cut
from framemesh.messages import Voice
from services.voice import loudness, pauses, rate
from services.voice.measure import Choices
from services.voice.sound import Stretch, joined
from services.voice.untold import Figures, Untold

RELATIVE_GATE_LU = 10.0
MINUTE = 60.0
_PITCH = ("pitch_median_hz", "pitch_low_hz", "pitch_high_hz", "pitch_range_semitones")
_PAUSES = ("pauses", "pause_share", "longest_pause_s", "mean_pause_s", "pauses_per_minute")


class Summary:
    """Takes window after window, and keeps of each what the whole needs."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._blocks: list[float] = []
        self.voices: list[Voice] = []
        self.seconds = 0.0
        """How far it is."""

    def add(self, cut: Cut, voice: Voice) -> None:
        """Take a window, and what was measured in it; times count from the beginning of the sound."""
        self.seconds = cut.begin / RATE + len(cut.samples) / RATE
        self.voices.append(voice)
        try:
            own = cut.samples[round(cut.overlap_s * RATE) :]
            self._blocks += loudness.loudness(own).blocks
        except Untold:
            return  # too quiet or too short to count

    def stretches(self) -> list[Stretch]:
        """Where somebody speaks."""
        return joined([stretch for voice in self.voices for stretch in voice.speech], self._choices.pause_s)

    def summary(self, words: int | None = None) -> dict[str, Any]:
        """The figures of the whole; what cannot be told is null, and ``missing`` says why.

        Pitch is that of the medians of each 0.1 s; syllables, jitter and shimmer are the windows' means, by how
        long somebody speaks in each.
        """
        figures = Figures()
        stretches = self.stretches()
        figures.add(_PITCH, self._pitch)
        figures.add(("loudness_lufs", "loudness_deviation_db"), self._loudness)
        figures.add(("peak_dbfs",), lambda: (self._highest("peak_dbfs"),))
        figures.add(_PAUSES, lambda: _pauses(stretches, self.seconds))
        figures.add(("words_per_minute",), lambda: (rate.words_per_minute(words, stretches),))
        for name in ("syllables_per_s", "jitter_percent", "shimmer_percent"):
            figures.add((name,), self._mean_of(name))
        names = (*_PITCH, *_PAUSES, "loudness_lufs", "loudness_deviation_db", "peak_dbfs", "words_per_minute",
                 "syllables_per_s", "jitter_percent", "shimmer_percent")  # fmt: skip
        return {
            **self._lengths(),
            **{name: _rounded(figures.values.get(name)) for name in names},
            "missing": figures.missing,
        }

    def _lengths(self) -> dict[str, Any]:
        duration = sum(voice.duration_s for voice in self.voices)
        speaking = sum(voice.speech_s for voice in self.voices)
        clipped = sum(voice.clipped_share * voice.duration_s for voice in self.voices)
        sure = sum(voice.confidence * voice.speech_s for voice in self.voices)
        silent = all(voice.label == "silence" for voice in self.voices)
        return {
            "label": "speech" if speaking else "silence" if silent else "no speech",
            "confidence": round(sure / speaking, 4) if speaking else None,
            "windows": len(self.voices),
            "duration_s": round(duration, 3),
            "speech_s": round(speaking, 3),
            "speech_share": round(min(1.0, speaking / duration), 4) if duration else 0.0,
            "clipped_share": round(clipped / duration, 6) if duration else 0.0,
        }

    def _pitch(self) -> Sequence[float]:
        hz = [cell for voice in self.voices for cell in voice.pitch_contour_hz or () if cell is not None]
        if not hz:
            raise Untold(self._why("pitch_median_hz"))
        low, median, high = (float(value) for value in np.percentile(hz, (5, 50, 95)))
        return median, low, high, 12 * float(np.log2(high / low))

    def _loudness(self) -> Sequence[float]:
        """As ITU-R BS.1770 has it, of the blocks of all windows."""
        heard = np.array([block for block in self._blocks if block >= loudness.GATE_LUFS])
        if not len(heard):
            raise Untold(f"below {loudness.GATE_LUFS:.0f} LUFS")
        integrated = _mean_level(heard[heard >= _mean_level(heard) - RELATIVE_GATE_LU])
        return integrated, loudness.deviation(loudness.Loudness(integrated, self._blocks))

    def _highest(self, name: str) -> float:
        found = [value for voice in self.voices if (value := getattr(voice, name)) is not None]
        if not found:
            raise Untold(self._why(name))
        return float(max(found))

    def _mean_of(self, name: str) -> Callable[[], Sequence[float]]:
        def mean() -> Sequence[float]:
            told = [voice for voice in self.voices if getattr(voice, name) is not None and voice.speech_s]
            if not told:
                raise Untold(self._why(name))
            seconds = sum(voice.speech_s for voice in told)
            return (sum(getattr(voice, name) * voice.speech_s for voice in told) / seconds,)

        return mean

    def _why(self, name: str) -> str:
        """The most frequent reason; of windows with speech, where there are any."""
        some = [voice for voice in self.voices if voice.speech_s] or self.voices
        reasons = Counter(voice.missing[name] for voice in some if name in voice.missing)
        return reasons.most_common(1)[0][0] if reasons else "no speech"


def _pauses(stretches: Sequence[Stretch], seconds: float) -> Sequence[float]:
    found = pauses.pauses(stretches, 0.0, seconds)
    talking = stretches[-1][1] - stretches[0][0]
    mean = found.share * talking / found.number if found.number else 0.0
    return found.number, found.share, found.longest_s, mean, MINUTE * found.number / talking


def _mean_level(blocks: Any) -> float:
    """Mean of powers, LUFS."""
    return float(10 * np.log10(np.mean(10 ** (np.asarray(blocks) / 10))))


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
