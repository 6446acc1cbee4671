"""Where somebody speaks: probabilities from Silero VAD, stretches from them and the level."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from framemesh.audio import RATE, Samples
from framemesh.errors import FramemeshError
from framemesh.onnx import open_session
from services.voice.sound import Stretch, Values, decibels, joined, power, runs

CHUNK = 512
CONTEXT = 64
STATE = 128
CHUNK_S = CHUNK / RATE

HYSTERESIS = 0.15
"""How far the probability may fall below the threshold within speech, as in Silero's own code."""
PAD_S = 2 * CHUNK_S
"""Speech begins up to so long before the model is sure; the level finds the edge again."""
SILENCE_DB = 25.0
"""Below the loud parts of a stretch by this is silence (de Jong & Wempe 2009, doi:10.3758/BRM.41.2.385)."""
LOUD_PERCENTILE = 99
WIDTH_S, HOP_S = 0.02, 0.005
LEAST_SOUND_S = 0.03
LEAST_SPEECH_S = 0.1


class SpeechDetector:
    """Silero VAD v6 (github.com/snakers4/silero-vad, MIT), the ONNX file that faster-whisper carries.

    Takes [n, 576] chunks, each with the last 64 samples of the one before, and the state of an LSTM; gives [n]
    probabilities. Raises FramemeshError for a file that is missing or does not fit.
    """

    name = "silero_vad_v6.onnx"

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        self.session = open_session(path, threads, ["cpu"])  # a chunk is too small for anything else
        shapes = {value.name: value.shape[1:] for value in self.session.get_inputs()}
        if shapes != {"input": [CHUNK + CONTEXT], "h": [1, STATE], "c": [1, STATE]}:
            raise FramemeshError(f"model file {path} is not Silero VAD v6 for 16 kHz (its inputs are {shapes})")

    def probabilities(self, samples: Samples) -> Samples:
        """Probability of speech in each 32 ms of ``samples`` [n], shape [ceil(n / 512)]. Finite samples only."""
        if not len(samples):
            return np.zeros(0, np.float32)
        chunks = np.pad(samples, (0, -len(samples) % CHUNK)).astype(np.float32).reshape(-1, CHUNK)
        before = np.zeros((len(chunks), CONTEXT), np.float32)
        before[1:] = chunks[:-1, -CONTEXT:]
        state = np.zeros((1, 1, STATE), np.float32)
        given = {"input": np.hstack((before, chunks)), "h": state, "c": state}
        return np.asarray(self.session.run(["speech_probs"], given)[0], np.float32).reshape(-1)


def weights() -> Path:
    """The model file in the installed faster-whisper, which is not imported. Raises FramemeshError."""
    spec = find_spec("faster_whisper")
    roots = (spec.submodule_search_locations if spec else None) or []
    for path in (Path(root) / "assets" / SpeechDetector.name for root in roots):
        if path.is_file():
            return path
    raise FramemeshError(
        f"{SpeechDetector.name} comes with the Python package faster-whisper 1.2.1, which is not installed: "
        "run `pip install 'framemesh[voice]'`"
    )


def stretches(samples: Samples, probabilities: Samples, *, threshold: float, pause_s: float) -> list[Stretch]:
    """Stretches of speech, seconds from the first of ``samples`` [n], with at least ``pause_s`` between them.

    ``probabilities`` [ceil(n / 512)] say where speech is, to 32 ms; the level says where it begins, ends and
    stops within, to 5 ms, unless noise fills the gaps.
    """
    if not len(samples):
        return []
    levels = decibels(power(samples, WIDTH_S, HOP_S))
    whole = len(samples) / RATE
    spoken = [
        (max(0.0, begin * CHUNK_S - PAD_S), min(whole, end * CHUNK_S + PAD_S))
        for begin, end in _likely(probabilities, threshold)
    ]
    found = [sound for stretch in joined(spoken, 0) for sound in _sounds(levels, stretch, pause_s)]
    return _longer(joined(found, pause_s), LEAST_SPEECH_S, (0.0, whole))


def _likely(probabilities: Samples, threshold: float) -> list[tuple[int, int]]:
    """Runs that stay above the lower threshold and reach the upper one."""
    lower = max(threshold - HYSTERESIS, 0.01)
    within = runs(probabilities >= lower)
    return [(begin, end) for begin, end in within if probabilities[begin:end].max() >= threshold]


def _sounds(levels: Values, stretch: Stretch, pause_s: float) -> list[Stretch]:
    """The stretch without silence at its ends and without silences of ``pause_s`` in it."""
    first, last = round(stretch[0] / HOP_S), round(stretch[1] / HOP_S)
    part = levels[first : last + 1]
    # A frame that only touches a sound is loud already: draw the edges in by half of its width.
    half = WIDTH_S / 2
    sounds = [
        (
            (first + begin) * HOP_S + half if begin else stretch[0],
            (first + end - 1) * HOP_S - half if end < len(part) else stretch[1],
        )
        for begin, end in runs(part > np.percentile(part, LOUD_PERCENTILE) - SILENCE_DB)
    ]
    return _longer(joined(sounds, pause_s), LEAST_SOUND_S, stretch)


def _longer(stretches: list[Stretch], least_s: float, within: Stretch) -> list[Stretch]:
    """Those of ``least_s`` or more, and those that an edge may have cut short."""
    return [
        (begin, end)
        for begin, end in stretches
        if end - begin >= least_s or begin <= within[0] or end >= within[1]
    ]
