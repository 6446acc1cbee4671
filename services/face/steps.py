"""``python -m services.face.steps``: looks at whole videos, as steps of jobs.

The functions are in ``whole``: a module that is run has another name, under which no process finds them.
"""

from __future__ import annotations

import asyncio

from framemesh import assets
from framemesh.service import main
from framemesh.steps.functions import functions_of
from framemesh.steps.worker import StepWorker
from services.face.analyzer import WEIGHTS, wanted
from services.face.whole import FaceStepSettings


class FaceSteps(StepWorker[FaceStepSettings]):
    """What the faces of whole videos show."""

    kind = "FaceSteps"
    settings_type = FaceStepSettings
    functions = tuple(functions_of("services.face.whole"))

    async def prepare(self) -> None:
        """Have the models here before a job asks for them."""
        parts = wanted(self.settings.face_parts)
        for name in ("yunet", *(name for part in parts for name in WEIGHTS[part])):
            await asyncio.to_thread(assets.resolve, name)
        await super().prepare()


if __name__ == "__main__":
    main(FaceSteps)
