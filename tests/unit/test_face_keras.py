from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnxruntime as ort
import pytest

from framemesh import assets
from framemesh.errors import FramemeshError
from services.face.expression import ExpressionModel, kept
from services.face.keras import convert

CONV = {
    "kernel_size": [3, 3],
    "strides": [2, 2],
    "padding": "same",
    "use_bias": True,
    "activation": "relu",
    "data_format": "channels_last",
    "dilation_rate": [1, 1],
}


def layer(kind: str, name: str, source: str | None, **config: Any) -> dict[str, Any]:
    inbound = [[[source, 0, 0, {}]]] if source else []
    return {"class_name": kind, "name": name, "config": {"name": name} | config, "inbound_nodes": inbound}


def small(conv: dict[str, Any] | None = None, middle: str = "Conv2D") -> list[dict[str, Any]]:
    return [
        layer("InputLayer", "in", None, batch_input_shape=[None, 8, 8, 1]),
        layer(middle, "conv", "in", **(CONV | (conv or {}))),
        layer("GlobalAveragePooling2D", "mean", "conv", data_format="channels_last"),
        layer("Activation", "out", "mean", activation="softmax"),
    ]


def write(path: Path, layers: list[dict[str, Any]], config: Any = None) -> Path:
    kernel = np.random.default_rng(1).normal(size=(3, 3, 1, 4)).astype(np.float32)
    with h5py.File(path, "w") as file:
        graph = {"layers": layers, "input_layers": [["in", 0, 0]], "output_layers": [["out", 0, 0]]}
        file.attrs["model_config"] = json.dumps(config or {"class_name": "Model", "config": graph})
        group = file.create_group("model_weights/conv")
        group.attrs["weight_names"] = [b"conv_1/kernel:0", b"conv_1/bias:0"]
        group["conv_1/kernel:0"] = kernel
        group["conv_1/bias:0"] = np.arange(4, dtype=np.float32)
    return path


def test_a_small_network_gives_what_its_layers_say(tmp_path: Path) -> None:
    model = convert(write(tmp_path / "small.hdf5", small()), (8, 8, 1), 4)
    session = ort.InferenceSession(model)
    images = np.random.default_rng(2).normal(size=(3, 8, 8, 1)).astype(np.float32)
    (found,) = session.run(None, {"image": images})
    kernel = np.random.default_rng(1).normal(size=(3, 3, 1, 4)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))  # TensorFlow pads the end first
    rows = [
        np.einsum("nijc,ijco->no", padded[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3], kernel) + np.arange(4)
        for y in range(4)
        for x in range(4)
    ]
    mean = np.maximum(rows, 0).mean(axis=0)
    expected = np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_converting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "small.hdf5", small())
    assert convert(path, (8, 8, 1), 4) == convert(path, (8, 8, 1), 4)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (small(middle="LSTM"), "its layer conv is a LSTM"),
        (small({"activation": "swish"}), "the activation of its layer conv is swish"),
        (small({"data_format": "channels_first"}), "its layer conv has its channels first"),
        (small({"dilation_rate": [2, 2]}), "its layer conv is dilated"),
        (small({"depth_multiplier": 2}, "SeparableConv2D"), "depth multiplier of 2"),
        (small({"depth_multiplier": 1}, "SeparableConv2D"), "its layer conv has no depthwise_kernel"),
        (small({"axis": 1}, "BatchNormalization"), "its layer conv normalises along axis 1"),
        ([*small(), layer("InputLayer", "in2", None)], "it has 2 inputs and 1 outputs"),
    ],
)
def test_another_architecture_is_named(tmp_path: Path, layers: list[Any], reason: str) -> None:
    path = write(tmp_path / "other.hdf5", layers)
    with pytest.raises(FramemeshError) as error:
        convert(path, (8, 8, 1), 4)
    assert str(path) in str(error.value)
    assert "expected a Keras 2 model [n, 8, 8, 1] -> [n, 4] in HDF5" in str(error.value)
    assert reason in str(error.value)


@pytest.mark.parametrize(("takes", "gives"), [((64, 64, 1), 4), ((8, 8, 1), 7)])
def test_another_shape_is_refused(tmp_path: Path, takes: tuple[int, ...], gives: int) -> None:
    path = write(tmp_path / "other.hdf5", small())
    with pytest.raises(FramemeshError, match="is another model") as error:
        convert(path, takes, gives)
    assert str(path) in str(error.value)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.hdf5", [], {"class_name": "Sequential", "config": [{"class_name": "Dense"}]})
    with pytest.raises(FramemeshError, match="it is no graph of layers"):
        convert(path, (8, 8, 1), 4)


@pytest.mark.parametrize("content", [b"", b"no hdf5 at all", b"\x89HDF\r\n\x1a\n" + b"\0" * 500])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.hdf5"
    path.write_bytes(content)
    with pytest.raises(FramemeshError) as error:
        ExpressionModel(path)
    assert str(path) in str(error.value)
    assert "expected a Keras 2 model [n, 64, 64, 1] -> [n, 7]" in str(error.value)


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "short.hdf5", small())
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(FramemeshError, match=r"short\.hdf5"):
        convert(path, (8, 8, 1), 4)


def test_a_file_without_a_model_or_weights_is_named(tmp_path: Path) -> None:
    for name in ("nothing", "no-weights"):
        path = tmp_path / f"{name}.hdf5"
        if name == "no-weights":
            write(path, small())
            with h5py.File(path, "a") as file:
                del file["model_weights/conv"]
        else:
            h5py.File(path, "w").close()
        with pytest.raises(FramemeshError, match="cannot be read") as error:
            convert(path, (8, 8, 1), 4)
        assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FramemeshError, match=r"gone\.hdf5"):
        convert(tmp_path / "gone.hdf5", (8, 8, 1), 4)


def test_a_converted_model_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "cache_folder", lambda: tmp_path / "cache")
    path = kept(b"model")
    assert path.read_bytes() == b"model"
    path.write_bytes(b"mod")  # what a full disk leaves
    assert kept(b"model") == path
    assert path.read_bytes() == b"model"
    assert kept(b"other") != path
    assert len(list(path.parent.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(assets, "cache_folder", lambda: tmp_path / "cache")
    with pytest.raises(FramemeshError, match="XDG_CACHE_HOME"):
        kept(b"model")
