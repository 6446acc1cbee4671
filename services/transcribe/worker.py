"""The transcription worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from framemesh.audio import Samples
from framemesh.inference import AudioWorker, WorkerSettings
from framemesh.messages import AudioTask, Found, Segment
from services.transcribe.engine import Engine, Listening, moved
from services.transcribe.memory import Memory


class TranscribeSettings(WorkerSettings):
    """Settings of the transcription worker."""

    transcribe_model: str = Field(
        "tiny.en",
        min_length=1,
        max_length=4096,
        description="Whisper model: a name of faster-whisper's, or a folder of files for CTranslate2",
    )
    transcribe_device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto, cpu or cuda; the CPU where there is no GPU"
    )
    transcribe_compute: str = Field(
        "auto",
        pattern=r"^[a-z0-9_]+$",
        description="Type to compute in, e.g. int8; auto: int8 or, on a GPU, float16",
    )
    transcribe_language: str = Field(
        "",
        pattern=r"^([a-z]{2,3})?$",
        description="Language that is spoken, e.g. en; empty: the model finds out for each window",
    )
    transcribe_vad: bool = Field(True, description="Only transcribe where Silero VAD hears speech")
    transcribe_hot_words: str = Field(
        "", max_length=1000, description="Words to expect, e.g. names, separated by spaces"
    )
    transcribe_beam: int = Field(5, ge=1, le=20, description="Hypotheses that are followed; 1 is the fastest")


class TranscribeInference(AudioWorker[TranscribeSettings]):
    """What is said in each audio window, word by word; windows that overlap are stitched."""

    kind = "TranscribeInference"
    settings_type = TranscribeSettings
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"tiny.en": ()}
    chosen_by = "transcribe_model"

    async def prepare(self) -> None:
        """Load the model, and know where the ends of windows are remembered."""
        self._memory = Memory(self.registry.redis, self.kind)
        await super().prepare()

    def load(self) -> None:
        """Find the model and load it."""
        self._engine = engine_of(self.settings)
        self.model_name, self.model_sha256 = self._engine.name, self._engine.sha256
        self.provider = self._engine.device

    def preprocess(self, samples: Samples, task: AudioTask) -> Any:
        """As it is: the engine makes its own spectrograms."""
        return samples

    def infer(self, batch: list[Any]) -> Sequence[Any]:
        """Transcribe one window after the other; a batch gains nothing where a window is less than 30 seconds."""
        return [self._engine.transcribe(samples) for samples in batch]

    def postprocess(self, output: Any, task: AudioTask) -> Sequence[Found]:
        """Segments, in seconds since the epoch."""
        return [moved(segment, task.timestamp) for segment in output]

    async def refine(self, found: list[Found], task: AudioTask) -> list[Found]:
        """Without the words that the windows before or after have given."""
        segments = [item for item in found if isinstance(item, Segment)]
        return [*await self._memory.stitched(segments, task)]


def engine_of(settings: TranscribeSettings) -> Engine:
    """The model that the settings ask for. Raises FramemeshError."""
    return Engine(
        settings.transcribe_model,
        Listening(
            language=settings.transcribe_language,
            vad=settings.transcribe_vad,
            hot_words=settings.transcribe_hot_words,
            beam=settings.transcribe_beam,
        ),
        device=settings.transcribe_device,
        compute=settings.transcribe_compute,
        threads=settings.inference_threads,
    )
