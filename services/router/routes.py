"""Which models see which source, how often, and which look closer at what another one has found."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from framemesh.messages import MOST_REGIONS, Delivery, Frame, ModelName, Result, Task

EVERY_SOURCE = "*"


class Route(BaseModel):
    """One model of a source's routes. ``"DetectionInference"`` alone means every frame."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelName
    stride: int = Field(1, ge=1, description="Every nth frame, or every nth result of the model that is followed")
    follows: ModelName | None = Field(None, description="Look at the boxes that this model has found")
    labels: frozenset[str] | None = Field(None, description="Only at boxes with these labels")

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


def frame_tasks(frame: Frame, routes: list[Route] | None, live: set[str]) -> list[Task]:
    """The tasks that a stored frame gives.

    A lossless frame waits in the queue of a routed model that is not alive; a live one is not worth that.
    """
    chosen = [Route(model=model) for model in sorted(live)] if routes is None else routes
    return [
        Task(**dict(frame), model=route.model, stride=route.stride)
        for route in chosen
        if route.follows is None
        and frame.seq % route.stride == 0
        and (route.model in live or frame.delivery is Delivery.LOSSLESS)
    ]


def follow_tasks(result: Result, routes: list[Route] | None) -> list[Task]:
    """The tasks that a result gives to models that follow its model; none when it found nothing to look at."""
    return [
        task
        for route in routes or []
        if route.follows == result.model
        and result.seq % _stride(result, route) == 0
        and (task := _follow(result, route))
    ]


def _stride(result: Result, route: Route) -> int:
    """In frames of the source, of which the followed model itself may see only every nth."""
    return result.stride * route.stride


def _follow(result: Result, route: Route) -> Task | None:
    boxes = [
        found.box
        for found in result.result
        if hasattr(found, "box") and (route.labels is None or found.label in route.labels)
    ]
    if not boxes:
        return None
    return Task(
        source=result.source,
        run=result.run,
        seq=result.seq,
        frame_id=result.frame_id,
        url=result.frame_url,
        timestamp=result.timestamp,
        pts=None,
        width=result.width,
        height=result.height,
        bytes=0,
        captured_at=result.captured_at,
        delivery=result.delivery,
        model=route.model,
        stride=_stride(result, route),
        regions=boxes[:MOST_REGIONS],
    )
