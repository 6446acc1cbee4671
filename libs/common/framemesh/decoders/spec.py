"""The YAML of a model, as far as every decoder has it: fields, bounds, and errors that say what to mend."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, field_validator, model_validator

from framemesh.boxes import NMS_THRESHOLD
from framemesh.decoders.fit import Resize
from framemesh.decoders.labels import LONGEST
from framemesh.messages import SOURCE_PATTERN

Colour = Literal["RGB", "BGR", "GREY"]
Layout = Literal["NCHW", "NHWC"]
Labels = tuple[str, ...] | str
"""Names of the classes in order; or the name of a file, of an asset or of a known list."""


def _labels(value: Any) -> Labels:
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("want a list of names, a file of names, coco or coco-91")
    if wrong := [name for name in value if not isinstance(name, str) or not 0 < len(name) <= LONGEST]:
        raise ValueError(f"{wrong[0]!r:.80} is no name of 1 to {LONGEST} characters; put it in quotes")
    return tuple(value)


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = [value, value] if isinstance(value, int) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(_is_length(x) for x in pair):  # noqa: PLR2004
        raise ValueError("want [width, height] in pixels, or one number for both")
    return pair[0], pair[1]


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 1 << 14


class Part(BaseModel):
    """Base of what a YAML holds: fields that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class Input(Part):
    """What is done to a picture before the model has it."""

    size: Annotated[tuple[int, int] | None, PlainValidator(_size)] = Field(
        None, description="[width, height] in pixels, or one number; needed only where the model takes any size"
    )
    colour: Colour = Field("RGB", description="RGB, BGR or GREY: the order of the channels")
    resize: Resize = Field("stretch", description="letterbox (top left), letterbox-centre, stretch or crop")
    pad: int = Field(114, ge=0, le=255, description="Grey around a letterboxed picture")
    crop_share: float = Field(1.0, gt=0, le=1, description="With resize: crop, how much of the middle is kept")
    scale: float | None = Field(
        None, gt=0, description="Pixels are divided by it; 255, or 1 where the model takes uint8"
    )
    mean: tuple[float, ...] = Field((), description="Then taken away, a number a channel, in the order of colour")
    std: tuple[float, ...] = Field((), description="Then divided by, a number a channel")
    layout: Layout | None = Field(None, description="NCHW or NHWC, where the model's shape does not say it")

    @property
    def channels(self) -> int:
        """Channels of a picture: 3, or 1 for grey."""
        return 1 if self.colour == "GREY" else 3

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _a_number_a_channel(self) -> Self:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values and len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} numbers; colour {self.colour} has {self.channels}")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be above 0")
        return self


class Spec(Part):
    """What the YAML of every model says."""

    roles: ClassVar[dict[str, tuple[str, ...]]]
    """Outputs that the decoder reads, each with the words by which a model's own name for it is known."""
    optional: ClassVar[frozenset[str]] = frozenset()
    usual: ClassVar[dict[str, Any]] = {}
    """What ``input`` says where the YAML does not."""

    kind: str = Field(
        pattern=SOURCE_PATTERN, description="Name of the queue, e.g. ForkliftInference; results carry it"
    )
    name: str = Field("", max_length=64, description="Name of the model; empty: that of the YAML")
    model: str = Field(min_length=1, description="ONNX file, relative to the YAML; or an asset's name")
    sha256: str = Field(
        "", pattern=r"^([0-9a-fA-F]{64})?$", description="The model file's SHA-256 in hex; empty: not checked"
    )
    input: Input = Field(default_factory=dict, description="How a picture is prepared")  # type: ignore[assignment]
    labels: Annotated[Labels, PlainValidator(_labels)] = Field(
        description="Names of the classes: a list, a file of a name a line, coco or coco-91"
    )
    outputs: dict[str, str | int] = Field(
        default_factory=dict, description="The model's name, or the number from 0, of each output that is read"
    )

    @field_validator("input", mode="before")
    @classmethod
    def _with_usual(cls, value: Any) -> Any:
        return cls.usual | value if isinstance(value, dict) else value

    @field_validator("outputs", mode="plain")
    @classmethod
    def _known_roles(cls, value: Any) -> dict[str, str | int]:
        if not isinstance(value, dict) or not set(value) <= set(cls.roles):
            raise ValueError(f"want a name or number for any of {', '.join(cls.roles)}")
        if wrong := [name for name, of in value.items() if isinstance(of, bool) or not isinstance(of, str | int)]:
            raise ValueError(f"{wrong[0]} wants an output's name, or its number from 0")
        return value


class BoxSpec(Spec):
    """What the YAML of a detector says too."""

    confidence: float = Field(0.4, ge=0, le=1, description="Least confidence")
    nms: float = Field(
        NMS_THRESHOLD,
        ge=0,
        le=1,
        description="Overlap from which the lesser of two boxes of a class goes; 1: none",
    )
