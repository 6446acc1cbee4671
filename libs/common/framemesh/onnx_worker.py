"""A model worker that needs no code: a short YAML describes the model (``examples/README.md``).

``framemesh worker model.yaml`` runs it, as does ``MODEL_FILE=model.yaml python -m framemesh.onnx_worker``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, create_model

from framemesh.decoders.files import files_of, read_spec
from framemesh.decoders.model import SpecModel
from framemesh.decoders.spec import Spec
from framemesh.inference import ModelWorker, WorkerSettings
from framemesh.messages import Found
from framemesh.pictures import Image
from framemesh.service import main
from framemesh.settings import load


class OnnxSettings(WorkerSettings):
    """Settings of a worker that runs a model by its YAML."""

    model_file: Path = Field(description="The model's YAML")


class OnnxInference(ModelWorker[OnnxSettings]):
    """Any detector or classifier in an ONNX file; ``worker_for`` gives it its model."""

    settings_type = OnnxSettings
    path: ClassVar[Path]
    spec: ClassVar[Spec]

    def load(self) -> None:
        """Open the model, and run it once to see that it is what the YAML says."""
        settings = self.settings
        self._model = SpecModel(
            self.spec,
            self.path,
            threads=settings.inference_threads,
            providers=settings.onnx_providers or None,
            batch=settings.batch_size,
        )
        self.model_name, self.model_sha256 = self._model.name, self._model.sha256
        self.provider, self.min_size = self._model.provider, self._model.min_size

    def preprocess(self, image: Image) -> Any:
        """As the YAML's ``input`` says."""
        return self._model.preprocess(image)

    def infer(self, batch: list[Any]) -> Sequence[Any]:
        """Run the model."""
        return self._model.infer(batch)

    def postprocess(self, output: Any, height: int, width: int) -> Sequence[Found]:
        """As the YAML's ``decoder`` does it."""
        return self._model.postprocess(output, (height, width))


def worker_for(path: Path) -> type[OnnxInference]:
    """The worker of a model's YAML, of the YAML's kind. Raises FramemeshError naming the field and the fix.

    The YAML is read once, here: whatever ``MODEL_FILE`` says later, kind and model stay together.
    """
    path = path.resolve()
    spec = read_spec(path)
    settings = create_model("OnnxSettings", __base__=OnnxSettings, model_file=(Path, path))
    choices = {spec.name or path.stem: files_of(spec, path.parent)}
    values = {"__doc__": f"The model of {path.name}.", "__module__": __name__, "choices": choices}
    return type(
        spec.kind,
        (OnnxInference,),
        values | {"kind": spec.kind, "settings_type": settings, "path": path, "spec": spec},
    )


if __name__ == "__main__":
    main(worker_for(load(OnnxSettings).model_file))
