"""Reads the YAML of a model, and finds what it names."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from framemesh import assets
from framemesh.decoders.base import Decoder
from framemesh.decoders.classification import ClassificationDecoder, ClassificationSpec
from framemesh.decoders.detr import DetrDecoder, DetrSpec
from framemesh.decoders.labels import NAMED, read_labels
from framemesh.decoders.spec import Input, Spec
from framemesh.decoders.ssd import SsdDecoder, SsdSpec
from framemesh.decoders.yolov8 import Yolov8Decoder, Yolov8Spec
from framemesh.decoders.yolox import YoloxDecoder, YoloxSpec
from framemesh.errors import FramemeshError


class Kind(NamedTuple):
    """A decoder, and what the YAML says of it."""

    spec: type[Spec]
    decoder: type[Decoder[Any]]


KINDS: dict[str, Kind] = {
    "yolox": Kind(YoloxSpec, YoloxDecoder),
    "yolov8": Kind(Yolov8Spec, Yolov8Decoder),
    "ssd": Kind(SsdSpec, SsdDecoder),
    "detr": Kind(DetrSpec, DetrDecoder),
    "classification": Kind(ClassificationSpec, ClassificationDecoder),
}
_ANY: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        YoloxSpec | Yolov8Spec | SsdSpec | DetrSpec | ClassificationSpec,
        Field(discriminator="decoder"),
    ]
)


def read_spec(path: Path) -> Spec:
    """Read a model's YAML. Raises FramemeshError naming the file, the field and the fix."""
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise FramemeshError(
            f"{path} cannot be read: {error.strerror}; give the path of a model's YAML"
        ) from error
    except UnicodeDecodeError as error:
        raise FramemeshError(
            f"{path} is not UTF-8 text; give the path of a model's YAML, not of the model"
        ) from error
    except yaml.YAMLError as error:
        raise FramemeshError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise FramemeshError(f"{path} must say kind, model, decoder and labels, each on a line as 'name: value'")
    try:
        spec: Spec = _ANY.validate_python(found)
    except ValidationError as error:
        lines = [_explain(found, item) for item in error.errors(include_url=False)]
        raise FramemeshError(f"{path}: {'; '.join(lines)}") from None
    return spec


def decoder_of(spec: Spec) -> type[Decoder[Any]]:
    """The decoder that a YAML chose."""
    return next(kind.decoder for kind in KINDS.values() if isinstance(spec, kind.spec))


def find_file(name: str, folder: Path, field: str) -> assets.ResolvedAsset:
    """A file beside the YAML, or else the asset of that name. Raises FramemeshError when it is neither."""
    place = _place(name, folder)
    if place in assets.catalogue():
        return assets.resolve(str(assets.ensure(place)))
    if assets.is_file(Path(place)):
        return assets.resolve(place)
    raise FramemeshError(
        f"{field}: {name!r:.80} is neither a file in {folder} nor an asset; "
        "mend the path, which counts from the YAML, or take one of `framemesh assets list`"
    )


def files_of(spec: Spec, folder: Path) -> tuple[str, ...]:
    """The files that a YAML names, as paths, and the assets by their names; whether they are here or not."""
    labels = [spec.labels] if isinstance(spec.labels, str) and spec.labels not in NAMED else []
    return tuple(_place(name, folder) for name in (spec.model, *labels))


def _place(name: str, folder: Path) -> str:
    """The path of a file beside the YAML; the name of an asset where there is no such file."""
    path = folder.absolute() / name
    return name if name in assets.catalogue() and not assets.is_file(path) else str(path)


def find_labels(spec: Spec, folder: Path) -> tuple[str, ...]:
    """The names of the classes. Raises FramemeshError when their file is not there or holds none."""
    if isinstance(spec.labels, tuple):
        return spec.labels
    return NAMED.get(spec.labels) or read_labels(find_file(spec.labels, folder, "labels").path)


def _explain(given: dict[str, Any], item: Any) -> str:
    place = [str(part) for part in item["loc"]]
    if item["type"].startswith("union_tag"):
        return f"decoder: want one of {', '.join(KINDS)} (it is {given.get('decoder')!r:.80})"
    chosen, *place = place
    spec, field = KINDS[chosen].spec, ".".join(place)
    if item["type"] == "extra_forbidden":
        return _unknown(chosen, place)
    reason = str(item["msg"]).removeprefix("Value error, ")
    found = "" if item["type"] == "missing" else f" (it is {item['input']!r:.80})"
    holder: Any = Input if len(place) > 1 and place[0] == "input" else spec
    about = holder.model_fields.get(place[1] if holder is Input else place[0])
    hint = f". {about.description}" if about and about.description else ""
    return f"{field}: {reason}{found}{hint}"


def _unknown(chosen: str, place: list[str]) -> str:
    *above, name = place
    known = list((Input if above else KINDS[chosen].spec).model_fields)
    others = [other for other, kind in KINDS.items() if not above and name in kind.spec.model_fields]
    close = difflib.get_close_matches(name, known)
    if others:
        fix = f"only of {' and '.join(others)}"
    elif close:
        fix = f"did you mean {close[0]}?"
    else:
        fix = f"it may be {', '.join(known)}"
    return f"{'.'.join(place):.80}: not a field of decoder {chosen}; {fix}"
