"""Faces of the regions of a frame: one that several regions show is one face."""

from __future__ import annotations

from typing import Any, cast

from framemesh.messages import Box, Face
from framemesh.pictures import placed
from services.face.sighting import Sighting
from services.face.tracks import Tracks
from services.face.worker import FaceInference, FaceSettings, distinct
from tests.samples import task

LEFT, RIGHT = (0.0, 0.0, 300.0, 480.0), (200.0, 0.0, 500.0, 480.0)


def sighting(box: Box, confidence: float = 0.9) -> Sighting:
    return Sighting(confidence=confidence, box=box, points=[(box[0], box[1])] * 5)


def test_the_surest_of_those_that_overlap_stays_and_the_order_too() -> None:
    faces = [
        sighting((100, 100, 180, 200), 0.7),
        sighting((300, 100, 340, 150), 0.6),
        sighting((102, 99, 181, 202), 0.9),
        sighting((160, 100, 240, 200), 0.8),  # another one, partly behind it
    ]
    assert distinct(faces) == faces[1:]
    assert distinct(faces[:1]) == faces[:1]
    assert distinct([]) == []


def test_a_face_in_two_regions_is_one_track() -> None:
    worker = FaceInference(FaceSettings(), cast("Any", None), cast("Any", None))
    worker._tracks = Tracks()
    for seq in range(3):
        asked = task("cam", "FaceInference", seq).model_copy(update={"regions": [LEFT, RIGHT]})
        seen = [  # the same face at 220 to 280, and another at 400, as each region shows them
            placed(sighting((220, 100, 280, 180)), (480, 300), LEFT, asked, 0),
            placed(sighting((21, 101, 80, 181), 0.8), (480, 300), RIGHT, asked, 1),
            placed(sighting((200, 100, 260, 180)), (480, 300), RIGHT, asked, 1),
        ]
        found = [face for face in worker.track(seen, asked) if isinstance(face, Face)]
        assert [(face.track, face.box) for face in found] == [(0, (220, 100, 280, 180)), (1, (400, 100, 460, 180))]
