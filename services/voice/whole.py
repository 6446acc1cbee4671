"""``voice-analysis``: how somebody speaks in a whole sound, as a step of a job."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from framemesh import mediafile
from framemesh.audio import RATE, Cut, Samples, Windower
from framemesh.messages import Voice
from framemesh.settings import load
from framemesh.steps.context import Context
from framemesh.steps.files import named_file
from framemesh.steps.functions import step
from services.voice.measure import Choices, fault, measure
from services.voice.speech import SpeechDetector, weights
from services.voice.summary import Summary
from services.voice.worker import VoiceSettings, choices

LONGEST_S = 6 * 3600.0
WINDOW_S = 15.0
OVERLAP_S = 1.0
CONTEXT_S = 1.0
"""The detector of speech misses a word that it hears first of all."""


@step("voice-analysis", timeout=LONGEST_S, process=True)
async def voice_analysis(ctx: Context, given: Any) -> Any:
    """Measure how somebody speaks in ``audio``, the address of a stored sound of any length.

    ``words``, where the input has it, is how many words a transcription has. Gives figures of the whole, and in
    ``timeline`` the address of those of each window, in seconds from the beginning.
    """
    audio = await named_file(ctx, given, "audio")
    of = mediafile.seconds(audio) or 0.0
    settings = load(VoiceSettings)
    chosen = choices(settings)
    detector = SpeechDetector(weights(), threads=settings.inference_threads)
    whole = Summary(chosen)
    for cut in windows(mediafile.sound(audio)):
        whole.add(cut, _measured(cut, detector, chosen))
        share = min(1.0, whole.seconds / max(of, whole.seconds, 1e-3))
        await ctx.progress(99 * share, f"{whole.seconds:.0f} of {max(of, whole.seconds):.0f} s")
    timeline = [voice.model_dump(mode="json", exclude={"kind"}) for voice in whole.voices]
    kept = await ctx.put(json.dumps({"windows": timeline, "speech": whole.stretches()}).encode(), "voice.json")
    return whole.summary(_words(given)) | {"timeline": kept}


def _measured(cut: Cut, detector: SpeechDetector, chosen: Choices) -> Voice:
    samples = cut.samples
    return measure(
        samples,
        start=cut.begin / RATE,
        probabilities=detector.probabilities(samples[:0] if fault(samples) else samples),
        overlap=cut.overlap_s,
        tail=cut.tail_s,
        choices=chosen,
    )


def windows(sound: Iterable[Samples]) -> Iterator[Cut]:
    """The sound cut at silence, one window in memory at a time; each begins with the end of the one before."""
    before = np.empty(0, np.float32)
    for cut in _cuts(sound):
        if cut.overlap_s:
            yield cut
        else:
            heard = np.concatenate((before, cut.samples))
            yield Cut(cut.begin - len(before), heard, len(before) / RATE, cut.tail_s)
        before = cut.samples[-round(CONTEXT_S * RATE) :]


def _cuts(sound: Iterable[Samples]) -> Iterator[Cut]:
    windower = Windower(WINDOW_S, OVERLAP_S)
    for samples in sound:
        yield from windower.add(samples)
    yield from windower.finish()


def _words(given: Any) -> int | None:
    words = given.get("words")
    return words if isinstance(words, int) else None
