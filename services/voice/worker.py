"""The voice worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from framemesh import assets
from framemesh.audio import Samples
from framemesh.errors import FramemeshError
from framemesh.inference import AudioWorker, WorkerSettings
from framemesh.messages import AudioTask, Found
from services.voice import pitch
from services.voice.measure import Choices, fault, measure
from services.voice.speech import SpeechDetector, weights


class VoiceSettings(WorkerSettings):
    """Settings of the voice worker."""

    voice_speech_threshold: float = Field(0.5, gt=0, lt=1, description="Least probability of speech")
    voice_pitch_low_hz: float = Field(65, ge=40, le=400, description="Lowest pitch that is looked for, Hz")
    voice_pitch_high_hz: float = Field(
        500, ge=100, le=1000, description="Highest pitch that is looked for, Hz; twice the lowest or more"
    )
    voice_pause_s: float = Field(0.2, ge=0.05, le=5, description="Shortest silence that is a pause, seconds")


class VoiceInference(AudioWorker[VoiceSettings]):
    """How somebody speaks in a window of sound, and for how long."""

    kind = "VoiceInference"
    settings_type = VoiceSettings
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"silero-pyin": ()}

    def load(self) -> None:
        """Find the weights, and get librosa ready."""
        settings = self.settings
        self._choices = choices(settings)
        path = weights()
        pitch.warm_up()
        self._detector = SpeechDetector(path, threads=settings.inference_threads)
        self.model_name, self.model_sha256 = "silero-pyin", assets.file_sha256(path)

    def preprocess(self, samples: Samples, task: AudioTask) -> Any:
        """Nothing to prepare."""
        return samples

    def infer(self, batch: list[Any]) -> Sequence[Any]:
        """Where speech is likely, window by window: the model is recurrent."""
        return [(s, self._detector.probabilities(s[:0] if fault(s) else s)) for s in batch]

    def postprocess(self, output: Any, task: AudioTask) -> Sequence[Found]:
        """One finding a window."""
        samples, probabilities = output
        return [
            measure(
                samples,
                start=task.timestamp,
                probabilities=probabilities,
                overlap=task.overlap,
                tail=task.tail,
                words=task.words,
                choices=self._choices,
            )
        ]


def choices(settings: VoiceSettings) -> Choices:
    """What the settings say about the figures. Raises FramemeshError."""
    low, high = settings.voice_pitch_low_hz, settings.voice_pitch_high_hz
    if high < 2 * low:
        raise FramemeshError(f"setting voice_pitch_high_hz: want {2 * low:g} or more, twice voice_pitch_low_hz")
    return Choices(
        speech_threshold=settings.voice_speech_threshold,
        pitch_low_hz=low,
        pitch_high_hz=high,
        pause_s=settings.voice_pause_s,
    )
