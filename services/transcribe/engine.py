"""Whisper (Radford et al., arXiv:2212.04356) as faster-whisper and CTranslate2 run it: sound in, words out."""

from __future__ import annotations

import ctypes
import logging
import math
import statistics
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from framemesh.assets import file_sha256
from framemesh.audio import RATE, Samples
from framemesh.errors import FramemeshError
from framemesh.messages import MOST_FOUND, Segment, Word
from services.transcribe.weights import find_model

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.transcribe import Segment as Passage

log = logging.getLogger(__name__)

# Sampling at more heat takes as long again each time, and rarely gives what was said.
TEMPERATURES = (0.0, 0.2, 0.4)
NO_SPEECH = 0.6
LOG_PROB = -1.0
COMPRESSION = 2.4
SILENCE_AROUND_S = 1.0
SEED = 1
"""Sampling begins here for every window, so that the same sound gives the same words."""
LEAST_WORD_S = 0.06
LEAST_CONFIDENCE = 0.5
REST_S = 1.0
"""What is left after the last word is listened to again, if it is longer."""


@dataclass(frozen=True)
class Listening:
    """How to listen: see the settings of the same names."""

    language: str = ""
    vad: bool = True
    hot_words: str = ""
    beam: int = 5


class Engine:
    """A Whisper model and how it listens. Not for several threads at once.

    ``model`` is a name or a folder of CTranslate2 files. ``device`` is auto, cpu or cuda; without a GPU that works
    it is the CPU. ``compute`` is a type of CTranslate2, or auto: int8 on the CPU, float16 on the GPU. Raises
    FramemeshError for a model that cannot be had or a language that it does not know.
    """

    def __init__(
        self, model: str, listening: Listening, *, device: str = "auto", compute: str = "auto", threads: int = 1
    ) -> None:
        folder = find_model(model)
        self.name = model if not Path(model).is_dir() else Path(model).resolve().name
        self.sha256 = file_sha256(folder / "model.bin")
        self._listening = listening
        self._model, self.device = _load(folder, device, compute, threads)
        self._language = _language(self._model, model, listening.language)

    def transcribe(self, samples: Samples) -> list[Segment]:
        """What is said in mono sound of 16 kHz; times in seconds from its beginning."""
        segments: list[Segment] = []
        at = 0
        while samples.size - at > (REST_S * RATE if at else 0):
            passages, language, probability = self._listen(samples[at:])
            heard = (_segment(passage, language, probability) for passage in passages)
            segments += [moved(segment, at / RATE) for segment in heard if segment is not None]
            # Whisper may stop at the end of a sentence and skip what follows.
            end = round(passages[-1].end * RATE) if passages else 0
            if not end or not self._listening.vad:
                break
            at += end
        return segments[:MOST_FOUND]

    def _listen(self, samples: Samples) -> tuple[list[Passage], str, float | None]:
        """What the model hears, the language, and its probability where it was not given."""
        import ctranslate2  # noqa: PLC0415

        ctranslate2.set_random_seed(SEED)
        passages, info = self._model.transcribe(
            samples,
            language=self._language,
            beam_size=self._listening.beam,
            temperature=TEMPERATURES,
            no_speech_threshold=NO_SPEECH,
            log_prob_threshold=LOG_PROB,
            compression_ratio_threshold=COMPRESSION,
            condition_on_previous_text=False,  # one mistake would repeat itself
            word_timestamps=True,
            hallucination_silence_threshold=SILENCE_AROUND_S,
            vad_filter=self._listening.vad,
            hotwords=self._listening.hot_words or None,
        )
        return list(passages), info.language, info.language_probability if self._language is None else None


def _load(folder: Path, device: str, compute: str, threads: int) -> tuple[WhisperModel, str]:
    if _wants_gpu(device):
        load_cublas()
        try:
            return _model(folder, "cuda", compute, threads), "cuda"
        except Exception as error:  # of a driver, a library or the memory: CTranslate2 has one for each
            fix = "; pip install nvidia-cublas-cu12" if "libcublas" in str(error) else ""
            log.warning("transcribe_device: the GPU cannot be used, the CPU is: %s%s", error, fix)
    try:
        return _model(folder, "cpu", compute, threads), "cpu"
    except Exception as error:
        raise FramemeshError(
            f"setting transcribe_model: {folder} cannot be loaded: {error}; "
            "give a folder of Whisper files for CTranslate2, or check transcribe_compute"
        ) from error


def load_cublas() -> None:
    """Load cuBLAS from its Python package, where no loader looks: CTranslate2 then finds it by its name."""
    package = find_spec("nvidia")
    for place in (package and package.submodule_search_locations) or ():
        for library in Path(place).glob("cublas/lib/libcublas.so.*"):
            with suppress(OSError):  # CTranslate2 says what it misses
                ctypes.CDLL(str(library))


def _wants_gpu(device: str) -> bool:
    import ctranslate2  # noqa: PLC0415 - takes long to import, and only a worker that loads needs it

    return device == "cuda" or (device == "auto" and ctranslate2.get_cuda_device_count() > 0)


def _model(folder: Path, device: str, compute: str, threads: int) -> WhisperModel:
    from faster_whisper import WhisperModel  # noqa: PLC0415

    if compute == "auto":
        compute = "float16" if device == "cuda" else "int8"
    model = WhisperModel(str(folder), device=device, compute_type=compute, cpu_threads=threads)
    # The GPU's libraries are looked for at the first sound, not when the model is loaded.
    list(model.transcribe(np.zeros(RATE, np.float32), language="en", beam_size=1, temperature=0)[0])
    return model


def _language(model: WhisperModel, name: str, language: str) -> str | None:
    """The language to listen for; None: the model finds out, window by window."""
    known = model.supported_languages
    if language and language not in known:
        few = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")  # noqa: PLR2004
        raise FramemeshError(f"setting transcribe_language: {name} does not know {language!r}; it knows {few}")
    return language or (known[0] if len(known) == 1 else None)


# -- from faster-whisper's passages to segments -------------------------------------------------------


def _segment(passage: Passage, language: str, probability: float | None) -> Segment | None:
    """A passage as a segment; None when it is more likely the model's invention than somebody's words."""
    words = [word for each in passage.words or [] if (word := _word(each)) is not None]
    if not words or _invented(passage, words):
        return None
    return Segment(
        confidence=_share(math.exp(passage.avg_logprob)),
        text=passage.text.strip()[:8192],
        start=words[0].start,
        end=words[-1].end,
        language=language,
        language_confidence=None if probability is None else _share(probability),
        words=words[:MOST_FOUND],
    )


def _word(word: Any) -> Word | None:
    text = word.word.strip()[:256]
    if not text:
        return None
    start, end = round(float(word.start), 3), round(float(word.end), 3)
    return Word(text=text, start=start, end=max(start, end), confidence=_share(word.probability))


def _invented(passage: Passage, words: list[Word]) -> bool:
    """Words from silence, or a loop: the same words again and again, faster than anybody speaks."""
    if passage.no_speech_prob > NO_SPEECH and passage.avg_logprob < LOG_PROB / 2:
        return True
    crammed = statistics.median(word.end - word.start for word in words) < LEAST_WORD_S
    doubted = statistics.fmean(word.confidence for word in words) < LEAST_CONFIDENCE
    return crammed or (doubted and passage.compression_ratio > COMPRESSION)


def moved(segment: Segment, by: float) -> Segment:
    """The segment ``by`` seconds later."""
    words = [word.model_copy(update={"start": word.start + by, "end": word.end + by}) for word in segment.words]
    return segment.model_copy(update={"start": segment.start + by, "end": segment.end + by, "words": words})


def _share(value: float) -> float:
    return round(min(1.0, max(0.0, float(value))), 4)
