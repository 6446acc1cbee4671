"""A model of ours for tests that misbehaves on the frames it is told to."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from typing import Any

from framemesh.inference import ModelWorker, WorkerSettings
from framemesh.messages import Finding, Found, Task
from framemesh.pictures import Image


class BadSettings(WorkerSettings):
    """What it does, and on which frame of a run."""

    bad_how: str = ""
    bad_seq: int = 5


class Bad(ModelWorker[BadSettings]):
    """Gives every frame a finding, but one."""

    kind = "BadInference"
    settings_type = BadSettings

    def load(self) -> None:
        self.model_name = "bad"
        self._seen: list[bytes] = []

    def preprocess(self, image: Image) -> Any:
        return float(image.mean())

    def infer(self, batch: list[Any]) -> Sequence[Any]:
        return batch

    def postprocess(self, output: Any, height: int, width: int) -> Sequence[Found]:
        return [Finding(kind="mean", data={"mean": output})]

    def track(self, found: list[Any], task: Task) -> Sequence[Any]:
        if task.seq == self.settings.bad_seq:
            getattr(self, self.settings.bad_how)()
        return found

    def fail(self) -> None:
        raise ValueError("no idea what this is")

    def hang(self) -> None:
        time.sleep(3600)

    def hold(self) -> None:
        """Never lets go of the interpreter, as a bad C extension may."""
        re.match(r"(a|a)*b", "a" * 60)

    def eat(self) -> None:
        while True:
            self._seen.append(os.urandom(1 << 20) * 16)
            time.sleep(0.01)

    def die(self) -> None:
        os._exit(9)
