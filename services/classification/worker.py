"""The classification worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from framemesh import assets
from framemesh.inference import ModelWorker, WorkerSettings
from framemesh.messages import Found
from framemesh.pictures import Image
from services.classification.decoder import Classifier


class ClassificationSettings(WorkerSettings):
    """Settings of the classification worker."""

    classification_model: str = Field("squeezenet", description="Weights, by name or path")
    classification_labels: str = Field("squeezenet-labels", description="Class names, by name or path")
    classification_top: int = Field(3, ge=1, le=1000, description="Most classes a picture")
    classification_confidence: float = Field(0.05, ge=0, le=1, description="Least confidence of a class")


class ClassificationInference(ModelWorker[ClassificationSettings]):
    """What a whole frame shows, or each region of it when it follows a detector."""

    kind = "ClassificationInference"
    settings_type = ClassificationSettings
    choices: ClassVar = {"squeezenet": ("squeezenet", "squeezenet-labels")}
    chosen_by = "classification_model"
    min_size = 256

    def load(self) -> None:
        """Find the weights and the class names."""
        settings = self.settings
        weights = assets.resolve(settings.classification_model)
        labels = assets.resolve(settings.classification_labels)
        self.model_name, self.model_sha256 = weights.name, weights.sha256
        self._classifier = Classifier(
            weights.path,
            labels.path,
            threads=settings.inference_threads,
            top=settings.classification_top,
            confidence=settings.classification_confidence,
            providers=settings.onnx_providers or None,
        )
        self.provider = self._classifier.model.provider

    def preprocess(self, image: Image) -> Any:
        """As the classifier wants it."""
        return self._classifier.preprocess(image)

    def infer(self, batch: list[Any]) -> Sequence[Any]:
        """Run the classifier."""
        return self._classifier.infer(batch)

    def postprocess(self, output: Any, height: int, width: int) -> Sequence[Found]:
        """Classes, best first."""
        return self._classifier.postprocess(output, (height, width))
