"""What a model takes, and pictures turned into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from framemesh.boxes import Image, Size, Tensor
from framemesh.decoders.spec import Colour, Input, Layout
from framemesh.errors import FramemeshError
from framemesh.onnx import Network

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
_CHANNEL: dict[Layout, int] = {"NCHW": -3, "NHWC": -1}
_ROWS: dict[Layout, int] = {"NCHW": -2, "NHWC": -3}
_RANKS = (3, 4)


@dataclass(frozen=True)
class Takes:
    """What a model takes: pictures of ``size`` (height, width) in this layout and type.

    ``axes`` is 4 with a batch axis, 3 without; ``batches`` says whether that axis takes any number.
    """

    size: Size
    layout: Layout
    dtype: Literal["float32", "float16", "uint8"]
    axes: int
    batches: bool

    @classmethod
    def of(cls, network: Network, wanted: Input) -> Takes:
        """What this model takes; FramemeshError when that is no picture, or not the one that is wanted."""
        shape, kind = network.takes, network.dtype
        dims = [length if isinstance(length, int) and length > 0 else None for length in shape]
        layout = _layout(dims, wanted)
        if kind not in DTYPES or layout is None or (len(dims) == 4 and dims[0] not in {None, 1}):  # noqa: PLR2004
            c = wanted.channels
            raise FramemeshError(
                f"expected one input tensor(float), tensor(float16) or tensor(uint8) of [1, {c}, height, width] "
                f"or [1, height, width, {c}] for input.colour {wanted.colour}"
                f"{f' and input.layout {wanted.layout}' if wanted.layout else ''}, found {kind}{list(shape)}; "
                "export the model with a batch of 1 or a dynamic one, or mend the field"
            )
        row = _ROWS[layout]
        size = _size(dims[row], dims[row + 1], wanted)
        return cls(size, layout, DTYPES[kind], len(dims), len(dims) == 4 and dims[0] is None)  # type: ignore[arg-type]  # noqa: PLR2004

    @property
    def text(self) -> str:
        """As an error says it."""
        return f"{self.size[1]} wide and {self.size[0]} high"


def _layout(dims: Sequence[int | None], wanted: Input) -> Layout | None:
    if len(dims) not in _RANKS:
        return None
    layouts: list[Layout] = [wanted.layout] if wanted.layout else ["NCHW", "NHWC"]
    for fits in (wanted.channels, None):  # a length that is said beats one that may be anything
        for layout in layouts:
            if dims[_CHANNEL[layout]] == fits:
                return layout
    return None


def _size(height: int | None, width: int | None, wanted: Input) -> Size:
    asked = (wanted.size[1], wanted.size[0]) if wanted.size else (None, None)
    found = [a or b for a, b in zip((height, width), asked, strict=True)]
    if not all(found):
        raise FramemeshError("input.size: the model takes any size; say which, as [width, height] in pixels")
    if wanted.size and tuple(found) != asked:
        raise FramemeshError(
            f"input.size: expected {found[1]} x {found[0]} (width x height), which is what the model takes, "
            f"found {wanted.size[0]} x {wanted.size[1]}; leave it out"
        )
    return found[0] or 0, found[1] or 0


class Preparation:
    """Pixels of the input (BGR uint8, [h, w, 3]) to the tensor: colour, (x / scale - mean) / std, layout, type."""

    def __init__(self, takes: Takes, wanted: Input) -> None:
        self.takes = takes
        self.colour: Colour = wanted.colour
        self._factor, self._shift = _line(takes, wanted)
        self._scales, self._shifts = bool((self._factor != 1).any()), bool(self._shift.any())

    def tensor(self, pixels: Image) -> Tensor:
        """Give [1, c, h, w] or [1, h, w, c], without the batch axis where the model has none."""
        planes = self._planes(pixels)
        tensor = np.empty((len(planes), *self.takes.size), dtype=np.float32)
        for index, plane in enumerate(planes):
            tensor[index] = plane
        if self._scales:
            tensor *= self._factor
        if self._shifts:
            tensor += self._shift
        if self.takes.layout == "NHWC":
            tensor = np.ascontiguousarray(tensor.transpose(1, 2, 0))
        tensor = tensor.astype(self.takes.dtype, copy=False)
        return tensor[None] if self.takes.axes > tensor.ndim else tensor

    def _planes(self, pixels: Image) -> Sequence[Image]:
        if self.colour == "GREY":
            return [cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)]
        planes = cv2.split(pixels)
        return planes if self.colour == "BGR" else planes[::-1]


def _line(takes: Takes, wanted: Input) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Factor and shift [c, 1, 1] of each channel: (x / scale - mean) / std is x * factor + shift."""
    whole = takes.dtype == "uint8"
    scale = wanted.scale or (1.0 if whole else 255.0)
    if whole and (scale != 1 or wanted.mean or wanted.std):
        raise FramemeshError(
            "input: the model takes tensor(uint8), so it scales by itself; leave scale, mean and std out"
        )
    mean = np.array(wanted.mean or [0.0] * wanted.channels)
    std = np.array(wanted.std or [1.0] * wanted.channels)
    factor, shift = 1 / (scale * std), -mean / std
    return factor.astype(np.float32)[:, None, None], shift.astype(np.float32)[:, None, None]
