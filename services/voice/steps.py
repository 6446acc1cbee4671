"""``python -m services.voice.steps``: measures whole sounds, as steps of jobs.

The functions are in ``whole``: a module that is run has another name, under which no process finds them.
"""

from __future__ import annotations

from pydantic import Field

from framemesh.service import main
from framemesh.steps.functions import functions_of
from framemesh.steps.worker import StepSettings, StepWorker
from services.voice.worker import VoiceSettings, choices


class VoiceStepSettings(StepSettings, VoiceSettings):
    """Settings of the voice's steps."""

    step_concurrency: int = Field(2, ge=1, le=1000, description="Most sounds at a time; each has its own process")


class VoiceSteps(StepWorker[VoiceStepSettings]):
    """How somebody speaks in whole sounds."""

    kind = "VoiceSteps"
    settings_type = VoiceStepSettings
    functions = tuple(functions_of("services.voice.whole"))

    async def prepare(self) -> None:
        """Refuse choices that cannot be, before a job meets them."""
        choices(self.settings)
        await super().prepare()


if __name__ == "__main__":
    main(VoiceSteps)
