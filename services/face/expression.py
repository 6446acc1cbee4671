"""Expressions of faces."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from framemesh import assets
from framemesh.boxes import Floats, Image, Tensor
from framemesh.errors import FramemeshError
from framemesh.messages import Box
from framemesh.onnx import Model
from services.face.crops import cut, square
from services.face.keras import convert

SIDE = 64
EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


class ExpressionModel:
    """mini-Xception (Arriaga, Valdenegro and Plöger, arXiv:1710.07557), trained on FER-2013.

    [n, 64, 64, 1] grey -1 to 1, to [n, 7] shares of ``EXPRESSIONS``. Reads the Keras file of its authors.
    """

    def __init__(self, path: str | Path, threads: int = 1, providers: list[str] | None = None) -> None:
        self._model = Model(
            kept(convert(path, (SIDE, SIDE, 1), len(EXPRESSIONS))),
            takes=(1, SIDE, SIDE, 1),
            gives=(1, len(EXPRESSIONS)),
            threads=threads,
            providers=providers,
        )

    def shares(self, crops: Sequence[Tensor]) -> Floats:
        """Share of each expression, [n, 7], for crops that ``prepare`` gave; rows sum to 1."""
        if not crops:
            return np.empty((0, len(EXPRESSIONS)))
        return np.asarray(self._model.run(np.concatenate(crops)), dtype=np.float64)


def prepare(image: Image, box: Box) -> Tensor:
    """The square around the face, its side the longer one of the box, as [1, 64, 64, 1]."""
    grey = cv2.cvtColor(cut(image, square(box, 1.0), SIDE), cv2.COLOR_BGR2GRAY)
    return (grey.astype(np.float32) / 127.5 - 1.0)[None, :, :, None]


def kept(model: bytes) -> Path:
    """A file of the user's cache with these bytes, named after their SHA-256."""
    path = assets.cache_folder() / "converted" / f"{hashlib.sha256(model).hexdigest()}.onnx"
    try:
        if not path.is_file() or path.read_bytes() != model:
            _write(path, model)
    except OSError as error:
        raise FramemeshError(
            f"cannot keep the converted model in {path.parent}: {error.strerror or error}; "
            "make the folder writable, or set XDG_CACHE_HOME to one that is"
        ) from error
    return path


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        partial.write_bytes(content)
        partial.replace(path)  # another worker never opens half a file
