"""The detection worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from framemesh import assets
from framemesh.inference import ModelWorker, WorkerSettings
from framemesh.messages import Found
from framemesh.pictures import Image
from services.detection.decoders import build, named


class DetectionSettings(WorkerSettings):
    """Settings of the detection worker."""

    detection_model: str = Field(
        "yolox-nano", description="yolox-nano or fastestdet; people-hog or face-haar, which need no weights"
    )
    detection_weights: str = Field("", description="Another ONNX file of the same shape, by name or path")
    detection_confidence: float | None = Field(
        None, ge=0, le=1, description="Least confidence; empty: the model's own"
    )


class DetectionInference(ModelWorker[DetectionSettings]):
    """Objects and their boxes."""

    kind = "DetectionInference"
    settings_type = DetectionSettings
    choices: ClassVar = {
        "yolox-nano": ("yolox-nano",),
        "fastestdet": ("fastestdet",),
        "people-hog": (),
        "face-haar": (),
    }
    chosen_by = "detection_model"
    min_size = 416

    def load(self) -> None:
        """Find the weights and build the detector."""
        settings = self.settings
        self.model_name = settings.detection_model
        path = None
        if named(self.model_name).needs_weights:
            weights = assets.resolve(settings.detection_weights or self.model_name)
            self.model_sha256, path = weights.sha256, weights.path
        self._detector = build(
            self.model_name,
            path,
            settings.inference_threads,
            settings.detection_confidence,
            settings.onnx_providers or None,
        )
        self.provider = self._detector.provider

    def preprocess(self, image: Image) -> Any:
        """As the detector wants it."""
        return self._detector.preprocess(image)

    def infer(self, batch: list[Any]) -> Sequence[Any]:
        """Run the detector."""
        return self._detector.infer(batch)

    def postprocess(self, output: Any, height: int, width: int) -> Sequence[Found]:
        """Boxes in pixels of the picture."""
        return self._detector.postprocess(output, (height, width))
