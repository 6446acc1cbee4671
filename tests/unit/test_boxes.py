"""Letterboxes, planes and suppression."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from framemesh.boxes import MOST, clip, detections, letterbox, narrowed, nms, planes, ratio
from framemesh.messages import Box

Array = npt.NDArray[Any]
LABELS = ("person", "bicycle", "car")

sizes = st.tuples(st.integers(1, 900), st.integers(1, 900))
corners = st.floats(-200, 1000, width=32)
lengths = st.floats(0, 600, width=32)


@st.composite
def candidates(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    """Boxes [n, 4] (some outside the picture), scores and classes."""
    count = draw(st.integers(0, 12))
    rows = draw(
        st.lists(st.tuples(corners, corners, lengths, lengths), min_size=count, max_size=count).map(
            lambda found: [(x, y, x + w, y + h) for x, y, w, h in found]
        )
    )
    scores = draw(st.lists(st.floats(1 / 64, 1, width=32), min_size=count, max_size=count))
    classes = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    return np.array(rows, dtype=float).reshape(-1, 4), np.array(scores), np.array(classes, dtype=np.intp)


def iou(a: Box | Array, b: Box | Array) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return float(shared / union) if union else 0.0


@given(size=sizes, side=st.sampled_from([64, 416]))
def test_letterbox_keeps_the_aspect_and_pads_with_114(size: tuple[int, int], side: int) -> None:
    height, width = size
    out = letterbox(np.full((height, width, 3), 7, np.uint8), side)
    r = ratio(size, side)
    h, w = max(1, int(height * r)), max(1, int(width * r))
    assert out.shape == (side, side, 3)
    assert max(h, w) >= side - 1
    assert (out[:h, :w] == 7).all()
    assert (out[h:] == 114).all()
    assert (out[:, w:] == 114).all()


def test_planes_are_the_channels() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    tensor = planes(image)
    assert tensor.dtype == np.float32
    assert (tensor[0] == image.transpose(2, 0, 1)).all()


@given(found=candidates())
def test_suppression_leaves_no_overlap_within_a_class_and_is_idempotent(
    found: tuple[Array, Array, Array],
) -> None:
    boxes, scores, classes = found
    kept = nms(boxes, scores, classes)
    for place, a in enumerate(kept):
        for b in kept[place + 1 :]:
            assert classes[a] != classes[b] or iou(boxes[a], boxes[b]) <= 0.45 + 1e-9
    assert list(scores[kept]) == sorted(scores[kept], reverse=True)
    again = nms(boxes[kept], scores[kept], classes[kept])
    assert list(again) == list(range(len(kept)))


@given(found=candidates())
def test_what_is_suppressed_overlaps_a_better_box_of_its_class(found: tuple[Array, Array, Array]) -> None:
    boxes, scores, classes = found
    kept = set(nms(boxes, scores, classes).tolist())
    for lost in set(range(len(boxes))) - kept:
        assert any(
            classes[lost] == classes[best]
            and scores[best] >= scores[lost]
            and iou(boxes[lost], boxes[best]) > 0.45 - 1e-9
            for best in kept
        )


def test_suppression_looks_at_the_best_only() -> None:
    boxes = np.array([[i * 20.0, 0, i * 20 + 10, 10] for i in range(400)])
    assert len(nms(boxes, np.linspace(0.1, 1, 400), np.zeros(400, dtype=np.intp))) == MOST


@given(found=candidates(), size=sizes)
def test_detections_lie_inside_the_picture(found: tuple[Array, Array, Array], size: tuple[int, int]) -> None:
    height, width = size
    for detection in detections(*found, size, LABELS):
        x1, y1, x2, y2 = detection.box
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert detection.label == LABELS[detection.class_id]


def test_clip_cuts_at_the_borders() -> None:
    assert clip(np.array([[-5.0, -5, 700, 500]]), (432, 640)).tolist() == [[0, 0, 640, 432]]


@given(size=sizes, width=st.integers(1, 600))
def test_narrowing_bounds_the_width_and_never_enlarges(size: tuple[int, int], width: int) -> None:
    out = narrowed(np.zeros((*size, 3), np.uint8), width)
    assert out.shape[1] == min(size[1], width)
    assert 1 <= out.shape[0] <= size[0]
