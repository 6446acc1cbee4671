"""How bright a picture is: a model worker in a page.

``framemesh worker examples.brightness:Brightness`` runs it beside a mesh that ``framemesh up`` started.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from framemesh.inference import ModelWorker, WorkerSettings
from framemesh.messages import Finding
from framemesh.pictures import Image


class BrightnessSettings(WorkerSettings):
    """What can be set in the environment or in ``.env``, beside what every worker has."""

    brightness_least: float = Field(0.5, ge=0, le=1, description="Least mean brightness that counts as bright")


class Brightness(ModelWorker[BrightnessSettings]):
    """Says of each frame, or of each region of it, whether it is dark or bright."""

    kind = "BrightnessInference"  # the queue it works off, and the name in its results
    settings_type = BrightnessSettings
    min_size = 64  # larger frames are decoded at half or a quarter of their size, which is faster

    def load(self) -> None:
        """Load the weights, once; here are none. The name is what heartbeats and results carry."""
        self.model_name = "brightness"

    def preprocess(self, image: Image) -> Any:
        """Take a picture, BGR uint8, [height, width, 3]: its mean, 0 to 1."""
        return float(image.mean()) / 255

    def infer(self, batch: list[Any]) -> Sequence[Any]:
        """Run the model on what ``preprocess`` gave: one output for each, in order."""
        return batch

    def postprocess(self, output: Any, height: int, width: int) -> Sequence[Finding]:
        """Say what one output means. ``data`` may hold anything that is JSON."""
        label = "bright" if output >= self.settings.brightness_least else "dark"
        return [Finding(kind="brightness", label=label, data={"mean": round(output, 3)})]
