"""Boxes and pictures: letterboxes, planes, suppression, and the way into a model and back."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from framemesh.boxes import MOST, clip, detections, grid, narrowed, nms, planes
from framemesh.decoders.fit import Resize, fit
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
    out = fit("letterbox", size, (side, side)).draw(np.full((height, width, 3), 7, np.uint8), 114)
    r = min(side / height, side / width)
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


@given(size=st.tuples(st.integers(8, 200), st.integers(8, 200)))
def test_a_grid_has_a_cell_a_stride(size: tuple[int, int]) -> None:
    height, width = size
    corners, strides = grid(size, (4, 8))
    assert len(corners) == (height // 4) * (width // 4) + (height // 8) * (width // 8)
    pixels = corners * strides[:, None]
    assert len(np.unique(np.column_stack((pixels, strides)), axis=0)) == len(corners)
    assert (pixels + strides[:, None] <= [width, height]).all()
    assert [found.tolist() for found in grid(64, (8, 16))] == [found.tolist() for found in grid((64, 64), (8, 16))]


def test_without_a_threshold_nothing_is_suppressed() -> None:
    boxes = np.array([[0.0, 0, 10, 10]] * 3)
    assert nms(boxes, np.array([0.2, 0.9, 0.5]), np.zeros(3, dtype=np.intp), 1).tolist() == [1, 2, 0]


# ── there and back ───────────────────────────────────────────────────────────────────────────────

modes = st.sampled_from(get_args(Resize))
inputs = st.tuples(st.integers(16, 300), st.integers(16, 300))
shares = st.floats(0.3, 1)


@given(mode=modes, picture=sizes, size=inputs, share=shares, box=st.tuples(*[st.floats(0, 1)] * 4))
def test_a_box_survives_the_way_there_and_back(
    mode: Resize, picture: tuple[int, int], size: tuple[int, int], share: float, box: Box
) -> None:
    found = fit(mode, picture, size, share)
    part, place = found.part, found.place
    for inner, outer in ((part, picture), (place, size)):
        assert inner.top >= 0 <= inner.left
        assert 1 <= inner.height <= outer[0] - inner.top
        assert 1 <= inner.width <= outer[1] - inner.left
    known = np.array([[x * length for x, length in zip(box, (*picture[::-1], *picture[::-1]), strict=True)]])
    there = [
        place.left + (known[0, 0] - part.left) * place.width / part.width,
        place.top + (known[0, 1] - part.top) * place.height / part.height,
        place.left + (known[0, 2] - part.left) * place.width / part.width,
        place.top + (known[0, 3] - part.top) * place.height / part.height,
    ]
    assert np.allclose(found.back(np.array([there], dtype=np.float64)), known, atol=1e-6)


@settings(deadline=None)
@given(
    mode=modes,
    picture=st.tuples(st.integers(60, 600), st.integers(60, 600)),
    size=inputs,
    at=st.tuples(st.floats(0.2, 0.4), st.floats(0.2, 0.4), st.floats(0.6, 0.8), st.floats(0.6, 0.8)),
)
def test_what_is_drawn_is_found_again(
    mode: Resize, picture: tuple[int, int], size: tuple[int, int], at: Box
) -> None:
    """Edges are measured in the input's own pixels, so the drawing and the way back are checked together."""
    height, width = picture
    painted = fit(mode, picture, size).part
    x1, x2 = (round(painted.left + share * painted.width) for share in (at[0], at[2]))
    y1, y2 = (round(painted.top + share * painted.height) for share in (at[1], at[3]))
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    there = fit(mode, picture, size)
    pixels = there.draw(image, 0)
    assert pixels.shape == (*size, 3)
    rows, columns = (
        np.flatnonzero(pixels[..., 0].max(axis=1) > 127),
        np.flatnonzero(pixels[..., 0].max(axis=0) > 127),
    )
    if not len(rows) or not len(columns):  # thinner than a pixel of the input
        return
    seen = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=np.float64)
    a_pixel = max(1, there.part.width / there.place.width), max(1, there.part.height / there.place.height)
    assert (np.abs(there.back(seen)[0] - [x1, y1, x2, y2]) <= np.array([*a_pixel, *a_pixel]) + 1e-6).all()


def test_where_pictures_are_put() -> None:
    assert fit("letterbox", (100, 200), (64, 64)).place == (0, 0, 32, 64)
    assert fit("letterbox-centre", (100, 200), (64, 64)).place == (16, 0, 32, 64)
    assert fit("letterbox-centre", (200, 100), (64, 64)).place == (0, 16, 64, 32)
    assert fit("stretch", (100, 200), (64, 32)).place == (0, 0, 64, 32)
    assert fit("crop", (256, 512), (224, 224), 0.875).part == (16, 144, 224, 224)
    assert fit("crop", (100, 400), (50, 100)).part == (0, 100, 100, 200)
