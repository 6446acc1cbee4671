"""ONNX Runtime for every model worker: which processors to use, and models that are checked when they open.

Measured on one core (ONNX Runtime 1.31, median CPU time of a run): yolox-nano 15 ms, fastestdet 4.2 ms,
squeezenet 7 ms. Without the last passes of ``ORT_ENABLE_ALL`` they take 22, 8 and 9 ms. Two threads cost 10%
(yolox-nano) to 35% (fastestdet) more CPU for the same frame. Arena and memory pattern make no difference in
time that could be measured.
"""

from __future__ import annotations

import ctypes
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from platformdirs import user_cache_path

from framemesh.errors import FramemeshError

log = logging.getLogger(__name__)

Tensor = npt.NDArray[Any]
Shape = tuple[int, ...]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_USUAL = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
_NAMES = {provider: name for name, provider in _USUAL.items()}
_FATAL = 4
_WARNING = 2
_TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)"}


def providers(wanted: Sequence[str] | None = None) -> list[str]:
    """Execution providers to try, fastest first, CPU always last; CUDA and the CPU unless others are wanted.

    TensorRT has to be asked for: for each model, and for each new shape of its input, it builds an engine first,
    which may take longer than a worker waits for an answer. ``wanted`` (``cpu``, ``cuda``, ``tensorrt``,
    ``openvino`` … or ONNX Runtime's own names) replaces the choice; what this ONNX Runtime knows but does not
    offer is left out. Raises FramemeshError for what it does not know.
    """
    names = [_known(name) for name in wanted or (CUDA,)]
    offered = set(ort.get_available_providers())
    chosen = [name for name in dict.fromkeys(names) if name in offered and name != CPU]
    return [*chosen, CPU]


def open_session(path: str | Path, threads: int = 1, providers: list[str] | None = None) -> ort.InferenceSession:
    """Open a model on the first provider that loads; one log line says when that is not the wanted one.

    Raises FramemeshError when the file is missing or is not a model that ONNX Runtime can load.
    """
    path = Path(path)
    if not path.is_file():
        raise FramemeshError(f"model file {path} does not exist: check the path, or run `framemesh assets pull`")
    chosen = _providers(providers)
    lacking = _lacking() if {CUDA, TENSORRT} & set(chosen) else ""
    for first in range(len(chosen)):
        try:
            with _quiet():
                session = ort.InferenceSession(
                    str(path),
                    _options(threads),
                    providers=[_with_options(name) for name in chosen[first:]],
                    enable_fallback=0,  # its own retry prints six lines; the next round of this loop is ours
                )
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            reason = _first_line(error)
            continue
        _report_fallback(path, _wanted(providers, chosen), session, lacking)
        return session
    raise FramemeshError(
        f"model file {path} does not load ({reason}): it may be cut short or not be ONNX; "
        "replace it, or run `framemesh assets pull`"
    )


class Model:
    """One ONNX model with one input and one output that counts, checked against what its decoder expects.

    ``takes`` and ``gives`` are the shapes of input and output, batch included; a dynamic dimension fits any
    number. Raises FramemeshError naming the file and what was found when they differ.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        takes: Shape,
        gives: Shape,
        dtype: str = "float32",
        threads: int = 1,
        providers: list[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.session = open_session(path, threads, providers)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        expected = f"{_TYPES[dtype]}{list(takes)} -> {list(gives)}"
        found = f"{_describe(inputs)} -> {_describe(outputs)}"
        fits = (
            len(inputs) == 1
            and inputs[0].type == _TYPES[dtype]
            and _fits(inputs[0].shape, takes)
            and _fits(outputs[0].shape, gives)
        )
        if not fits:
            raise FramemeshError(
                f"model file {path} is another model: expected {expected}, found {found}; "
                "choose the model name that belongs to this file"
            )
        self._input: str = inputs[0].name
        self._outputs: list[str] = [outputs[0].name]

    @property
    def provider(self) -> str:
        """What runs the model: cpu, cuda, tensorrt, or ONNX Runtime's own name of another provider."""
        return provider_of(self.session)

    def run(self, tensor: Tensor) -> Tensor:
        """Give the first output for one input tensor (batch included)."""
        return np.asarray(self.session.run(self._outputs, {self._input: tensor})[0])


class Network:
    """One ONNX model with one input, whose shapes are asked for instead of told.

    ``takes`` is the shape of the input, with a name or None where it is dynamic, and ``dtype`` its ONNX type.
    """

    def __init__(self, path: str | Path, threads: int = 1, providers: list[str] | None = None) -> None:
        self.path = Path(path)
        self.session = open_session(path, threads, providers)
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise FramemeshError(
                f"model file {path} does not fit: expected one input, found {_describe(inputs) or 'none'}; "
                "export the model with the picture as its only input"
            )
        self._input: str = inputs[0].name
        self.takes: list[int | str | None] = list(inputs[0].shape)
        self.dtype: str = inputs[0].type
        self.outputs: list[str] = [output.name for output in self.session.get_outputs()]

    @property
    def provider(self) -> str:
        """What runs the model: cpu, cuda, tensorrt, or ONNX Runtime's own name of another provider."""
        return provider_of(self.session)

    def run(self, tensor: Tensor, outputs: list[str]) -> list[Tensor]:
        """Give the named outputs for one input tensor. Raises FramemeshError when the model cannot run on it."""
        try:
            return [np.asarray(found) for found in self.session.run(outputs, {self._input: tensor})]
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise FramemeshError(
                f"model file {self.path} does not run on {tensor.dtype}{list(tensor.shape)}: {_first_line(error)}"
            ) from error


def provider_of(session: ort.InferenceSession) -> str:
    """The execution provider of a session, by its short name where it has one."""
    name = str(session.get_providers()[0])
    return _NAMES.get(name, name)


def _short(provider: str) -> str:
    return provider.lower().removesuffix("executionprovider")


def _known(name: str) -> str:
    """A provider's own name. Raises FramemeshError when this ONNX Runtime knows none of that name."""
    names: list[str] = [*ort.get_all_providers(), *ort.get_available_providers()]
    known = {_short(each): each for each in names}
    if found := known.get(_short(name)):
        return found
    near = get_close_matches(_short(name), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    others = ", ".join(sorted(set(known) - set(_USUAL)))
    raise FramemeshError(
        f"onnx_providers: there is no provider {name!r}{hint} "
        f"This ONNX Runtime knows {', '.join(_USUAL)}; and, where it was built for them, {others}"
    )


# `open_session` has an argument of the same name.
_providers = providers


def _wanted(asked: list[str] | None, chosen: list[str]) -> str:
    if asked:
        return _known(asked[0])
    return chosen[0]


def _report_fallback(path: Path, wanted: str, session: ort.InferenceSession, lacking: str) -> None:
    runs_on = session.get_providers()[0]
    if runs_on != wanted:
        log.warning("%s runs on %s: %s did not load%s", path.name, runs_on, wanted, lacking and f" ({lacking})")


@cache
def _lacking() -> str:
    """Load CUDA and cuDNN from their Python packages, where no loader looks; say what is nowhere, and the fix."""
    told = io.StringIO()
    with redirect_stdout(told):
        ort.preload_dlls()
    missing = [line for line in told.getvalue().splitlines() if line.startswith("Failed to load")]
    if missing:
        return f"{missing[0].partition(': ')[2]}; pip install 'onnxruntime-gpu[cuda,cudnn]'"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"{error}; install the GPU's driver, or give the container its GPU"
    return ""


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _with_options(provider: str) -> str | tuple[str, dict[str, str]]:
    """TensorRT builds an engine for minutes at its first start: keep it in the user's cache."""
    if provider != TENSORRT:
        return provider
    engines = user_cache_path("framemesh") / "tensorrt"
    engines.mkdir(parents=True, exist_ok=True)  # ONNX Runtime makes the last folder only
    return provider, {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(engines)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's own lines about missing GPU libraries off stderr: one line of ours tells it."""
    ort.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _describe(values: Sequence[Any]) -> str:
    return ", ".join(f"{value.type}{value.shape}" for value in values)


def _fits(found: Sequence[int | str | None], expected: Shape) -> bool:
    return len(found) == len(expected) and all(
        a == b or not isinstance(a, int) for a, b in zip(found, expected, strict=True)
    )
