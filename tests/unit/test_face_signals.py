from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from framemesh.assets import ResolvedAsset
from framemesh.faces import FaceBox
from framemesh.inference import Skipped
from framemesh.messages import HeadPose
from services.face import gaze, landmarks, lids, signals
from services.face.analyzer import wanted
from services.face.crops import cut, shorter_side, square
from services.face.worker import MANY, SMALL, chosen, combined

Points = np.ndarray[Any, np.dtype[np.float64]]


def face(eyes_open: float = 0.3, mouth: float = 0.58, lift: float = 0.0, gap: float = 0.0) -> Points:
    """Landmarks of a face that looks ahead, eyes 30 pixels wide; outer corners of the eyes 100 apart."""
    points = np.zeros((66, 2))
    for first, x in ((36, 0), (42, 70)):
        half = eyes_open * 30 / 2
        points[first : first + 6] = [
            (x, 0),
            (x + 10, -half),
            (x + 20, -half),
            (x + 30, 0),
            (x + 20, half),
            (x + 10, half),
        ]
    points[48], points[54] = (50 - mouth * 50, 80 - lift * 100), (50 + mouth * 50, 80 - lift * 100)
    points[51], points[57] = (50, 70), (50, 90)
    for upper, lower, x in ((60, 65, 40), (61, 64, 50), (62, 63, 60)):
        points[upper], points[lower] = (x, 80 - gap / 2), (x, 80 + gap / 2)
    return points


def turned(points: Points, degrees: float, scale: float = 1.0) -> Points:
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray(points @ turn.T * scale + 300)


@pytest.mark.parametrize("degrees", [0, 25, -40])
def test_signals_are_the_same_however_the_head_is_tilted(degrees: float) -> None:
    points = turned(face(0.25, 0.7, 0.1, 12), degrees, 1.7)
    assert signals.eye_aspect_ratio(points) == pytest.approx(0.25)
    assert signals.mouth_width(points) == pytest.approx(0.7)
    assert signals.corner_lift(points) == pytest.approx(0.1)
    assert signals.mouth_openness(points) == pytest.approx(12 / math.hypot(70, 0))


def test_a_smile_needs_both_the_expression_and_the_corners() -> None:
    smiling, resting = face(mouth=0.73, lift=0.11), face()
    assert signals.smile(1.0, smiling) == 1
    assert signals.smile(1.0, resting) == 0
    assert signals.smile(0.0, smiling) == 0
    assert 0 < signals.smile(0.5, face(mouth=0.68, lift=0.04)) < 0.8


def test_a_face_without_extent_gives_numbers() -> None:
    points = np.zeros((66, 2))
    values = (signals.eye_aspect_ratio(points), signals.mouth_openness(points), signals.smile(1, points))
    assert all(math.isfinite(value) for value in values)


# -- gaze -------------------------------------------------------------------------------------------


def looking(yaw: float, pitch: float, head: HeadPose, roll: float = 0.0) -> gaze.Direction:
    """What is made of the pupils that eyes of the model's own geometry show."""
    points = face()
    turn = math.cos(math.radians(head.yaw))
    points[:, 0] *= turn
    where = np.array(
        [-math.sin(math.radians(yaw)) * math.cos(math.radians(pitch)), -math.sin(math.radians(pitch))]
    )
    ahead = np.array(
        [
            -math.sin(math.radians(head.yaw)) * math.cos(math.radians(head.pitch)),
            -math.sin(math.radians(head.pitch)),
        ]
    )
    offset = 30 * (gaze.PUPIL_RADIUS * where - gaze.DEPTH * ahead - gaze.REST * np.array([0, 1]))
    pupils = points[np.array(gaze.EYES)].mean(axis=1) + offset
    if roll:
        pupils, points = turned(pupils, roll), turned(points, roll)
    return gaze.direction(pupils, points, head)


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (20, 0), (-20, 10), (0, -25), (35, 15)])
@pytest.mark.parametrize("head", [(0, 0), (30, 0), (-25, 10), (10, -20)])
def test_gaze_is_found_whatever_the_head_does(yaw: float, pitch: float, head: tuple[float, float]) -> None:
    found = looking(yaw, pitch, HeadPose(yaw=head[0], pitch=head[1], roll=0))
    assert found == pytest.approx((yaw, pitch), abs=0.01)


def test_the_angle_off_the_camera() -> None:
    assert gaze.Direction(0, 0).off_camera == 0
    assert gaze.Direction(10, 0).off_camera == pytest.approx(10)
    assert gaze.Direction(0, -10).off_camera == pytest.approx(10)
    assert gaze.Direction(6, 8).off_camera == pytest.approx(10, abs=0.05)


def test_pupils_far_outside_give_a_gaze_within_bounds() -> None:
    pupils = np.array([[900.0, 900.0], [900.0, 900.0]])
    found = gaze.direction(pupils, face(), HeadPose(yaw=80, pitch=0, roll=0))
    assert all(abs(angle) <= 90 for angle in found)


def test_a_pupil_is_decoded_at_its_cell_and_offset() -> None:
    maps = np.full((3, 8, 8), 0.5)
    maps[0, 3, 5] = 1.0
    assert gaze.decode(maps) == pytest.approx((12, 20))
    maps[1, 3, 5] = 1 / (1 + math.exp(-0.5))
    assert gaze.decode(maps) == pytest.approx((14, 20))


def test_landmarks_are_decoded_at_their_cells_and_offsets() -> None:
    raw = np.full((3, 66, 28, 28), 0.5)
    raw[0] = 0
    raw[0, :, 27, 14] = 0.8
    points, confidence = landmarks.decode(raw.reshape(198, 28, 28), (100, 50, 324, 274))
    assert confidence == pytest.approx(0.8)
    assert points[0] == pytest.approx((100 + 14 / 27 * 223, 50 + 223))
    assert sorted(landmarks.ORDER) == list(range(66))


# -- lids -------------------------------------------------------------------------------------------


def eyes(openness: float, iris: int) -> tuple[Any, Points]:
    import cv2

    image = np.full((100, 200, 3), 160, np.uint8)
    points = face() + 50
    for x in (65, 135):
        half = round(openness * 12)
        if half:
            cv2.ellipse(image, (x, 50), (15, half), 0, 0, 360, (230, 230, 230), -1)
            mask = np.zeros(image.shape[:2], np.uint8)
            cv2.ellipse(mask, (x, 50), (15, half), 0, 0, 360, 255, -1)
            disc = np.zeros_like(mask)
            cv2.circle(disc, (x, 48), 7, 255, -1)
            image[(mask > 0) & (disc > 0)] = iris
        cv2.ellipse(image, (x, 50), (15, half), 0, 0 if not half else 180, 360, (50, 50, 50), 2)
    return image, points


@pytest.mark.parametrize("iris", [30, 110])
def test_closed_eyes_have_few_upright_edges_whatever_the_colour(iris: int) -> None:
    image, points = eyes(0.6, iris)
    shut, _ = eyes(0, iris)
    assert lids.upright_edges(shut, points) < 0.5 * lids.upright_edges(image, points)


def test_a_flat_picture_has_no_edges() -> None:
    assert lids.upright_edges(np.full((100, 200, 3), 90, np.uint8), face()) == 0


# -- crops and choice -------------------------------------------------------------------------------


def test_crops_may_reach_over_the_border() -> None:
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    for box in ((-10, -10, 10, 10), (25, 15, 45, 35), (-5, -5, 40, 40), (5, 5, 5, 5)):
        assert cut(image, box, 16).shape == (16, 16, 3)
    assert square((10, 20, 30, 60), 1.5) == (-10, 10, 50, 70)
    assert shorter_side((10, 20, 30, 60)) == 20


def box_of(side: float) -> FaceBox:
    return FaceBox((0, 0, side, side * 1.2), ((0.0, 0.0),) * 5, 0.9)


def test_small_faces_and_too_many_are_counted() -> None:
    kept, skipped = chosen([box_of(side) for side in (30, 10, 90, 23.9, 24, 50)], 24, 3)
    assert [shorter_side(face.box) for face in kept] == [90, 50, 30]
    assert skipped == [Skipped(SMALL, 2), Skipped(MANY, 1)]
    assert chosen([], 24, 3) == ([], [])


def test_gaze_brings_what_it_is_made_of() -> None:
    assert wanted(["gaze"]) == ["pose", "landmarks", "gaze"]
    assert wanted(["expression"]) == ["expression"]
    assert wanted([]) == []


def test_one_checksum_for_all_weights(tmp_path: Any) -> None:
    first, second = (ResolvedAsset(tmp_path, name, letter * 64) for name, letter in (("a", "0"), ("b", "1")))
    assert len(combined([first])) == 64
    assert len({combined([first]), combined([second]), combined([first, second])}) == 3
