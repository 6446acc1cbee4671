"""Serves the functions of a module: ``framemesh worker examples.greeting``."""

from __future__ import annotations

import re

from framemesh.steps.functions import functions_of
from framemesh.steps.worker import StepSettings, StepWorker


def worker_of(module: str) -> type[StepWorker[StepSettings]]:
    """A worker that has every function that the module registers with @step. Raises FramemeshError."""

    class ModuleWorker(StepWorker[StepSettings]):
        """A module's functions."""

        kind = re.sub(r"[^A-Za-z0-9_-]", "-", module.rpartition(".")[2]).title() + "Steps"
        settings_type = StepSettings
        functions = tuple(functions_of(module))

    return ModuleWorker
