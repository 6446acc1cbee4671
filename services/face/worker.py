"""The face worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from framemesh import assets
from framemesh.assets import ResolvedAsset
from framemesh.boxes import nms
from framemesh.faces import OVERLAP, FaceBox, Prepared, YuNet
from framemesh.inference import ModelWorker, Skipped, WorkerSettings
from framemesh.messages import Found, Task
from framemesh.pictures import Image
from services.face.analyzer import PARTS, WEIGHTS, Analyzer, Part, Seen, wanted
from services.face.crops import shorter_side
from services.face.sighting import Sighting
from services.face.tracks import Times, Tracks

SMALL = "small"
MANY = "many"


class FaceSettings(WorkerSettings):
    """Settings of the face worker."""

    face_confidence: float = Field(0.6, ge=0.05, le=1, description="Least confidence of a face")
    face_longest: int = Field(
        640,
        ge=64,
        le=4096,
        description="Pixels of the longer side to which pictures are scaled down to find faces",
    )
    face_min_size: int = Field(
        24, ge=8, le=1024, description="Shorter side of a face in pixels; smaller ones are counted as skipped"
    )
    face_most: int = Field(32, ge=1, le=256, description="Most faces of a picture; the largest are looked at")
    face_parts: list[Part] = Field(
        list(PARTS),
        description="What is told of a face: expression, pose, landmarks, gaze (which brings pose and landmarks)",
    )
    face_expression_seconds: float = Field(
        0.4, ge=0, le=60, description="Seconds in which expressions and smiles follow; 0: at once"
    )
    face_pose_seconds: float = Field(
        0.15, ge=0, le=60, description="Seconds in which head pose and gaze follow; 0: at once"
    )
    face_forget_seconds: float = Field(
        2.0, gt=0, le=600, description="Seconds after which a face that is not seen gets a new number"
    )
    eye_contact_degrees: float = Field(
        10.0, gt=0, le=90, description="Degrees off the camera up to which a gaze is eye contact"
    )


class FoundFaces(NamedTuple):
    """What one picture showed."""

    faces: list[Sighting]
    skipped: list[Skipped]


class FaceInference(ModelWorker[FaceSettings]):
    """Faces: expression, head pose, landmarks, gaze, blinks, mouth and smile, followed over frames."""

    kind = "FaceInference"
    settings_type = FaceSettings
    min_size = 720
    follows_sources = True
    choices = {"yunet": ("yunet", *(name for part in PARTS for name in WEIGHTS[part]))}  # noqa: RUF012 - as declared

    def load(self) -> None:
        """Find the weights, and build the models that are asked for."""
        settings = self.settings
        self.min_size = max(self.min_size, settings.face_longest)  # or what it looks for would be scaled away
        threads, providers = settings.inference_threads, settings.onnx_providers or None
        names = [name for part in wanted(settings.face_parts) for name in WEIGHTS[part]]
        weights = [assets.resolve(name) for name in ("yunet", *names)]
        paths = {name: each.path for name, each in zip(("yunet", *names), weights, strict=True)}
        self.model_name, self.model_sha256 = "yunet", combined(weights)
        self._yunet = YuNet(paths["yunet"], threads, providers, settings.face_longest)
        self.provider = self._yunet.provider
        contact = settings.eye_contact_degrees
        self._analyzer = Analyzer(settings.face_parts, paths, contact, threads, providers)
        times = Times(settings.face_expression_seconds, settings.face_pose_seconds, settings.face_forget_seconds)
        self._tracks = Tracks(times, contact)

    def preprocess(self, image: Image) -> tuple[Image, Prepared]:
        """The picture, and how YuNet takes it."""
        return image, self._yunet.prepare(image)

    def infer(self, batch: list[Any]) -> Sequence[FoundFaces]:
        """Find the faces of every picture, then tell what can be told of them."""
        seen, skipped = [], []
        for image, prepared in batch:
            found = self._yunet.decode(self._yunet.run(prepared), prepared, self.settings.face_confidence)
            kept, left = chosen(found, self.settings.face_min_size, self.settings.face_most)
            seen.append(Seen(image, kept))
            skipped.append(left)
        return [FoundFaces(*each) for each in zip(self._analyzer.sightings(seen), skipped, strict=True)]

    def postprocess(self, output: FoundFaces, height: int, width: int) -> Sequence[Found | Skipped]:
        """Faces in pixels of the picture, the largest first."""
        return [*output.faces, *output.skipped]

    def track(self, found: list[Found | Skipped], task: Task) -> Sequence[Found | Skipped]:
        """Follow the faces of the task's run."""
        faces = [item for item in found if isinstance(item, Sighting)]
        others = [item for item in found if not isinstance(item, Sighting)]
        return [*self._tracks.follow(f"{task.source}/{task.run}", task.timestamp, distinct(faces)), *others]


def chosen(found: Sequence[FaceBox], least: int, most: int) -> tuple[list[FaceBox], list[Skipped]]:
    """The faces to look at, the largest first, and how many were too small or too many."""
    large = sorted((face for face in found if shorter_side(face.box) >= least), key=_size, reverse=True)
    left = {SMALL: len(found) - len(large), MANY: max(0, len(large) - most)}
    return large[:most], [Skipped(reason, count) for reason, count in left.items() if count]


def distinct(faces: Sequence[Sighting]) -> list[Sighting]:
    """Each face once, the surest of those that overlap: regions that share a face show it in each of them."""
    if len(faces) < 2:  # noqa: PLR2004 - one overlaps with none
        return list(faces)
    boxes = np.array([face.box for face in faces])
    kept = nms(boxes, np.array([face.confidence for face in faces]), np.zeros(len(faces), dtype=np.intp), OVERLAP)
    return [faces[index] for index in sorted(kept.tolist())]


def combined(weights: Iterable[ResolvedAsset]) -> str:
    """One checksum for several files: SHA-256 of lines of name, space and SHA-256, in the order of ``choices``."""
    lines = "".join(f"{each.name} {each.sha256}\n" for each in weights)
    return hashlib.sha256(lines.encode()).hexdigest()


def _size(face: FaceBox) -> float:
    x1, y1, x2, y2 = face.box
    return (x2 - x1) * (y2 - y1)
