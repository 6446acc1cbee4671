"""What a step was given, checked."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from framemesh.errors import FramemeshError

M = TypeVar("M", bound=BaseModel)


class Given(BaseModel):
    """Input of a step."""

    model_config = ConfigDict(extra="ignore")


def checked(model: type[M], given: Any) -> M:
    """An input as a model. Raises FramemeshError that names the field."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(("input", *map(str, first["loc"])))
        raise FramemeshError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
