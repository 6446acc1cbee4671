"""``framemesh worker``: run anyone's model in the mesh."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from framemesh.processes import Process
from framemesh.service import EXIT_CONFIG
from framemesh.supervise import Supervised, refuse_shared_port
from framemesh.telemetry import configure_logging
from framemesh.terminal import DataOption, err, joined, run_until

STOP_SECONDS = 4.5


def worker(
    spec: Annotated[
        str,
        typer.Argument(
            help="package.module:Class, a YAML file that describes an ONNX model, the name of an installed one, "
            "or package.module of functions for jobs."
        ),
    ],
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the model's tasks.")] = 1,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=256, help="Most frames that the model is given at once.")
    ] = None,
    data: DataOption = None,
) -> None:
    """Run a model of yours in the mesh: `framemesh worker examples.brightness:Brightness`.

    It joins a running mesh, of which nothing is started again: the router finds it by its heartbeat, and every
    source without routes of its own goes to it too. Should it die, hang or take too much memory, it is started
    again, the later the sooner it died. Settings come from the environment and from `.env`.

    `framemesh worker examples.greeting` does the steps of jobs that the module registers with @step.
    """
    refuse_shared_port(replicas)
    environment = dict(os.environ) | joined(data)
    if batch_size:
        environment["batch_size"] = str(batch_size)
    if not run_until(_run(spec, replicas, environment)):
        raise typer.Exit(EXIT_CONFIG)  # it has said why


async def _run(spec: str, replicas: int, environment: dict[str, str]) -> bool:
    """Run replicas until they end; false when one cannot work as it is set up."""
    configure_logging("framemesh")
    name = Path(spec).stem if spec.endswith((".yaml", ".yml")) else spec.rpartition(":")[2]
    labels = [name] if replicas == 1 else [f"{name}-{number + 1}" for number in range(replicas)]
    group = [Supervised(_process(label, spec, environment)) for label in labels]
    try:
        for one in group:
            await one.start()
        await asyncio.gather(*(one.wait() for one in group))
    finally:
        await asyncio.gather(*(one.stop(STOP_SECONDS) for one in group))
    return not any(one.failed for one in group)


def _process(label: str, spec: str, environment: dict[str, str]) -> Process:
    command = [sys.executable, "-m", "framemesh.workers", spec]
    return Process(label, command, env=environment, on_line=_show, death_signal=signal.SIGTERM)


def _show(name: str, line: str) -> None:
    err.print(f"{name} | {line}", markup=False)
