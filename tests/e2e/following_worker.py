"""A model for tests that remembers: it counts the frames that it has seen of each run."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from framemesh.inference import ModelWorker, WorkerSettings
from framemesh.messages import Finding, Found, Task
from framemesh.pictures import Image


class Following(ModelWorker[WorkerSettings]):
    """Gives every frame its number among those that this process has seen of the run."""

    kind = "FollowingInference"
    settings_type = WorkerSettings
    follows_sources = True

    def load(self) -> None:
        self.model_name = "following"
        self._seen: Counter[str] = Counter()

    def preprocess(self, image: Image) -> Any:
        return None

    def infer(self, batch: list[Any]) -> Sequence[Any]:
        time.sleep(0.02)
        return batch

    def postprocess(self, output: Any, height: int, width: int) -> Sequence[Found]:
        return [Finding(kind="following")]

    def track(self, found: list[Any], task: Task) -> Sequence[Any]:
        self._seen[f"{task.source}/{task.run}"] += 1
        data = {"pid": os.getpid(), "number": self._seen[f"{task.source}/{task.run}"]}
        return [finding.model_copy(update={"data": data}) for finding in found]
