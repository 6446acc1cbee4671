"""A model that runs by its YAML: pictures in, findings out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from framemesh.boxes import Image, Size, Tensor
from framemesh.decoders.base import Outputs
from framemesh.decoders.files import decoder_of, find_file, find_labels
from framemesh.decoders.fit import Fit, fit
from framemesh.decoders.spec import Spec
from framemesh.decoders.tensors import Preparation, Takes
from framemesh.errors import FramemeshError
from framemesh.messages import Classification, Detection
from framemesh.onnx import Network

log = logging.getLogger(__name__)

GREY = 114
PROBED = 2


class SpecModel:
    """A model as its YAML at ``path`` describes it.

    It is run once on a grey picture, so that a model that is not what the YAML says is found out at the start.
    Pictures are given to it ``batch`` at a time where its batch axis is dynamic, or else one by one. Sets the
    number of OpenCV's threads, which is one for the whole process. Raises FramemeshError naming the YAML, what
    was expected and what was found.
    """

    def __init__(
        self, spec: Spec, path: Path, *, threads: int = 1, providers: list[str] | None = None, batch: int = 1
    ) -> None:
        cv2.setNumThreads(threads)
        self.spec = spec
        self.name = spec.name or path.stem
        with _naming(path):
            weights = find_file(spec.model, path.parent, "model")
            self.sha256 = _checked(weights.sha256, spec)
            labels = find_labels(spec, path.parent)
            self._network = Network(weights.path, threads, providers)
            self.takes = Takes.of(self._network, spec.input)
            self._preparation = Preparation(self.takes, spec.input)
            self._roles = assign(spec, self._network.outputs)
            self._decoder = decoder_of(spec)(spec, labels, self.takes.size)
            grey = self._grey()
            self._decoder.check(self._run(grey)[0])
            self.batch = batch if batch > 1 and self._batches(grey) else 1

    @property
    def provider(self) -> str:
        """The execution provider that runs the model."""
        return self._network.provider

    @property
    def min_size(self) -> int:
        """Shorter side in pixels of a picture that the model makes use of."""
        share = self.spec.input.crop_share if self.spec.input.resize == "crop" else 1
        return int(np.ceil(max(self.takes.size) / share))

    def preprocess(self, image: Image) -> Tensor:
        """Turn a picture (BGR uint8, [height, width, 3]) into what the model takes."""
        height, width = image.shape[:2]
        return self._preparation.tensor(self._fit((height, width)).draw(image, self.spec.input.pad))

    def infer(self, tensors: Sequence[Tensor]) -> list[Outputs]:
        """Run the model: the outputs of each tensor, in order."""
        return [
            outputs
            for first in range(0, len(tensors), self.batch)
            for outputs in self._run(*tensors[first : first + self.batch])
        ]

    def postprocess(self, outputs: Outputs, size: Size) -> Sequence[Detection | Classification]:
        """Findings in the picture of ``size`` (height, width), best first, boxes in its pixels."""
        return self._decoder.decode(outputs, self._fit(size), size)

    def _fit(self, size: Size) -> Fit:
        return fit(self.spec.input.resize, size, self.takes.size, self.spec.input.crop_share)

    def _grey(self) -> Tensor:
        return self._preparation.tensor(np.full((*self.takes.size, 3), GREY, dtype=np.uint8))

    def _run(self, *tensors: Tensor) -> list[Outputs]:
        tensor = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
        found = self._network.run(tensor, list(self._roles.values()))
        outputs = dict(zip(self._roles, found, strict=True))
        if len(tensors) == 1:
            return [outputs]
        return [{role: each[index : index + 1] for role, each in outputs.items()} for index in range(len(tensors))]

    def _batches(self, grey: Tensor) -> bool:
        """Whether two pictures give two outputs: a dynamic axis alone does not promise it."""
        if not self.takes.batches:
            return False
        try:
            found = self._network.run(np.concatenate([grey] * PROBED), list(self._roles.values()))
            whole = all(each.ndim and len(each) == PROBED for each in found)
        except FramemeshError:
            whole = False
        if not whole:
            log.warning("%s runs one picture at a time: it cannot do two, as its input says", self.name)
        return whole


def assign(spec: Spec, names: Sequence[str]) -> dict[str, str]:
    """The model's output for each role: as the YAML says, or by its name, or the first of a single role."""
    found = {role: _named(spec, role, names) for role in spec.roles}
    needed = [role for role in spec.roles if role not in spec.optional]
    if len(names) < len(needed):
        raise FramemeshError(
            f"outputs: the decoder reads {', '.join(needed)}; the model has only {', '.join(names)}; "
            "choose another decoder"
        )
    if missing := [role for role in needed if found[role] is None]:
        raise FramemeshError(
            f"outputs: which of {', '.join(names)} is {' and which is '.join(missing)}? "
            f"Say it as `outputs: {{{missing[0]}: {names[0]}}}`"
        )
    return {role: name for role, name in found.items() if name is not None}


def _named(spec: Spec, role: str, names: Sequence[str]) -> str | None:
    given = spec.outputs.get(role)
    if isinstance(given, int) and 0 <= given < len(names):
        return names[given]
    if given is not None and given not in names:
        raise FramemeshError(f"outputs.{role}: the model has no output {given!r:.80}; it has {', '.join(names)}")
    if isinstance(given, str):
        return given
    words = spec.roles[role]
    likely = [name for name in names if any(word in name.lower() for word in words)]
    return names[0] if len(spec.roles) == 1 else likely[0] if len(likely) == 1 else None


def _checked(sha256: str, spec: Spec) -> str:
    if spec.sha256 and spec.sha256.lower() != sha256:
        raise FramemeshError(
            f"sha256: {spec.model} is another file: expected {spec.sha256.lower()}, found {sha256}; "
            "replace the file, or mend or remove the field"
        )
    return sha256


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the YAML's path before what is wrong."""
    try:
        yield
    except FramemeshError as error:
        raise FramemeshError(f"{path}: {error}") from error
