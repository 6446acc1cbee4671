"""Detectors and the classifier without their weights, and what the ONNX layer says of files that do not fit."""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framemesh import onnx
from framemesh.decoders.fit import fit
from framemesh.decoders.labels import COCO
from framemesh.errors import FramemeshError
from framemesh.messages import Box, Detection
from services.classification import decoder
from services.classification.decoder import Classifier
from services.detection import decoders
from services.detection.decoders import (
    DETECTORS,
    FaceHaarDetector,
    FastestDetDetector,
    PeopleHogDetector,
    YoloxDetector,
    build,
    named,
)

Array = npt.NDArray[Any]
FLOAT, FLOAT16 = 1, 10

sizes = st.tuples(st.integers(1, 900), st.integers(1, 900))


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (decoders, decoder):
        monkeypatch.setattr(module, "Model", lambda *_, **__: None)


# ── the ONNX layer, on model files written by hand ───────────────────────────────────────────────


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _value(name: bytes, shape: tuple[int | str, ...], kind: int) -> bytes:
    dims = b"".join(_field(1, _field(1, d) if isinstance(d, int) else _field(2, d.encode())) for d in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, dims)))


def identity(path: Path, shape: tuple[int | str, ...], kind: int = FLOAT) -> Path:
    """Write an ONNX model that gives back its input."""
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Identity")
    values = _field(11, _value(b"x", shape, kind)) + _field(12, _value(b"y", shape, kind))
    graph = _field(1, node) + _field(2, b"graph") + values
    path.write_bytes(_field(1, 8) + _field(8, _field(1, b"") + _field(2, 13)) + _field(7, graph))
    return path


def test_a_model_runs_on_the_cpu(tmp_path: Path) -> None:
    model = onnx.Model(identity(tmp_path / "m.onnx", (1, 4)), takes=(1, 4), gives=(1, 4))
    tensor = np.arange(4, dtype=np.float32)[None]
    assert model.run(tensor).tolist() == tensor.tolist()
    assert model.provider == "cpu"


def test_a_dynamic_dimension_fits_any_number(tmp_path: Path) -> None:
    onnx.Model(identity(tmp_path / "m.onnx", ("N", 4)), takes=(1, 4), gives=(1, 4))


@pytest.mark.parametrize(
    ("shape", "kind", "found"),
    [
        ((1, 5), FLOAT, "tensor(float)[1, 5]"),
        ((4,), FLOAT, "tensor(float)[4]"),
        ((1, 4), FLOAT16, "tensor(float16)[1, 4]"),
    ],
)
def test_another_model_is_named_with_what_it_is(
    tmp_path: Path, shape: tuple[int, ...], kind: int, found: str
) -> None:
    path = identity(tmp_path / "m.onnx", shape, kind)
    with pytest.raises(FramemeshError) as error:
        onnx.Model(path, takes=(1, 4), gives=(1, 4))
    assert str(path) in str(error.value)
    assert f"found {found}" in str(error.value)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(FramemeshError, match=r"cut\.onnx does not load .*assets pull"):
        onnx.open_session(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FramemeshError, match=r"gone\.onnx does not exist"):
        onnx.open_session(tmp_path / "gone.onnx")


def test_providers_are_the_fastest_that_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [onnx.CPU])
    assert onnx.providers() == [onnx.CPU]
    monkeypatch.setattr(ort, "get_available_providers", lambda: [onnx.CPU, onnx.CUDA, onnx.TENSORRT])
    assert onnx.providers() == [onnx.CUDA, onnx.CPU]
    assert onnx.providers(["tensorrt", "cuda"]) == [onnx.TENSORRT, onnx.CUDA, onnx.CPU]
    assert onnx.providers(["cuda"]) == [onnx.CUDA, onnx.CPU]
    assert onnx.providers(["cpu"]) == [onnx.CPU]
    assert onnx.providers([onnx.CUDA, "cuda", "CUDA"]) == [onnx.CUDA, onnx.CPU]


@pytest.fixture
def offered_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ONNX Runtime that offers CUDA and cannot load it."""
    if onnx.CUDA in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [onnx.TENSORRT, onnx.CUDA, onnx.CPU])
    onnx._lacking.cache_clear()
    yield
    onnx._lacking.cache_clear()


@pytest.mark.usefixtures("offered_cuda")
@pytest.mark.parametrize(("asked", "wanted"), [(None, onnx.CUDA), (["tensorrt", "cuda"], onnx.TENSORRT)])
def test_a_gpu_that_does_not_load_costs_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: list[str] | None, wanted: str
) -> None:
    with caplog.at_level(logging.INFO):
        session = onnx.open_session(identity(tmp_path / "m.onnx", (1, 4)), providers=asked)
    assert session.get_providers() == [onnx.CPU]
    (message,) = caplog.messages
    assert message.startswith(f"m.onnx runs on {onnx.CPU}: {wanted} did not load")


@pytest.mark.usefixtures("offered_cuda")
def test_a_library_that_is_missing_is_named_and_not_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost = "libcublasLt.so.13: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(ort, "preload_dlls", lambda: print(f"Failed to load libcublasLt.so.13: {lost}\nPlease …"))
    for _ in range(2):
        onnx.open_session(identity(tmp_path / "m.onnx", (1, 4)))
    said = (
        f"m.onnx runs on {onnx.CPU}: {onnx.CUDA} did not load ({lost}; pip install 'onnxruntime-gpu[cuda,cudnn]')"
    )
    assert caplog.messages == [said, said]
    assert not capsys.readouterr().out


@pytest.mark.usefixtures("offered_cuda")
def test_a_driver_that_is_missing_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        onnx.open_session(identity(tmp_path / "m.onnx", (1, 4)))
        assert "(libcuda.so.1: " in caplog.text
        assert "install the GPU's driver" in caplog.text
    else:
        pytest.skip("there is a driver here")


def test_tensorrt_keeps_its_engines_in_a_folder_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no" / "such"))
    found = onnx._with_options(onnx.TENSORRT)
    assert isinstance(found, tuple)
    assert Path(found[1]["trt_engine_cache_path"]).is_dir()


def test_the_cpu_costs_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    onnx.open_session(identity(tmp_path / "m.onnx", (1, 4)), providers=["cpu"])
    assert not caplog.records


# ── building ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "hint"),
    [("yolo-nano", "yolox-nano"), ("HOG-people", "choose one of|people-hog"), ("?", "people-hog")],
)
def test_an_unknown_detector_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(FramemeshError, match=hint):
        build(name)


def test_a_detector_with_weights_needs_a_path() -> None:
    with pytest.raises(FramemeshError, match="give its path, or choose people-hog or face-haar"):
        build("yolox-nano")


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_without_weights_is_built_from_its_name(name: str) -> None:
    assert named(name).name == name
    if not named(name).needs_weights:
        assert build(name).name == name


def test_the_detectors_that_need_no_weights() -> None:
    free = [name for name, detector in DETECTORS.items() if not detector.needs_weights]
    assert free == ["people-hog", "face-haar"]


def test_build_sets_the_threshold_only_when_asked() -> None:
    assert build("people-hog", confidence=0.9).confidence == 0.9
    assert build("people-hog").confidence == 0.6


def test_opencv_5_has_no_people_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "HOGDescriptor")
    with pytest.raises(FramemeshError, match="opencv-python-headless<5"):
        build("people-hog")


def test_there_are_80_labels() -> None:
    assert len(set(COCO)) == 80
    assert (COCO[0], COCO[39], COCO[79]) == ("person", "bottle", "toothbrush")


# ── decoding ─────────────────────────────────────────────────────────────────────────────────────


def yolox_raw(box: Box, size: tuple[int, int], row: int, stride: int, cells: int) -> Array:
    """One candidate, written as the model would: in the cell of its centre, in the row of its stride."""
    place = fit("letterbox", size, (416, 416)).place
    across, down = place.width / size[1], place.height / size[0]
    x1, y1, x2, y2 = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    cx, cy = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
    raw = np.zeros((1, 3549, 85), dtype=np.float32)
    at = row + min(int(cy), cells - 1) * cells + min(int(cx), cells - 1)
    gx, gy = (at - row) % cells, (at - row) // cells
    raw[0, at, :5] = (
        cx - gx,
        cy - gy,
        math.log((x2 - x1) / stride),
        math.log((y2 - y1) / stride),
        0.9,
    )
    raw[0, at, 5 + 39] = 0.8
    return raw


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(("row", "stride", "cells"), [(0, 8, 52), (2704, 16, 26), (3380, 32, 13)])
@pytest.mark.parametrize("size", [(432, 768), (768, 432), (200, 200), (1080, 1920)])
def test_yolox_decodes_a_box_of_every_stride(row: int, stride: int, cells: int, size: tuple[int, int]) -> None:
    height, width = size
    box = (width * 0.2, height * 0.3, width * 0.6, height * 0.9)
    (found,) = YoloxDetector("").postprocess(yolox_raw(box, size, row, stride, cells), size)
    assert found.box == pytest.approx(box, abs=0.1)
    assert (found.label, found.class_id) == ("bottle", 39)
    assert found.confidence == pytest.approx(0.72, abs=1e-4)


@pytest.mark.usefixtures("no_weights")
def test_yolox_drops_what_is_unsure() -> None:
    raw = yolox_raw((10, 10, 100, 100), (200, 200), 0, 8, 52)
    detector = YoloxDetector("", confidence=0.73)
    assert detector.postprocess(raw, (200, 200)) == []
    assert detector.postprocess(np.zeros_like(raw), (200, 200)) == []


@pytest.mark.usefixtures("no_weights")
def test_yolox_input_is_bgr_0_to_255_at_the_top_left() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[..., 0] = 255
    tensor = YoloxDetector("").preprocess(image)
    assert tensor.shape == (1, 3, 416, 416)
    assert tensor[0, :, 0, 0].tolist() == [255, 0, 0]
    assert tensor[0, :, 415, 415].tolist() == [114, 114, 114]


@pytest.mark.usefixtures("no_weights")
def test_fastestdet_decodes_a_cell() -> None:
    raw = np.zeros((1, 85, 22, 22), dtype=np.float32)
    raw[0, :5, 7, 10] = (1, math.atanh(0.5), math.atanh(0.25), 0, math.log(0.25 / 0.75))
    raw[0, 5 + 15, 7, 10] = 0.9
    (found,) = FastestDetDetector("").postprocess(raw, (220, 440))
    cx, cy = 10.5 * 20, 7.25 * 10
    assert found.label == "cat"
    assert found.confidence == pytest.approx(0.9**0.4, abs=1e-4)
    assert found.box == pytest.approx((cx - 110, cy - 27.5, cx + 110, cy + 27.5), abs=0.01)
    assert FastestDetDetector("", confidence=0.97).postprocess(raw, (220, 440)) == []


@pytest.mark.usefixtures("no_weights")
def test_fastestdet_input_is_0_to_1() -> None:
    tensor = FastestDetDetector("").preprocess(np.full((10, 20, 3), 255, np.uint8))
    assert tensor.shape == (1, 3, 352, 352)
    assert np.allclose(tensor, 1)


# ── people-hog ───────────────────────────────────────────────────────────────────────────────────


def test_hog_scales_wide_pictures_down_and_leaves_small_ones() -> None:
    detector = PeopleHogDetector()
    assert detector.preprocess(np.zeros((1080, 1920, 3), np.uint8)).shape == (270, 480, 3)
    assert detector.preprocess(np.zeros((144, 176, 3), np.uint8)).shape == (144, 176, 3)


@pytest.mark.parametrize("shape", [(300, 400, 3), (1, 1, 3), (127, 400, 3), (400, 63, 3)])
def test_hog_finds_nobody_in_grey(shape: tuple[int, int, int]) -> None:
    detector = PeopleHogDetector()
    (raw,) = detector.infer([detector.preprocess(np.full(shape, 90, np.uint8))])
    assert detector.postprocess(raw, shape[:2]) == []


def test_hog_weight_becomes_a_confidence() -> None:
    raw = np.array([[0.1, 0.2, 0.5, 0.8, 2.0], [0.6, 0.2, 0.9, 0.8, 0.1]])
    assert PeopleHogDetector().postprocess(raw, (100, 200)) == [
        Detection(label="person", class_id=0, confidence=0.8808, box=(20, 20, 100, 80))
    ]


# ── face-haar ────────────────────────────────────────────────────────────────────────────────────


def test_haar_takes_grey_pictures_of_at_most_480_pixels_of_width() -> None:
    detector = FaceHaarDetector()
    assert detector.preprocess(np.zeros((1080, 1920, 3), np.uint8)).shape == (270, 480)
    assert detector.preprocess(np.zeros((144, 176, 3), np.uint8)).shape == (144, 176)


@pytest.mark.parametrize("shape", [(300, 400, 3), (1, 1, 3), (19, 400, 3), (2000, 2, 3)])
def test_haar_finds_nobody_in_grey(shape: tuple[int, int, int]) -> None:
    detector = FaceHaarDetector()
    (raw,) = detector.infer([detector.preprocess(np.full(shape, 90, np.uint8))])
    assert detector.postprocess(raw, shape[:2]) == []


def test_haar_neighbours_become_a_confidence() -> None:
    raw = np.array([[0.1, 0.2, 0.5, 0.8, 15], [0.6, 0.2, 0.9, 0.8, 5], [0.6, 0.2, 1.1, 0.8, 6]])
    assert FaceHaarDetector().postprocess(raw, (100, 200)) == [
        Detection(label="face", class_id=0, confidence=0.75, box=(20, 20, 100, 80)),
        Detection(label="face", class_id=0, confidence=0.5455, box=(120, 20, 200, 80)),
    ]
    assert len(FaceHaarDetector(confidence=0.4).postprocess(raw, (100, 200))) == 2  # the other two are one face


def test_opencv_5_has_no_face_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(FramemeshError, match=r"no face detector: run .*opencv-python-headless<5"):
        build("face-haar")


@pytest.mark.parametrize("text", [None, "<opencv_storage></opencv_storage>"], ids=["missing", "empty"])
def test_a_cascade_that_is_not_there_is_named(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    if text is not None:
        (folder / FaceHaarDetector.cascade).write_text(text)
    monkeypatch.setattr(cv2, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FramemeshError, match=r"alt2\.xml is missing or damaged: run .*--force-reinstall"):
        build("face-haar")
    if text is None:
        assert capfd.readouterr().err == ""


# ── the classifier ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{i},name {i}, other name\n" for i in range(1000)), encoding="utf-8")
    return path


@pytest.mark.usefixtures("no_weights")
def test_the_classifier_crops_the_centre_and_subtracts_the_mean(labels: Path) -> None:
    image = np.zeros((256, 512, 3), np.uint8)
    image[16:240, 144:368] = 200  # what is left after the crop
    tensor = Classifier("", labels).preprocess(image)
    assert tensor.shape == (1, 3, 224, 224)
    assert tensor.dtype == np.float16
    assert [np.unique(plane).tolist() for plane in tensor[0]] == [[96], [83], [77]]


@pytest.mark.usefixtures("no_weights")
@given(size=sizes)
def test_the_classifier_takes_any_size(size: tuple[int, int]) -> None:
    tensor = Classifier.preprocess(object.__new__(Classifier), np.zeros((*size, 3), np.uint8))
    assert tensor.shape == (1, 3, 224, 224)


@pytest.mark.usefixtures("no_weights")
def test_the_classifier_gives_the_best_first(labels: Path) -> None:
    raw = np.zeros((1, 1000, 1, 1), dtype=np.float16)
    for index, score in ((5, 0.5), (7, 0.25), (9, 0.125), (11, 0.0625), (13, 0.03125)):
        raw[0, index] = score
    found = Classifier("", labels).postprocess(raw, (10, 10), region=2)
    assert [(c.label, c.class_id, c.confidence, c.region) for c in found] == [
        ("name 5", 5, 0.5, 2),
        ("name 7", 7, 0.25, 2),
        ("name 9", 9, 0.125, 2),
    ]
    assert [c.class_id for c in Classifier("", labels, top=9).postprocess(raw, (10, 10))] == [5, 7, 9, 11]
    assert Classifier("", labels, confidence=0.6).postprocess(raw, (10, 10)) == []


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("text", "complaint"),
    [("tench\n", "not lines of 'index,name'"), ("0\n", "not lines of"), ("0,tench\n", "must name the classes")],
)
def test_a_wrong_labels_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FramemeshError, match=rf"labels\.txt .*{complaint}"):
        Classifier("", path)
    with pytest.raises(FramemeshError, match=r"gone\.txt cannot be read"):
        Classifier("", tmp_path / "gone.txt")
