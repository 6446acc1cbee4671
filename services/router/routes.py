"""Which models see which source, how often, and which look closer at what another one has found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from framemesh.messages import (
    MOST_FOUND,
    MOST_REGIONS,
    AudioTask,
    AudioWindow,
    Delivery,
    Detection,
    Face,
    Frame,
    Medium,
    ModelName,
    Result,
    Segment,
    Task,
)

EVERY_SOURCE = "*"
AUDIO_MODELS = frozenset({"VoiceInference", "TranscribeInference"})
"""Models of the mesh's own that listen: their windows wait for them even before one was ever alive."""


class Route(BaseModel):
    """One model of a source's routes. ``"DetectionInference"`` alone means every frame."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelName
    stride: int = Field(1, ge=1, description="Every nth frame, or every nth result of the model that is followed")
    follows: ModelName | None = Field(None, description="Look at the boxes that this model has found")
    labels: frozenset[str] | None = Field(None, description="Only at boxes with these labels")
    takes: Medium | None = Field(
        None, description="frame or audio, for a model of your own that may start after its sources"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.follows == self.model:
            raise ValueError(f"{self.model} cannot follow itself")
        if self.labels is not None and self.follows is None:
            raise ValueError("labels are those of the model that is followed: say which with follows")
        return self


Routes = dict[str, list[Route]]


def for_source(routes: Routes, source: str) -> list[Route] | None:
    """A source's own routes, else those of ``*``; None where nothing is said, which means every live model."""
    return routes.get(source, routes.get(EVERY_SOURCE))


def takes(model: str, said: Mapping[str, Medium]) -> Medium:
    """What a model wants: as it, or a route, has said; else what those of the mesh's own are known to want."""
    return said.get(model) or (Medium.AUDIO if model in AUDIO_MODELS else Medium.FRAME)


def tasks(
    claim: Frame | AudioWindow, routes: list[Route] | None, live: Collection[str], said: Mapping[str, Medium]
) -> list[Task | AudioTask]:
    """The tasks that a stored frame, or audio window, gives; ``live`` are the models that are there.

    A lossless one waits in the queue of a routed model that is not alive; a live one is not worth that.
    """
    chosen = [Route(model=model) for model in sorted(live)] if routes is None else routes
    medium, task = (Medium.FRAME, Task) if isinstance(claim, Frame) else (Medium.AUDIO, AudioTask)
    return [
        task(**dict(claim), model=route.model, stride=route.stride)
        for route in chosen
        if route.follows is None
        and claim.nth % route.stride == 0
        and takes(route.model, said) is medium
        and (route.model in live or claim.delivery is Delivery.LOSSLESS)
    ]


def follow_tasks(result: Result, routes: list[Route] | None) -> list[Task | AudioTask]:
    """The tasks that a result gives to models that follow its model."""
    return [
        task
        for route in routes or []
        if route.follows == result.model
        and result.nth % _stride(result, route) == 0
        and (task := _follow(result, route))
    ]


def _stride(result: Result, route: Route) -> int:
    """In frames of the source, of which the followed model itself may see only every nth."""
    return result.stride * route.stride


def _follow(result: Result, route: Route) -> Task | AudioTask | None:
    """Of a frame its boxes, if there are any. Of an audio window what was said in it, even if that is nothing."""
    stride = _stride(result, route)
    if result.medium is Medium.AUDIO:
        words = [word for found in result.result if isinstance(found, Segment) for word in found.words]
        return result.task(route.model, stride=stride, words=words[:MOST_FOUND])
    boxes = [
        found.box
        for found in result.result
        if isinstance(found, Detection | Face) and (route.labels is None or found.label in route.labels)
    ]
    return result.task(route.model, stride=stride, regions=boxes[:MOST_REGIONS]) if boxes else None
