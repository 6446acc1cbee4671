"""Models by their YAML: the file, what goes into the model, and what comes out, with small models made here."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper, save

from examples.brightness import Brightness
from framemesh.assets import file_sha256
from framemesh.bus import Reject
from framemesh.decoders.files import KINDS, read_spec
from framemesh.decoders.labels import COCO, COCO_91, read_labels
from framemesh.decoders.model import SpecModel
from framemesh.decoders.spec import Input
from framemesh.errors import FramemeshError
from framemesh.messages import Classification, Detection
from framemesh.onnx_worker import OnnxInference, OnnxSettings, worker_for
from framemesh.settings import load

Array = npt.NDArray[Any]
Dims = Sequence[int | str]
FLOAT, FLOAT16, UINT8, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.INT64
EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE = (100, 200)


# ── small models ─────────────────────────────────────────────────────────────────────────────────


def write(path: Path, takes: Mapping[str, tuple[int, Dims]], nodes: list[Any], gives: Mapping[str, int]) -> Path:
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in takes.items()]
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in gives.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def constant(path: Path, shape: Dims, kind: int = FLOAT, **outputs: Array) -> Path:
    """A model that gives the same for every picture."""
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(x)) for name, x in outputs.items()
    ]
    gives = {name: helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in outputs.items()}
    return write(path, {"x": (kind, shape)}, nodes, gives)


def means(path: Path, shape: Dims, kind: int = FLOAT) -> Path:
    """A model that gives the mean of each channel, [N, 3]: a classifier of colours."""
    axes = [2, 3] if shape[1] == 3 else [1, 2]
    cast = helper.make_node("Cast", ["x"], ["f"], to=FLOAT)
    mean = helper.make_node("ReduceMean", ["f"], ["y"], axes=axes, keepdims=0)
    return write(path, {"x": (kind, shape)}, [cast, mean], {"y": FLOAT})


def spec(folder: Path, text: str, name: str = "m.yaml", **fields: Any) -> Path:
    values = {"kind": "TestInference", "model": "m.onnx"} | yaml.safe_load(text) | fields
    path = folder / name
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path


def opened(path: Path, **settings: Any) -> SpecModel:
    return SpecModel(read_spec(path), path, **settings)


def look(model: SpecModel, image: Array | None = None) -> list[Any]:
    image = np.zeros((*SIZE, 3), np.uint8) if image is None else image
    height, width = image.shape[:2]
    (outputs,) = model.infer([model.preprocess(image)])
    return list(model.postprocess(outputs, (height, width)))


def plain(blue: int, green: int, red: int, size: tuple[int, int] = SIZE) -> Array:
    return np.full((*size, 3), (blue, green, red), np.uint8)


COLOURS = "{decoder: classification, labels: [first, second, third], softmax: false, confidence: 0}"


# ── the YAML ─────────────────────────────────────────────────────────────────────────────────────

GOOD = {"kind": "K", "model": "m.onnx", "decoder": "yolov8", "labels": ["a"]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"confidance": 0.3}, r"confidance: not a field of decoder yolov8; did you mean confidence\?"),
        ({"quux": 1}, r"quux: not a field of decoder yolov8; it may be kind, name, model"),
        ({"top": 3}, r"top: not a field of decoder yolov8; only of classification"),
        ({"strides": [8]}, r"strides: .* only of yolox"),
        ({"input": {"colr": "RGB"}}, r"input\.colr: .* did you mean colour\?"),
        ({"decoder": "yolo"}, r"decoder: want one of yolox, yolov8, ssd, detr, classification \(it is 'yolo'\)"),
        ({"decoder": None}, r"decoder: want one of .* \(it is None\)"),
        ({"kind": None}, r"kind: .*valid string \(it is None\)\. Name of the queue"),
        ({"kind": "two words"}, r"kind: .*pattern.* \(it is 'two words'\)"),
        ({"sha256": "abc"}, r"sha256: "),
        ({"confidence": 40}, r"confidence: .*less than or equal to 1 \(it is 40\)\. Least confidence"),
        ({"nms": "much"}, r"nms: .*valid number"),
        ({"labels": []}, r"labels: want a list of names, a file of names, coco or coco-91 \(it is \[\]\)"),
        ({"labels": ["a", True]}, r"labels: True is no name .* put it in quotes"),
        ({"labels": ["a" * 257]}, r"labels: .* is no name of 1 to 256 characters"),
        ({"input": 640}, r"input: .*\(it is 640\)"),
        ({"input": {"size": [640, 480, 3]}}, r"input\.size: want \[width, height\] in pixels, or one number"),
        ({"input": {"size": -1}}, r"input\.size: want \[width"),
        ({"input": {"resize": "squash"}}, r"input\.resize: .*'letterbox-centre'.*\(it is 'squash'\)"),
        ({"input": {"scale": 0}}, r"input\.scale: .*greater than 0 \(it is 0\)\. Pixels are divided by it"),
        ({"input": {"mean": [1, 2]}}, r"input: mean has 2 numbers; colour RGB has 3"),
        ({"input": {"colour": "GREY", "std": [1, 2, 3]}}, r"input: std has 3 numbers; colour GREY has 1"),
        ({"input": {"std": [1, 0, 1]}}, r"input: std must be above 0"),
        ({"outputs": {"boxs": "a"}}, r"outputs: want a name or number for any of predictions"),
        ({"outputs": {"predictions": 1.5}}, r"outputs: predictions wants an output's name, or its number"),
        ({"outputs": ["a"]}, r"outputs: want a name or number"),
    ],
)
def test_a_wrong_field_is_named_with_its_fix(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(FramemeshError, match=rf"{re.escape(str(path))}: {complaint}") as error:
        read_spec(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["kind", "model", "labels"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in GOOD.items() if name != field}))
    with pytest.raises(FramemeshError, match=rf"bad\.yaml: {field}: Field required\. "):
        read_spec(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"kind: [a\nmodel: b", r"is not YAML: .* line 2"),
        (b"- a", r"must say kind, model, decoder and labels"),
        (b"", r"must say kind"),
        (b"\xff\xfe\x00", r"is not UTF-8 text; give the path of a model's YAML, not of the model"),
        (None, r"cannot be read: No such file"),
    ],
)
def test_what_is_no_yaml_of_a_model_is_named(tmp_path: Path, text: bytes | None, complaint: str) -> None:
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(FramemeshError, match=rf"bad\.yaml {complaint}"):
        read_spec(path)


LONG = "x" * 10_000


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model": LONG}, r"model: 'x+ is neither a file in .* nor an asset"),
        ({"labels": LONG}, r"labels: 'x+ is neither a file in .* nor an asset"),
        ({"labels": [LONG]}, r"labels: 'x+ is no name of 1 to 256 characters"),
        ({"kind": LONG}, r"kind: .*pattern"),
        ({"sha256": LONG}, r"sha256: "),
        ({"decoder": LONG}, r"decoder: want one of"),
        ({"outputs": {"scores": LONG}}, r"outputs\.scores: the model has no output 'x"),
        ({LONG: 1}, r"x+: not a field of decoder classification"),
    ],
)
def test_what_is_far_too_long_is_named_and_not_shown(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    constant(tmp_path / "m.onnx", (1, 3, 8, 8), y=np.array([[0.9, 0.1]], np.float32))
    path = spec(tmp_path, COLOURS, **change)
    with pytest.raises(FramemeshError, match=rf"{re.escape(str(path))}: {complaint}") as error:
        opened(path)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["yolox", "squeezenet"])
def test_the_examples_are_read(name: str) -> None:
    worker = worker_for(EXAMPLES / f"{name}.yaml")
    assert worker.kind == f"{name.title()}Inference" == worker.__name__


def test_every_field_is_in_the_examples_readme() -> None:
    text = (EXAMPLES / "README.md").read_text("utf-8")
    fields = {name for kind in KINDS.values() for name in kind.spec.model_fields} | set(Input.model_fields)
    missing = {name for name in fields if not re.search(rf"`{name}[`:]", text)}
    assert not missing - {"input"}
    assert all(f"`{name}`" in text for name in KINDS)


def test_a_worker_keeps_its_kind_and_its_model_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constant(tmp_path / "m.onnx", (1, 3, 8, 8), y=np.array([[0.9, 0.1]], np.float32))
    path = spec(tmp_path, "{decoder: classification, labels: [a, b], confidence: 0.5}", "forklift.yaml")
    monkeypatch.chdir(tmp_path)
    worker = worker_for(Path("forklift.yaml"))
    monkeypatch.setenv("MODEL_FILE", "other.yaml")
    monkeypatch.chdir("/")
    running = worker(load(worker.settings_type), bus=None, registry=None)  # type: ignore[arg-type]
    running.load()
    assert issubclass(worker, OnnxInference)
    assert (worker.kind, worker.path) == ("TestInference", path)
    assert (running.model_name, running.provider) == ("forklift", "cpu")
    assert running.model_sha256 == file_sha256(tmp_path / "m.onnx")
    assert running.min_size == math.ceil(8 / 0.875)
    (output,) = running.infer([running.preprocess(plain(0, 0, 0))])
    assert running.postprocess(output, *SIZE) == [Classification(label="a", class_id=0, confidence=0.9)]


def test_the_setting_is_asked_for() -> None:
    with pytest.raises(FramemeshError, match=r"setting model_file: Field required\. The model's YAML"):
        load(OnnxSettings)


def test_the_example_worker_tells_dark_from_bright() -> None:
    running = Brightness(load(Brightness.settings_type), bus=None, registry=None)  # type: ignore[arg-type]
    running.load()
    outputs = running.infer([running.preprocess(plain(value, value, value)) for value in (51, 204)])
    found = [item for output in outputs for item in running.postprocess(output, *SIZE)]
    assert [(item.kind, item.label, item.data) for item in found] == [
        ("brightness", "dark", {"mean": 0.2}),
        ("brightness", "bright", {"mean": 0.8}),
    ]
    assert running.model_name == "brightness"


# ── labels ───────────────────────────────────────────────────────────────────────────────────────


def test_coco_by_its_own_numbers() -> None:
    assert (len(COCO), len(COCO_91)) == (80, 91)
    assert [COCO_91[n] for n in (0, 1, 13, 44, 62, 67, 90)] == [
        "N/A", "person", "stop sign", "bottle", "chair", "dining table", "toothbrush",
    ]  # fmt: skip
    assert tuple(name for name in COCO_91 if name != "N/A") == COCO


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a\nb c\n\n", ("a", "b c")),
        ("0,tench, Tinca tinca\n1,goldfish\n", ("tench", "goldfish")),
        ("1,b\n0,a\n", ("a", "b")),
        ("1,b\n2,c\n", ("1,b", "2,c")),
        ("\ufeffä\r\nb\r\n", ("ä", "b")),
    ],
)
def test_labels_are_a_name_a_line(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert read_labels(path) == names


@pytest.mark.parametrize(
    ("labels", "content", "complaint"),
    [
        ("gone.txt", None, r"labels: 'gone\.txt' is neither a file in .* nor an asset"),
        ("empty.txt", b"\n", r"labels file .*empty\.txt must hold a name a line"),
        ("long.txt", b"a" * 300, r"labels file .*long\.txt must hold .* of 256 characters"),
        ("binary.txt", b"\xff\xfe", r"labels file .*binary\.txt cannot be read as UTF-8"),
    ],
)
def test_a_wrong_labels_file_is_named(tmp_path: Path, labels: str, content: bytes | None, complaint: str) -> None:
    means(tmp_path / "m.onnx", (1, 3, 8, 8))
    if content is not None:
        (tmp_path / labels).write_bytes(content)
    with pytest.raises(FramemeshError, match=rf"m\.yaml: {complaint}"):
        opened(spec(tmp_path, COLOURS, labels=labels))


# ── into the model ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        ({}, (200, 100, 50)),
        ({"scale": 1}, (200, 100, 50)),
        ({"colour": "BGR"}, (50, 100, 200)),
        ({"scale": 2}, (100, 50, 25)),
        ({"mean": [20, 10, 5]}, (180, 90, 45)),
        ({"std": [2, 4, 5]}, (100, 25, 10)),
        ({"scale": 2, "mean": [20, 10, 5], "std": [2, 4, 5]}, (40, 10, 4)),
    ],
)
@pytest.mark.parametrize("shape", [(1, 3, 8, 16), (1, 8, 16, 3)], ids=["NCHW", "NHWC"])
def test_colours_are_ordered_and_scaled(
    tmp_path: Path, shape: Dims, wanted: dict[str, Any], seen: tuple[float, ...]
) -> None:
    means(tmp_path / "m.onnx", shape)
    model = opened(spec(tmp_path, COLOURS, input={"scale": 1} | wanted))
    tensor = model.preprocess(plain(50, 100, 200))
    assert tensor.shape == shape
    assert tensor.dtype == np.float32
    (outputs,) = model.infer([tensor])
    assert outputs["scores"][0] == pytest.approx(seen)


def test_pixels_are_divided_by_255_unless_the_model_takes_bytes(tmp_path: Path) -> None:
    means(tmp_path / "m.onnx", (1, 3, 8, 8))
    assert [found.confidence for found in look(opened(spec(tmp_path, COLOURS)), plain(51, 102, 204))] == [
        0.8,
        0.4,
        0.2,
    ]
    means(tmp_path / "m.onnx", (1, 8, 8, 3), UINT8)
    tensor = opened(spec(tmp_path, COLOURS)).preprocess(plain(51, 102, 204))
    assert tensor.dtype == np.uint8
    assert tensor[0, 0, 0].tolist() == [204, 102, 51]


def test_a_float16_model_gets_float16(tmp_path: Path) -> None:
    means(tmp_path / "m.onnx", (1, 3, 8, 8), FLOAT16)
    assert opened(spec(tmp_path, COLOURS)).preprocess(plain(255, 0, 255)).dtype == np.float16


def test_a_grey_model_gets_one_channel(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    write(path, {"x": (FLOAT, (1, 1, 8, 8))}, nodes, {"y": FLOAT})
    yaml_path = spec(
        tmp_path, "{decoder: classification, labels: [bright], softmax: false}", input={"colour": "GREY"}
    )
    (found,) = look(opened(yaml_path), plain(255, 255, 255))
    assert found == Classification(label="bright", class_id=0, confidence=1.0)
    with pytest.raises(
        FramemeshError, match=r"\[1, 3, height, width\].* for input\.colour RGB, found .*\[1, 1, 8, 8\]"
    ):
        opened(spec(tmp_path, COLOURS))


def test_a_picture_is_letterboxed_where_it_is_said(tmp_path: Path) -> None:
    means(tmp_path / "m.onnx", (1, 3, 64, 64))
    for resize, rows in {"letterbox": range(32), "letterbox-centre": range(16, 48), "stretch": range(64)}.items():
        model = opened(spec(tmp_path, COLOURS, input={"resize": resize, "pad": 7, "scale": 1}))
        column = model.preprocess(plain(200, 200, 200))[0, 0, :, 30]
        assert np.flatnonzero(column == 200).tolist() == list(rows)
        assert set(np.unique(column)) <= {7, 200}


def test_a_dynamic_size_is_the_yamls(tmp_path: Path) -> None:
    means(tmp_path / "m.onnx", (1, 3, "h", "w"))
    model = opened(spec(tmp_path, COLOURS, input={"size": [32, 16]}))
    assert model.preprocess(plain(0, 0, 0)).shape == (1, 3, 16, 32)
    with pytest.raises(FramemeshError, match=r"m\.yaml: input\.size: the model takes any size; say which"):
        opened(spec(tmp_path, COLOURS))


@pytest.mark.parametrize("shape", [("n", "c", 4, 4), ("n", 4, 4, "c")])
def test_a_layout_that_is_not_clear_is_the_yamls(tmp_path: Path, shape: Dims) -> None:
    layout = "NCHW" if shape[1] == "c" else "NHWC"
    path = tmp_path / "m.onnx"
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3] if layout == "NCHW" else [1, 2], keepdims=0)]
    write(path, {"x": (FLOAT, shape)}, nodes, {"y": FLOAT})
    model = opened(spec(tmp_path, COLOURS, input={"layout": layout}))
    assert model.preprocess(plain(0, 0, 0)).shape == ((1, 3, 4, 4) if layout == "NCHW" else (1, 4, 4, 3))


# ── what does not fit ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("shape", "kind", "fields", "complaint"),
    [
        ((1, 3, 8, 8), INT64, {}, r"expected one input tensor\(float\).* found tensor\(int64\)\[1, 3, 8, 8\]"),
        (
            (1, 5, 8, 8),
            FLOAT,
            {},
            r"expected one input .*\[1, 3, height, width\].* found tensor\(float\)\[1, 5, 8, 8\]",
        ),
        (
            (4, 3, 8, 8),
            FLOAT,
            {},
            r"expected .*found .*\[4, 3, 8, 8\]; export the model with a batch of 1 or a dynamic one",
        ),
        ((1, 192), FLOAT, {}, r"expected .*found tensor\(float\)\[1, 192\]"),
        ((1, 3, 8, 8), FLOAT, {"layout": "NHWC"}, r"expected .*and input\.layout NHWC, found"),
        ((1, 3, 8, 16), FLOAT, {"size": [8, 16]}, r"input\.size: expected 16 x 8 .*, found 8 x 16; leave it out"),
        (
            (1, 3, 8, 8),
            UINT8,
            {"mean": [1, 2, 3]},
            r"input: the model takes tensor\(uint8\), so it scales by itself",
        ),
    ],
)
def test_another_input_is_named(
    tmp_path: Path, shape: Dims, kind: int, fields: dict[str, Any], complaint: str
) -> None:
    constant(tmp_path / "m.onnx", shape, kind, y=np.zeros((1, 3), np.float32))
    with pytest.raises(FramemeshError, match=rf"m\.yaml: {complaint}"):
        opened(spec(tmp_path, COLOURS, input=fields))


def test_a_model_with_two_inputs_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    write(tmp_path / "m.onnx", {"a": (FLOAT, (1, 3)), "b": (FLOAT, (1, 3))}, nodes, {"y": FLOAT})
    with pytest.raises(FramemeshError, match=r"m\.yaml: .*m\.onnx does not fit: expected one input, found tensor"):
        opened(spec(tmp_path, COLOURS))


def test_a_model_that_is_not_there_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(FramemeshError, match=r"m\.yaml: model: 'm\.onnx' is neither a file in .* nor an asset"):
        opened(spec(tmp_path, COLOURS))
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(FramemeshError, match=r"m\.yaml: model file .*m\.onnx does not load"):
        opened(spec(tmp_path, COLOURS))


def test_a_model_of_another_checksum_is_refused(tmp_path: Path) -> None:
    found = file_sha256(means(tmp_path / "m.onnx", (1, 3, 8, 8)))
    opened(spec(tmp_path, COLOURS, sha256=found.upper()))
    with pytest.raises(
        FramemeshError, match=rf"sha256: m\.onnx is another file: expected {'0' * 64}, found {found}"
    ):
        opened(spec(tmp_path, COLOURS, sha256="0" * 64))


def test_a_model_that_fails_on_its_input_is_named(tmp_path: Path) -> None:
    shape = helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.array([1, 7])))
    nodes = [shape, helper.make_node("Reshape", ["x", "s"], ["y"])]
    write(tmp_path / "m.onnx", {"x": (FLOAT, (1, 3, "h", "w"))}, nodes, {"y": FLOAT})
    with pytest.raises(FramemeshError, match=r"m\.yaml: .*m\.onnx does not run on float32\[1, 3, 8, 8\]: "):
        opened(spec(tmp_path, COLOURS, input={"size": 8}))


# ── yolox ────────────────────────────────────────────────────────────────────────────────────────


def yolox_rows(size: tuple[int, int], classes: int) -> Array:
    """One sure box in the second cell of the second row of the finest stride."""
    height, width = size
    count = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
    rows = np.zeros((1, count, 5 + classes), np.float32)
    rows[0, width // 8 + 1] = (0.5, 0.25, math.log(2), math.log(1), 0.9, *[0] * (classes - 1), 0.8)
    return rows


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 64)])
def test_yolox(tmp_path: Path, size: tuple[int, int]) -> None:
    constant(tmp_path / "m.onnx", (1, 3, *size), y=yolox_rows(size, 2))
    model = opened(spec(tmp_path, "{decoder: yolox, labels: [cat, dog]}"))
    (found,) = look(model, plain(0, 0, 0, (size[0] * 2, size[1] * 2)))
    # Centre (1.5, 1.25) cells of 8 pixels, 16 wide and 8 high; the picture is twice as large.
    assert found == Detection(label="dog", class_id=1, confidence=0.72, box=(8, 12, 40, 28))
    assert not look(opened(spec(tmp_path, "{decoder: yolox, labels: [cat, dog], confidence: 0.73}")))


@pytest.mark.parametrize(
    ("labels", "strides", "complaint"),
    [
        (
            ["a"],
            [8, 16, 32],
            r"expected \[1, 84, 6\] \(1 labels \+ 5\), found \[1, 84, 7\]; the labels are of another",
        ),
        (
            ["a", "b"],
            [8, 16],
            r"expected \[1, 80, 7\] .* found \[1, 84, 7\]; mend strides \[8, 16\], or choose another",
        ),
    ],
)
def test_yolox_with_another_shape(tmp_path: Path, labels: list[str], strides: list[int], complaint: str) -> None:
    constant(tmp_path / "m.onnx", (1, 3, 64, 64), y=yolox_rows((64, 64), 2))
    with pytest.raises(FramemeshError, match=rf"m\.yaml: the model's outputs are not the decoder's: {complaint}"):
        opened(spec(tmp_path, "{decoder: yolox}", labels=labels, strides=strides))


# ── yolov8 ───────────────────────────────────────────────────────────────────────────────────────


def yolov8_columns(*rows: Sequence[float]) -> Array:
    return np.array([[*rows, *[[0.0] * len(rows[0])] * (40 - len(rows))]], np.float32).transpose(0, 2, 1)


CENTRED = (32, 32, 20, 10)  # centre, width and height in an input of 64 x 64
IN_PICTURE = (68.75, 34.38, 131.25, 65.62)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("objectness", [False, True])
def test_yolov8(tmp_path: Path, turned: bool, objectness: bool) -> None:
    extra = ([0.5], [1.0]) if objectness else ([], [])
    raw = yolov8_columns(
        (*CENTRED, *extra[0], 0.1, 0.9), (*CENTRED, *extra[1], 0.8, 0.2), (*CENTRED, *extra[1], 0.45, 0)
    )
    constant(tmp_path / "m.onnx", (1, 3, 64, 64), y=raw.transpose(0, 2, 1) if turned else raw)
    model = opened(spec(tmp_path, "{decoder: yolov8, labels: [cat, dog]}", objectness=objectness))
    found = look(model)
    assert [(d.label, d.confidence) for d in found] == (
        [("cat", 0.8), ("dog", 0.45)] if objectness else [("dog", 0.9), ("cat", 0.8)]
    )
    # 200 x 100 in 64 x 64 is 64 x 32 from row 16 on.
    expected = tuple((v - offset) * 3.125 for v, offset in zip((22, 27, 42, 37), (0, 16, 0, 16), strict=True))
    assert found[0].box == pytest.approx(expected, abs=0.01)
    assert expected == pytest.approx((68.75, 34.375, 131.25, 65.625))


def test_yolov8_suppresses_as_it_is_told(tmp_path: Path) -> None:
    raw = yolov8_columns((*CENTRED, 0.9), (33, 32, 20, 10, 0.8))
    constant(tmp_path / "m.onnx", (1, 3, 64, 64), y=raw)
    for nms, count in {0.45: 1, 0.95: 2, 1: 2}.items():
        assert len(look(opened(spec(tmp_path, "{decoder: yolov8, labels: [cat]}", nms=nms)))) == count


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "{labels: [a]}",
            r"expected \[1, 5, N\] or \[1, N, 5\] \(1 labels \+ 4\), found \[1, 6, 40\]; "
            r"set objectness: true for YOLOv5 and YOLOv7, or decoder: yolox",
        ),
        ("{labels: [a, b], objectness: true}", r"expected \[1, 7, N\].*; set objectness: false"),
        ("{labels: [a, b, c, d]}", r"expected \[1, 8, N\].*found \[1, 6, 40\]; the labels are of another model"),
    ],
)
def test_yolov8_with_another_shape(tmp_path: Path, text: str, complaint: str) -> None:
    constant(tmp_path / "m.onnx", (1, 3, 64, 64), y=yolov8_columns((*CENTRED, 0.9, 0.1)))
    with pytest.raises(FramemeshError, match=complaint):
        opened(spec(tmp_path, text, decoder="yolov8"))


# ── ssd ──────────────────────────────────────────────────────────────────────────────────────────


def tensorflow(**change: Array) -> dict[str, Array]:
    return {
        "detection_boxes": np.array([[[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1], [0, 0, 1, 1]]], np.float32),
        "detection_classes": np.array([[2, 1, 1]], np.float32),
        "detection_scores": np.array([[0.9, 0.3, 0.8]], np.float32),
        "num_detections": np.array([2], np.float32),
    } | change


def test_ssd_of_tensorflow(tmp_path: Path) -> None:
    constant(tmp_path / "m.onnx", ("n", 64, 64, 3), UINT8, **tensorflow())
    (found,) = look(opened(spec(tmp_path, "{decoder: ssd, labels: [cat, dog]}")))
    assert found == Detection(label="dog", class_id=1, confidence=0.9, box=(40, 10, 120, 50))


def test_ssd_of_torchvision(tmp_path: Path) -> None:
    constant(
        tmp_path / "m.onnx",
        (3, 32, 64),
        boxes=np.array([[6.4, 3.2, 32, 16], [0, 0, 64, 32], [0, 0, 64, 32]], np.float32),
        labels=np.array([1, 2, 0]),
        scores=np.array([0.7, 0.9, 0.95], np.float32),
    )
    model = opened(spec(tmp_path, "{decoder: ssd, format: torchvision, labels: [cat, dog]}"))
    assert model.preprocess(plain(0, 0, 0)).shape == (3, 32, 64)
    assert look(model) == [
        Detection(label="dog", class_id=1, confidence=0.9, box=(0, 0, 200, 100)),
        Detection(label="cat", class_id=0, confidence=0.7, box=(20, 10, 100, 50)),
    ]


def test_ssd_finds_nothing_in_an_empty_list(tmp_path: Path) -> None:
    constant(
        tmp_path / "m.onnx",
        (1, 3, 32, 32),
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        scores=np.zeros(0, np.float32),
    )
    assert look(opened(spec(tmp_path, "{decoder: ssd, format: torchvision, labels: [cat]}"))) == []


def test_ssd_numbers_classes_as_it_is_told(tmp_path: Path) -> None:
    constant(
        tmp_path / "m.onnx",
        (1, 64, 64, 3),
        UINT8,
        **tensorflow(detection_classes=np.array([[90, 1, 1]], np.float32)),
    )
    (found,) = look(opened(spec(tmp_path, "{decoder: ssd, labels: coco-91, first_class: 0}")))
    assert (found.label, found.class_id) == ("toothbrush", 90)
    with pytest.raises(
        Reject, match=r"the model gave class 90, but labels name 1 to 80: mend first_class or labels"
    ):
        look(opened(spec(tmp_path, "{decoder: ssd, labels: coco}")))


def test_ssd_outputs_may_be_said(tmp_path: Path) -> None:
    named = dict(zip("abcd", tensorflow().values(), strict=True))
    constant(tmp_path / "m.onnx", (1, 64, 64, 3), UINT8, **named)
    text = "{decoder: ssd, labels: [cat, dog]}"
    with pytest.raises(
        FramemeshError, match=r"outputs: which of a, b, c, d is boxes and which is scores and which is cl"
    ):
        opened(spec(tmp_path, text))
    said = {"boxes": "a", "classes": 1, "scores": 2, "count": "d"}
    assert len(look(opened(spec(tmp_path, text, outputs=said)))) == 1
    with pytest.raises(FramemeshError, match=r"outputs\.boxes: the model has no output 'q'; it has a, b, c, d"):
        opened(spec(tmp_path, text, outputs=said | {"boxes": "q"}))
    with pytest.raises(FramemeshError, match=r"outputs\.count: the model has no output 9"):
        opened(spec(tmp_path, text, outputs=said | {"count": 9}))
    with pytest.raises(
        FramemeshError, match=r"expected boxes \[1, N, 4\].*found \[1, 3\], \[1, 3, 4\].*say which is which"
    ):
        opened(spec(tmp_path, text, outputs=said | {"boxes": "c", "scores": "a"}))


def test_a_model_of_too_few_outputs_is_named(tmp_path: Path) -> None:
    means(tmp_path / "m.onnx", (1, 3, 8, 8))
    with pytest.raises(
        FramemeshError, match=r"outputs: the decoder reads logits, boxes; the model has only y; choose"
    ):
        opened(spec(tmp_path, "{decoder: detr, labels: [cat]}"))


# ── detr ─────────────────────────────────────────────────────────────────────────────────────────

QUERIES = np.array([[[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 1, 1]]], np.float32)


def test_detr_by_softmax(tmp_path: Path) -> None:
    logits = np.log(np.array([[[0.1, 0.7, 0.2], [0.05, 0.05, 0.9]]], np.float32)) + 3
    constant(tmp_path / "m.onnx", (1, 3, 64, 32), logits=logits, pred_boxes=QUERIES)
    (found,) = look(opened(spec(tmp_path, "{decoder: detr, labels: [cat, dog]}")))
    assert found == Detection(label="dog", class_id=1, confidence=0.7, box=(80, 30, 120, 70))


def test_detr_by_sigmoid(tmp_path: Path) -> None:
    logits = np.array([[[-99, 2], [-1, -200]]], np.float32)
    constant(tmp_path / "m.onnx", (1, 3, 64, 32), logits=logits, pred_boxes=QUERIES)
    (found,) = look(opened(spec(tmp_path, "{decoder: detr, labels: [cat, dog], scores: sigmoid}")))
    assert (found.label, found.confidence) == ("dog", pytest.approx(1 / (1 + math.exp(-2)), abs=1e-4))
    with pytest.raises(
        FramemeshError, match=r"expected logits \[1, Q, 3\] \(labels \+ no object\).*found \[1, 2, 2\]"
    ):
        opened(spec(tmp_path, "{decoder: detr, labels: [cat, dog]}"))


# ── classification ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("raw", "softmax", "scores"),
    [
        ([0.1, 0.6, 0.3], "auto", [0.6, 0.3]),
        ([0.1, 0.6, 0.3], True, [0.426, 0.3156]),
        ([-1, 2, 0], "auto", [0.8438, 0.1142]),
        ([0.9, 0.8, 0.1], "auto", [0.4248, 0.3844]),
        ([0.9, 0.8, 0.1], False, [0.9, 0.8]),
    ],
)
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1), (3,)])
def test_classification(
    tmp_path: Path, raw: list[float], softmax: str | bool, scores: list[float], shape: tuple[int, ...]
) -> None:
    constant(tmp_path / "m.onnx", (1, 3, 8, 8), y=np.array(raw, np.float32).reshape(shape))
    text = "{decoder: classification, labels: [a, b, c], top: 2}"
    found = look(opened(spec(tmp_path, text, softmax=softmax)))
    assert [c.confidence for c in found] == pytest.approx(scores, abs=1e-4)
    assert found[0].class_id == int(np.argmax(raw))
    assert not look(opened(spec(tmp_path, text, softmax=softmax, confidence=0.95)))


def test_classification_with_other_labels(tmp_path: Path) -> None:
    means(tmp_path / "m.onnx", (1, 3, 8, 8))
    with pytest.raises(
        FramemeshError, match=r"m\.yaml: .*expected 2 numbers, one a label, as \[1, 2\], found \[1, 3\]"
    ):
        opened(spec(tmp_path, COLOURS, labels=["a", "b"]))


# ── batches ──────────────────────────────────────────────────────────────────────────────────────


class Counted:
    """Counts the pictures of each run."""

    def __init__(self, model: SpecModel) -> None:
        self.runs: list[int] = []
        self._run = model._network.run
        model._network.run = self  # type: ignore[method-assign]

    def __call__(self, tensor: Array, outputs: list[str]) -> list[Array]:
        self.runs.append(len(tensor))
        return self._run(tensor, outputs)


@pytest.mark.parametrize(
    ("length", "batch", "runs"), [("n", 2, [2, 2, 1]), ("n", 8, [5]), ("n", 1, [1] * 5), (1, 8, [1] * 5)]
)
def test_pictures_are_given_together_where_the_model_can(
    tmp_path: Path, length: int | str, batch: int, runs: list[int]
) -> None:
    means(tmp_path / "m.onnx", (length, 3, 8, 8))
    model = opened(spec(tmp_path, COLOURS), batch=batch)
    counted = Counted(model)
    pictures = [plain(0, 51 * number, 0) for number in range(5)]
    outputs = model.infer([model.preprocess(picture) for picture in pictures])
    assert counted.runs == runs
    found = [model.postprocess(output, SIZE)[0].confidence for output in outputs]
    assert found == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert model.infer([]) == []


def test_a_model_that_only_says_that_it_takes_batches_runs_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    constant(tmp_path / "m.onnx", ("n", 3, 8, 8), y=np.array([[0.5, 0.3, 0.2]], np.float32))
    with caplog.at_level(logging.WARNING):
        model = opened(spec(tmp_path, COLOURS), batch=4)
    assert model.batch == 1
    assert "m runs one picture at a time" in caplog.text
    assert len(model.infer([model.preprocess(plain(0, 0, 0))] * 3)) == 3
