"""The real models on real pictures, against boxes and times that a person marked.

Needs the assets: set FRAMEMESH_ASSETS, or run `framemesh assets pull`. A test whose file is missing skips.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from framemesh import assets
from framemesh.errors import FramemeshError
from framemesh.messages import Box, Classification, Detection, Result
from services.classification.decoder import Classifier
from services.detection.decoders import Detector, build
from services.registrator.rules import Closed, Opened, Rule, RuleWatch

Image = npt.NDArray[Any]
DATA = Path(__file__).parents[1] / "data"
CASES: list[dict[str, Any]] = json.loads((DATA / "boxes.json").read_text("utf-8"))
PRESENCES: list[dict[str, float]] = json.loads((DATA / "people_presence.json").read_text("utf-8"))
EDGE = 0.7  # seconds: a head at the border of the picture is a person to us before it is one to a model
WITH_WEIGHTS = ("yolox-nano", "fastestdet")


def need(name: str) -> Path:
    path = assets.find(name)
    if path is None:
        pytest.skip(f"asset {name} is not here: set FRAMEMESH_ASSETS or run `framemesh assets pull {name}`")
    return path


def detector(name: str) -> Detector:
    return build(name, need(name) if name in WITH_WEIGHTS else None)


def frames(name: str) -> Iterator[tuple[float, av.VideoFrame]]:
    with av.open(str(need(name))) as container:
        for frame in container.decode(video=0):
            yield float(frame.time or 0), frame


@cache
def picture(name: str, at_s: float | None) -> Image:
    if at_s is None:
        image = cv2.imread(str(need(name)))
        assert image is not None
        return image
    return next(frame.to_ndarray(format="bgr24") for t, frame in frames(name) if t > at_s - 0.001)


def detect(model: Detector, image: Image) -> list[Detection]:
    (raw,) = model.infer([model.preprocess(image)])
    height, width = image.shape[:2]
    return model.postprocess(raw, (height, width))


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['picture']}-{case.get('at_s', 'photo')}")
@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_the_objects_are_where_a_person_marked_them(name: str, case: dict[str, Any]) -> None:
    found = detect(detector(name), picture(case["picture"], case.get("at_s")))
    for marked in case["objects"]:
        hits = [d for d in found if d.label == marked["label"] and iou(d.box, marked["box"]) >= 0.5]
        assert marked.get("hard") or len(hits) == 1, marked


@pytest.mark.parametrize(
    ("name", "picture_name", "label"),
    [
        (name, picture_name, label)
        for name in WITH_WEIGHTS
        for picture_name, label in (("people", "person"), ("bottles", "bottle"))
    ],
)
def test_nothing_is_counted_that_is_not_there(name: str, picture_name: str, label: str) -> None:
    for case in (case for case in CASES if case["picture"] == picture_name):
        found = [d for d in detect(detector(name), picture(picture_name, case["at_s"])) if d.label == label]
        assert len(found) == len(case["objects"]), case["at_s"]


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_people_are_seen_while_they_are_there_and_never_else(name: str) -> None:
    model = detector(name)
    for t, frame in frames("people"):
        if round(t * 10) % 20:
            continue
        inside = any(p["enter_s"] + EDGE <= t <= p["leave_s"] - EDGE for p in PRESENCES)
        outside = not any(p["enter_s"] <= t <= p["leave_s"] for p in PRESENCES)
        if inside or outside:
            labels = {d.label for d in detect(model, frame.to_ndarray(format="bgr24"))}
            assert ("person" in labels) == inside, t


def test_the_presences_are_in_order_with_gaps() -> None:
    times = [t for p in PRESENCES for t in (p["enter_s"], p["leave_s"])]
    assert times == sorted(times)
    assert min(np.diff(times)[1::2]) > 2.5


def test_hog_finds_a_standing_person_and_nobody_in_the_empty_corridor() -> None:
    model = detector("people-hog")
    (marked,) = next(c["objects"] for c in CASES if c["picture"] == "people" and c["at_s"] == 80.0)
    assert any(iou(d.box, marked["box"]) >= 0.5 for d in detect(model, picture("people", 80.0)))
    assert detect(model, picture("people", 3.0)) == []
    assert detect(model, picture("people", 48.0)) == []


MARKED_FACES: dict[int, Box] = {
    0: (64, 36, 109, 97),
    24: (64, 36, 109, 95),
    72: (51, 28, 102, 90),
    119: (48, 38, 98, 97),
}
"""Frame of the carphone sample to its face, hairline to chin, as marked on the enlarged frame."""


@cache
def carphone() -> list[tuple[float, list[Detection]]]:
    model = detector("face-haar")
    return [(t, detect(model, frame.to_ndarray(format="bgr24"))) for t, frame in frames("carphone")]


def test_haar_finds_the_face_in_half_of_the_frames_and_nothing_else() -> None:
    found = [detections for _, detections in carphone()]
    assert len(found) == 120
    assert sum(bool(detections) for detections in found) >= 55
    assert max(len(detections) for detections in found) == 1
    # The head never leaves this part of the picture.
    for face in (detections[0] for detections in found if detections):
        x1, y1, x2, y2 = face.box
        assert (face.label, face.class_id) == ("face", 0)
        assert 35 <= x1 < x2 <= 125
        assert 15 <= y1 < y2 <= 105
        assert 50 <= x2 - x1 <= 75


@pytest.mark.parametrize("index", MARKED_FACES)
def test_haar_boxes_are_where_the_face_was_marked(index: int) -> None:
    _, (face,) = carphone()[index]
    assert iou(face.box, MARKED_FACES[index]) >= 0.6


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_the_faces_of_the_carphone_sample_make_one_event(stride: int) -> None:
    watch = RuleWatch(Rule(name="face", labels={"face"}))
    results = [
        Result(
            model="DetectionInference",
            source="carphone",
            run="r1",
            seq=seq,
            frame_id=f"frame_{seq:06d}",
            timestamp=t,
            frame_url="",
            result=list(detections),
            timing_ms={},
            captured_at=t,
            width=176,
            height=144,
        )
        for seq, (t, detections) in enumerate(carphone())
    ]
    decisions = [decision for result in results[::stride] for decision in watch.feed(result)]
    decisions += watch.finish()
    assert len(decisions) == 2
    opened, closed = decisions
    assert isinstance(opened, Opened)
    assert isinstance(closed, Closed)
    assert (opened.event.id, opened.event.label) == (closed.event.id, "face")
    assert closed.event.start == 0
    assert closed.event.end > 2
    assert closed.event.confidence > 0.7


def test_weights_of_another_detector_are_refused() -> None:
    path = need("fastestdet")
    with pytest.raises(FramemeshError) as error:
        build("yolox-nano", path)
    assert str(path) in str(error.value)
    assert "[1, 3, 352, 352] -> tensor(float)[1, 85, 22, 22]" in str(error.value)


def classify(name: str) -> list[Classification]:
    classifier = Classifier(need("squeezenet"), need("squeezenet-labels"))
    image = picture(name, None)
    (raw,) = classifier.infer([classifier.preprocess(image)])
    height, width = image.shape[:2]
    return classifier.postprocess(raw, (height, width))


def test_the_cat_is_a_cat() -> None:
    found = classify("cat")
    assert {c.label for c in found} == {"Egyptian cat", "tiger cat", "tabby"}
    assert sum(c.confidence for c in found) > 0.9


def test_the_coffee_is_an_espresso() -> None:
    best = classify("coffee")[0]
    assert (best.label, best.class_id) == ("espresso", 967)
    assert best.confidence > 0.8
