"""A model of ours for tests: slow on purpose, and it refuses frames when it is told to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from framemesh.inference import ModelWorker, WorkerSettings
from framemesh.messages import Classification, Found
from framemesh.pictures import Image
from framemesh.service import main


class SlowSettings(WorkerSettings):
    """How slow."""

    slow_seconds: float = 0.05
    slow_fails: bool = False


class SlowInference(ModelWorker[SlowSettings]):
    """Says how bright a frame is, after a while."""

    kind = "SlowInference"
    settings_type = SlowSettings

    def load(self) -> None:
        """There is nothing to load."""
        self.model_name = "slow"

    def preprocess(self, image: Image) -> Any:
        """Mean brightness, 0 to 1."""
        return float(image.mean()) / 255

    def infer(self, batch: list[Any]) -> Sequence[Any]:
        """Take its time."""
        time.sleep(self.settings.slow_seconds)
        if self.settings.slow_fails:
            raise RuntimeError("the model broke")
        return batch

    def postprocess(self, output: Any, height: int, width: int) -> Sequence[Found]:
        """One class."""
        return [Classification(label="bright", class_id=0, confidence=output)]


if __name__ == "__main__":
    main(SlowInference)
