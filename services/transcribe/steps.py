"""``python -m services.transcribe.steps``: transcribes whole sounds, as steps of jobs.

The functions are in ``whole``: a module that is run has another name, under which no process finds them.
"""

from __future__ import annotations

import asyncio

from pydantic import Field

from framemesh.service import main
from framemesh.steps.functions import functions_of
from framemesh.steps.worker import StepSettings, StepWorker
from services.transcribe.weights import find_model
from services.transcribe.worker import TranscribeSettings


class TranscribeStepSettings(StepSettings, TranscribeSettings):
    """Settings of the transcription's steps."""

    step_concurrency: int = Field(
        2, ge=1, le=1000, description="Most sounds at a time; each has a process and a model of its own"
    )


class TranscribeSteps(StepWorker[TranscribeStepSettings]):
    """What is said in whole sounds."""

    kind = "TranscribeSteps"
    settings_type = TranscribeStepSettings
    functions = tuple(functions_of("services.transcribe.whole"))

    async def prepare(self) -> None:
        """Have the model here before a job asks for it."""
        await asyncio.to_thread(find_model, self.settings.transcribe_model)
        await super().prepare()


if __name__ == "__main__":
    main(TranscribeSteps)
