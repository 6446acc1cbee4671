"""Keras models of HDF5 files as ONNX graphs, for the layers that mini-Xception has.

A file of Keras 2 carries its architecture as JSON (``model_config``) and the weights of each layer by name. Each
layer becomes one or two ONNX nodes whose output is named after the layer; nothing is folded here, because ONNX
Runtime does that when it opens the graph. Pictures go in as Keras has them, [n, h, w, c]; inside they are
[n, c, h, w].
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper, shape_inference

from framemesh.errors import FramemeshError

Weights = npt.NDArray[np.float32]
Config = dict[str, Any]

OPSET = 17
IR_VERSION = 8

_ACTIVATIONS = {"relu": "Relu", "softmax": "Softmax"}


class Unsupported(Exception):
    """A layer, or a setting of one, that this importer does not know."""


def convert(path: str | Path, takes: tuple[int, ...], gives: int) -> bytes:
    """Give the ONNX model of a Keras file with one input [n, *takes] and one output [n, gives].

    Raises FramemeshError, naming the file and what was expected, for another architecture and for a broken file.
    """
    expected = f"a Keras 2 model [n, {', '.join(map(str, takes))}] -> [n, {gives}] in HDF5"
    try:
        with h5py.File(path) as file:
            return _Graph(file).model(takes, gives)
    except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FramemeshError(
            f"model file {path} cannot be read ({reason}): expected {expected}; "
            "replace it, or run `framemesh assets pull`"
        ) from error
    except (Unsupported, checker.ValidationError, shape_inference.InferenceError) as error:
        raise FramemeshError(
            f"model file {path} is another model: expected {expected}, but {str(error).splitlines()[0]}; "
            "choose the model name that belongs to this file"
        ) from error


class _Graph:
    """An ONNX graph that grows layer by layer."""

    def __init__(self, file: h5py.File) -> None:
        self._weights = file["model_weights"]
        config = json.loads(file.attrs["model_config"])["config"]
        if not isinstance(config, dict) or "output_layers" not in config:
            raise Unsupported("it is no graph of layers (Keras' `Model`)")
        self._config = config
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._layers: dict[str, Callable[[str, Config, list[str]], None]] = {
            "InputLayer": self._input,
            "Conv2D": self._conv,
            "SeparableConv2D": self._separable,
            "BatchNormalization": self._norm,
            "Activation": self._activate,
            "MaxPooling2D": self._max_pool,
            "GlobalAveragePooling2D": self._mean_pool,
            "Add": self._add,
        }

    def model(self, takes: tuple[int, ...], gives: int) -> bytes:
        """The whole model, serialised."""
        ends = [name for name, *_ in self._config["output_layers"]]
        starts = [layer for layer in self._config["layers"] if layer["class_name"] == "InputLayer"]
        if len(ends) != 1 or len(starts) != 1:
            raise Unsupported(f"it has {len(starts)} inputs and {len(ends)} outputs")
        shape = tuple(starts[0]["config"]["batch_input_shape"])
        if shape != (None, *takes):
            raise Unsupported(f"its input is [n, {', '.join(map(str, shape[1:]))}]")
        for layer in self._config["layers"]:
            self._layer(layer)
        graph = helper.make_graph(
            self._nodes,
            "keras",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", *takes])],
            [helper.make_tensor_value_info(ends[0], TensorProto.FLOAT, ["n", gives])],
            self._initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())

    def _layer(self, layer: Config) -> None:
        kind, name, config = layer["class_name"], layer["name"], layer["config"]
        if kind not in self._layers:
            raise Unsupported(f"its layer {name} is a {kind}")
        if config.get("data_format", "channels_last") != "channels_last":
            raise Unsupported(f"its layer {name} has its channels first")
        nodes = layer["inbound_nodes"]
        if len(nodes) > 1:
            raise Unsupported(f"its layer {name} is used more than once")
        self._layers[kind](name, config, [source[0] for source in nodes[0]] if nodes else [])

    # -- layers -------------------------------------------------------------------------------------

    def _input(self, name: str, _: Config, __: list[str]) -> None:
        self._node("Transpose", ["image"], name, perm=[0, 3, 1, 2])

    def _conv(self, name: str, config: Config, sources: list[str]) -> None:
        kernel = self._weight(name, "kernel").transpose(3, 2, 0, 1)
        more = [self._constant(name, "bias", self._weight(name, "bias"))] if config["use_bias"] else []
        self._convolve(name, config, [*sources, self._constant(name, "kernel", kernel), *more])

    def _separable(self, name: str, config: Config, sources: list[str]) -> None:
        if config["depth_multiplier"] != 1:
            raise Unsupported(f"its layer {name} has a depth multiplier of {config['depth_multiplier']}")
        depthwise = self._weight(name, "depthwise_kernel").transpose(2, 3, 0, 1)
        pointwise = self._weight(name, "pointwise_kernel").transpose(3, 2, 0, 1)
        self._node(
            "Conv",
            [*sources, self._constant(name, "depthwise_kernel", depthwise)],
            f"{name}/depthwise",
            group=depthwise.shape[0],
            **_window(config, config["kernel_size"]),
        )
        more = [self._constant(name, "bias", self._weight(name, "bias"))] if config["use_bias"] else []
        self._activated(
            "Conv", [f"{name}/depthwise", self._constant(name, "pointwise_kernel", pointwise), *more], name, config
        )

    def _convolve(self, name: str, config: Config, inputs: list[str]) -> None:
        self._activated("Conv", inputs, name, config, **_window(config, config["kernel_size"]))

    def _norm(self, name: str, config: Config, sources: list[str]) -> None:
        if config["axis"] not in {-1, 3}:
            raise Unsupported(f"its layer {name} normalises along axis {config['axis']}")
        parts = [
            self._constant(name, part, self._weight(name, part))
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        ]
        self._node("BatchNormalization", [*sources, *parts], name, epsilon=config["epsilon"])

    def _activate(self, name: str, config: Config, sources: list[str]) -> None:
        kind = config["activation"]
        if kind not in _ACTIVATIONS:
            raise Unsupported(f"the activation of its layer {name} is {kind}")
        more = {"axis": 1} if kind == "softmax" else {}
        self._node(_ACTIVATIONS[kind], sources, name, **more)

    def _max_pool(self, name: str, config: Config, sources: list[str]) -> None:
        self._node("MaxPool", sources, name, **_window(config, config["pool_size"]))

    def _mean_pool(self, name: str, _: Config, sources: list[str]) -> None:
        self._node("GlobalAveragePool", sources, f"{name}/mean")
        self._node("Flatten", [f"{name}/mean"], name)

    def _add(self, name: str, _: Config, sources: list[str]) -> None:
        if len(sources) != 2:  # noqa: PLR2004 - what ONNX adds
            raise Unsupported(f"its layer {name} adds {len(sources)} layers")
        self._node("Add", sources, name)

    # -- nodes --------------------------------------------------------------------------------------

    def _activated(self, kind: str, inputs: list[str], name: str, config: Config, **attributes: Any) -> None:
        if config["activation"] == "linear":
            self._node(kind, inputs, name, **attributes)
            return
        self._node(kind, inputs, f"{name}/linear", **attributes)
        self._activate(name, config, [f"{name}/linear"])

    def _node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))

    def _constant(self, layer: str, part: str, value: Weights) -> str:
        name = f"{layer}/{part}"
        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _weight(self, layer: str, part: str) -> Weights:
        """A layer's weight; the file names it `<layer>_1/<part>:0`."""
        group = self._weights[layer]
        names = [name.decode() if isinstance(name, bytes) else name for name in group.attrs["weight_names"]]
        found = next((name for name in names if name.rsplit("/")[-1].split(":")[0] == part), None)
        if found is None:
            raise Unsupported(f"its layer {layer} has no {part}")
        return np.asarray(group[found], dtype=np.float32)


def _window(config: Config, size: list[int]) -> Config:
    """ONNX attributes of a sliding window; TensorFlow's `same` is ONNX's SAME_UPPER."""
    if any(step != 1 for step in config.get("dilation_rate", [1])):
        raise Unsupported(f"its layer {config['name']} is dilated")
    return {
        "kernel_shape": list(size),
        "strides": list(config["strides"]),
        "auto_pad": {"same": "SAME_UPPER", "valid": "VALID"}[config["padding"]],
    }
