"""All figures of one window: samples and probabilities of speech in, one finding out. Keeps no state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from framemesh.audio import RATE, Samples
from framemesh.messages import Voice, Word
from services.voice import loudness, pauses, perturbation, pitch, rate, speech
from services.voice.sound import Stretch, clipped, decibels, length
from services.voice.untold import Figures, Untold

SILENCE_DBFS = -60.0
LEVEL_S = 0.4
MOST_CLIPPED = 0.001

_PITCH = ("pitch_median_hz", "pitch_low_hz", "pitch_high_hz", "pitch_range_semitones")
_PAUSES = ("pauses", "pause_share", "longest_pause_s")
_PERTURBATION = ("jitter_percent", "shimmer_percent")
_OF_VOICE = (*_PITCH, "pitch_contour_hz", "syllables_per_s", *_PERTURBATION)
_OF_SPEECH = (*_OF_VOICE, *_PAUSES, "words_per_minute")
_OF_SOUND = ("loudness_lufs", "loudness_deviation_db", "peak_dbfs")


@dataclass(frozen=True)
class Choices:
    """What a user may choose about the figures."""

    speech_threshold: float = 0.5
    pitch_low_hz: float = 65.0
    pitch_high_hz: float = 500.0
    pause_s: float = 0.2


DEFAULT = Choices()


def fault(samples: Samples) -> str:
    """Why nothing at all can be measured on ``samples``, or nothing."""
    if not len(samples):
        return "no samples"
    return "" if np.isfinite(samples).all() else "samples that are not numbers"


def measure(
    samples: Samples,
    *,
    start: float,
    probabilities: Samples,
    overlap: float = 0.0,
    tail: float = 0.0,
    words: Sequence[Word] | None = None,
    choices: Choices = DEFAULT,
) -> Voice:
    """How somebody speaks in ``samples``, float32 [n], mono, 16 kHz. Whatever is in them, it raises nothing.

    ``probabilities`` [ceil(n / 512)] are those of speech in each 32 ms; none are needed for samples that have a
    ``fault``. All figures are about what follows the first ``overlap`` seconds; those are listened to only for
    what goes on from them. Only ``words`` count from the beginning on, without the last ``tail`` seconds: a
    transcription leaves what is said there to the next window. ``start`` is the time of the first sample, seconds
    since the epoch. Samples beyond full scale count as cut off.
    """
    own_begin = min(round(overlap * RATE), len(samples))
    if reason := fault(samples) or ("nothing but overlap" if own_begin == len(samples) else ""):
        return _nothing(reason, duration_s=(len(samples) - own_begin) / RATE)
    window = _Window(
        samples=np.clip(samples, -1, 1).astype(np.float32),
        own_begin=own_begin,
        tail=tail,
        start=start,
        probabilities=probabilities,
        words=None if words is None else len(words),
        choices=choices,
    )
    return window.voice()


@dataclass(frozen=True)
class _Window:
    """A window that can be measured; its own part is what no window before it had."""

    samples: Samples
    own_begin: int
    tail: float
    start: float
    probabilities: Samples
    words: int | None
    choices: Choices

    @property
    def begin(self) -> float:
        return self.own_begin / RATE

    @property
    def end(self) -> float:
        return len(self.samples) / RATE

    @property
    def own(self) -> Samples:
        return self.samples[self.own_begin :]

    def voice(self) -> Voice:
        silent = _level(self.own) < SILENCE_DBFS
        stretches = [] if silent else self.stretches()
        spoken = clipped(stretches, self.begin, self.end)
        figures = Figures()
        self.add_loudness(figures)
        if spoken:
            self.add_speech(figures, stretches)
        else:
            figures.missing.update(dict.fromkeys(_OF_SPEECH, "silence" if silent else "no speech"))
        duration, speaking = self.end - self.begin, length(spoken)
        return Voice(
            label="speech" if spoken else "silence" if silent else "no speech",
            confidence=round(1.0 if silent else self.confidence(spoken), 4),
            duration_s=round(duration, 4),
            speech_s=round(speaking, 4),
            speech_share=round(min(1.0, speaking / duration), 4),
            speech=[(round(self.start + begin, 4), round(self.start + end, 4)) for begin, end in spoken],
            clipped_share=round(loudness.clipped_share(self.own), 6),
            missing=figures.missing,
            **{name: _rounded(value) for name, value in figures.values.items()},
        )

    def stretches(self) -> list[Stretch]:
        return speech.stretches(
            self.samples,
            self.probabilities,
            threshold=self.choices.speech_threshold,
            pause_s=self.choices.pause_s,
        )

    def confidence(self, spoken: Sequence[Stretch]) -> float:
        """Mean probability of speech in the stretches of speech; without any, of its absence."""
        said = [self.said(begin, end) for begin, end in spoken or [(self.begin, self.end)]]
        mean = float(np.concatenate(said).mean())
        return mean if spoken else 1 - mean

    def said(self, begin: float, end: float) -> Samples:
        """The probabilities of the chunks that lie between, or touch."""
        return self.probabilities[int(begin / speech.CHUNK_S) : int(np.ceil(end / speech.CHUNK_S))]

    def add_loudness(self, figures: Figures) -> None:
        try:
            loud = loudness.loudness(self.own)
        except Untold as reason:
            figures.missing.update(dict.fromkeys(("loudness_lufs", "loudness_deviation_db"), str(reason)))
        else:
            figures.values["loudness_lufs"] = loud.integrated
            figures.add(("loudness_deviation_db",), lambda: (loudness.deviation(loud),))
        figures.add(("peak_dbfs",), lambda: (loudness.peak_dbfs(self.own),))

    def add_speech(self, figures: Figures, stretches: Sequence[Stretch]) -> None:
        begin, end = self.begin, self.end
        low, high = self.choices.pitch_low_hz, self.choices.pitch_high_hz
        track = pitch.track(self.samples, stretches, low_hz=low, high_hz=high)
        own = track.between(begin, end)
        figures.add(
            ("words_per_minute",),
            lambda: (rate.words_per_minute(self.words, clipped(stretches, 0, end - self.tail)),),
        )
        figures.add(_PAUSES, lambda: pauses.pauses(stretches, begin, end))
        try:
            pitch.check_voiced(own, length(clipped(stretches, begin, end)))
        except Untold as reason:
            figures.missing.update(dict.fromkeys(_OF_VOICE, str(reason)))
            return
        nuclei = rate.nuclei(self.samples, stretches, track)
        figures.add(_PITCH, lambda: pitch.pitch(own))
        figures.add(("pitch_contour_hz",), lambda: (pitch.contour(own, begin, end),))
        figures.add(("syllables_per_s",), lambda: (rate.syllables_per_s(nuclei, stretches, begin, end),))
        figures.add(_PERTURBATION, lambda: self.perturbation(own))

    def perturbation(self, track: pitch.Track) -> perturbation.Perturbation:
        if loudness.clipped_share(self.own) > MOST_CLIPPED:
            raise Untold("clipped")
        return perturbation.perturbation(self.samples, track)


def _nothing(reason: str, *, duration_s: float) -> Voice:
    return Voice(
        label="no speech",
        confidence=0,
        duration_s=duration_s,
        speech_s=0,
        speech_share=0,
        speech=[],
        missing=dict.fromkeys((*_OF_SPEECH, *_OF_SOUND), reason),
    )


def _level(samples: Samples) -> float:
    """Of the loudest 0.4 s, dBFS, without the recorder's offset: a word in a long silence is no silence."""
    width = min(len(samples), round(LEVEL_S * RATE))
    squares = np.square(samples - samples.mean(dtype=np.float64))
    parts = np.array_split(squares, max(1, len(samples) // width))
    return float(decibels(np.array([part.mean() for part in parts])).max())


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
