"""Finds model workers, the mesh's own and anyone's: by class, by name, or by a YAML file that describes a model.

``python -m framemesh.workers package.module:Class`` runs one as this process.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import sys
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from framemesh.blame import blaming
from framemesh.errors import FramemeshError
from framemesh.inference import Worker
from framemesh.messages import SOURCE_PATTERN
from framemesh.service import EXIT_CONFIG, main
from framemesh.settings import Settings, load
from framemesh.steps.serve import worker_of
from framemesh.telemetry import configure_logging

log = logging.getLogger(__name__)

GROUP = "framemesh.workers"
"""Entry points of this group are workers by name; a package of yours may add its own."""
EXAMPLE = "framemesh worker examples.brightness:Brightness"

WorkerClass = type[Worker[Any, Any]]


def is_spec(text: str) -> bool:
    """Whether a text can be a worker: ``package.module:Class``, a YAML file, or a known name."""
    return ":" in text or _is_yaml(text) or text in named()


def is_module(text: str) -> bool:
    """Whether a text can be a module of functions for jobs: ``package.module``."""
    return "." in text and all(map(str.isidentifier, text.split("."))) and not is_spec(text)


def named() -> dict[str, EntryPoint]:
    """Workers that installed packages offer by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def find(spec: str) -> WorkerClass:
    """The worker class of ``package.module:Class``, of a YAML file, or of a name. Raises FramemeshError."""
    if _is_yaml(spec):
        from framemesh.onnx_worker import worker_for  # noqa: PLC0415 - needs ONNX Runtime

        return _checked(worker_for(Path(spec)), spec)
    if ":" in spec:
        return _checked(_load(*spec.split(":", 1)), spec)
    known = named()
    if spec not in known:
        near = get_close_matches(spec, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known)) or 'none'};"
        raise FramemeshError(
            f"there is no worker {spec!r}; {hint} give its class as package.module:Class, or a YAML file"
        )
    point = known[spec]
    return _checked(_load(point.module, point.attr), spec)


def _is_yaml(text: str) -> bool:
    return text.endswith((".yaml", ".yml"))


def _load(module: str, name: str) -> Any:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # the installed command does not look here by itself
    with blaming(f"worker {module}:{name} cannot be imported"):
        found = _imported(module, name)
    try:
        return getattr(found, name)
    except AttributeError:
        near = get_close_matches(name, vars(found), n=1)
        hint = f"; did you mean {module}:{near[0]}?" if near else ""
        raise FramemeshError(f"worker {module}:{name}: {module} has no {name}{hint}") from None


def _imported(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise FramemeshError(
                f"worker {module}:{name}: there is no module {module}; run it in the folder that holds it, "
                f"or install it; an example: `{EXAMPLE}`"
            ) from None
        raise FramemeshError(
            f"worker {module}:{name}: it needs the module {error.name}: install it, "
            "for a worker of the mesh's own with `pip install framemesh[all]`"
        ) from error


def _checked(found: Any, spec: str) -> WorkerClass:
    if not (isinstance(found, type) and issubclass(found, Worker)):
        raise FramemeshError(f"worker {spec}: not a class derived from framemesh's ModelWorker or AudioWorker")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise FramemeshError(f"worker {spec}: it still lacks {missing}")
    kind = getattr(found, "kind", "")
    if not isinstance(kind, str) or not re.fullmatch(SOURCE_PATTERN, kind):
        raise FramemeshError(
            f"worker {spec}: kind is {kind!r}; give it a name of letters, digits, - and _, which names its queue"
        )
    if not hasattr(found, "settings_type"):
        raise FramemeshError(f"worker {spec}: it has no settings_type; set it to WorkerSettings, or one derived")
    return found


if __name__ == "__main__":
    configure_logging("framemesh")
    try:
        configure_logging("framemesh", load(Settings).log_level)
        spec = " ".join(sys.argv[1:])
        worker = worker_of(spec) if is_module(spec) else find(spec)
    except FramemeshError as error:
        log.error("%s", error)
        sys.exit(EXIT_CONFIG)
    main(worker)
