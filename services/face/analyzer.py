"""All face models together: a picture and its face boxes in, sightings out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from framemesh.boxes import Floats, Image
from framemesh.faces import FaceBox
from framemesh.messages import Box, Gaze, HeadPose, Point
from services.face import expression
from services.face.crops import shorter_side
from services.face.expression import EXPRESSIONS, ExpressionModel
from services.face.gaze import PupilsModel, direction
from services.face.landmarks import LandmarksModel
from services.face.lids import upright_edges
from services.face.pose import PoseModel
from services.face.sighting import Sighting
from services.face.signals import eye_aspect_ratio, mouth_openness, smile

Part = Literal["expression", "pose", "landmarks", "gaze"]
PARTS: tuple[Part, ...] = ("expression", "pose", "landmarks", "gaze")

WEIGHTS: dict[Part, tuple[str, ...]] = {
    "expression": ("mini-xception",),
    "pose": ("fsanet-1x1", "fsanet-var"),
    "landmarks": ("openseeface-landmarks",),
    "gaze": ("openseeface-gaze",),
}
"""Assets that each part needs."""

LEAST_DETAIL = 40
"""Shorter side in pixels below which a face's eyes and mouth are a few pixels, and landmarks are guesses."""
LEAST_LANDMARKS = 0.5
MOST_YAW = 45.0

TOO_SMALL = f"the face is smaller than {LEAST_DETAIL} pixels"
UNSURE = "the landmarks are not sure"
TURNED = f"the head is turned by more than {MOST_YAW:.0f} degrees"
UNASKED = "face_parts leaves it out"

_OF_LANDMARKS = ("landmarks", "eye_openness", "blinks_per_minute", "mouth_openness", "smile")
_OF_GAZE = ("gaze", "pupils")


class Seen(NamedTuple):
    """A picture and the faces that were found in it."""

    image: Image
    faces: Sequence[FaceBox]


class Analyzer:
    """Runs the parts that are asked for. ``gaze`` brings ``pose`` and ``landmarks`` along, which it is made of."""

    def __init__(
        self,
        parts: Iterable[Part],
        weights: Mapping[str, Path],
        eye_contact_degrees: float = 10.0,
        threads: int = 1,
        providers: list[str] | None = None,
    ) -> None:
        asked = wanted(parts)
        self._tolerance = eye_contact_degrees

        def path(part: Part) -> Path:
            return weights[WEIGHTS[part][0]]

        self._expression = self._pose = self._landmarks = self._pupils = None
        if "expression" in asked:
            self._expression = ExpressionModel(path("expression"), threads, providers)
        if "pose" in asked:
            self._pose = PoseModel([weights[name] for name in WEIGHTS["pose"]], threads, providers)
        if "landmarks" in asked:
            self._landmarks = LandmarksModel(path("landmarks"), threads, providers)
        if "gaze" in asked:
            self._pupils = PupilsModel(path("gaze"), threads, providers)

    def sightings(self, seen: Sequence[Seen]) -> list[list[Sighting]]:
        """What can be told of the faces of each picture. The expressions of all run together."""
        shares = iter(self._shares(seen))
        return [[self._sighting(image, face, next(shares)) for face in faces] for image, faces in seen]

    def _shares(self, seen: Sequence[Seen]) -> list[dict[str, float] | None]:
        faces = [(image, face.box) for image, found in seen for face in found]
        if not self._expression:
            return [None] * len(faces)
        rows = self._expression.shares([expression.prepare(*face) for face in faces])
        return [dict(zip(EXPRESSIONS, row, strict=True)) for row in rows.tolist()]

    def _sighting(self, image: Image, face: FaceBox, shares: dict[str, float] | None) -> Sighting:
        missing: dict[str, str] = {}
        found: dict[str, Any] = {"expressions": shares}
        if shares:
            found["expression"] = max(shares, key=shares.__getitem__)
        else:
            missing |= dict.fromkeys(("expression", "expressions"), UNASKED)
        pose = self._pose.pose(image, face.box) if self._pose else None
        if not pose:
            missing["pose"] = UNASKED
        found |= {"pose": pose} | self._details(image, face.box, shares, pose, missing)
        return Sighting(confidence=face.score, box=face.box, points=list(face.points), missing=missing, **found)

    def _details(
        self,
        image: Image,
        box: Box,
        shares: dict[str, float] | None,
        pose: HeadPose | None,
        missing: dict[str, str],
    ) -> dict[str, Any]:
        """What needs landmarks."""
        points, why = self._points(image, box)
        if points is None:
            missing |= dict.fromkeys((*_OF_LANDMARKS, *_OF_GAZE), why)
            return {}
        found: dict[str, Any] = {"landmarks": _pairs(points), "mouth_openness": mouth_openness(points)}
        if shares:
            found["smile"] = smile(shares["happy"], points)
        else:
            missing["smile"] = UNASKED
        if pose and abs(pose.yaw) > MOST_YAW:
            missing |= dict.fromkeys(("eye_openness", "blinks_per_minute", *_OF_GAZE), TURNED)
            return found
        found |= {"eye_openness": eye_aspect_ratio(points), "edges": upright_edges(image, points)}
        return found | self._gaze(image, points, pose, missing)

    def _points(self, image: Image, box: Box) -> tuple[Floats | None, str]:
        if not self._landmarks:
            return None, UNASKED
        if shorter_side(box) < LEAST_DETAIL:
            return None, TOO_SMALL
        points, confidence = self._landmarks.landmarks(image, box)
        return (points, "") if confidence >= LEAST_LANDMARKS else (None, UNSURE)

    def _gaze(
        self, image: Image, points: Floats, pose: HeadPose | None, missing: dict[str, str]
    ) -> dict[str, Any]:
        if not self._pupils or not pose:
            missing |= dict.fromkeys(_OF_GAZE, UNASKED)
            return {}
        pupils = self._pupils.pupils(image, points)
        looks = direction(pupils, points, pose)
        contact = looks.off_camera <= self._tolerance
        return {
            "pupils": _pairs(pupils),
            "gaze": Gaze(yaw=looks.yaw, pitch=looks.pitch, eye_contact=contact),
        }


def wanted(parts: Iterable[Part]) -> list[Part]:
    """The parts that are needed for those that are asked for, in their usual order."""
    asked = set(parts)
    if "gaze" in asked:
        asked |= {"pose", "landmarks"}
    return [part for part in PARTS if part in asked]


def _pairs(points: Floats) -> list[Point]:
    return [(x, y) for x, y in points.tolist()]
