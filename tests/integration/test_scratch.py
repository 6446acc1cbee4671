"""Scratch folders of steps, and what becomes of those of a worker that was killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from framemesh.processes import Process
from framemesh.steps.client import Jobs
from framemesh.steps.scratch import Scratch
from tests.integration.stepping import one
from tests.samples import until


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of the test's own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_kept_while_its_worker_lives(temporary: Path) -> None:
    first, second = Scratch.open(), Scratch.open()
    (first.path / "file").write_text("of the first")
    third = Scratch.open()
    assert {first.path, second.path, third.path} == set(first.path.parent.iterdir())
    os.close(first._handle)  # as when its process is killed
    fourth = Scratch.open()
    assert {second.path, third.path, fourth.path} == set(first.path.parent.iterdir())
    for each in (second, third, fourth):
        each.close()
    assert list(first.path.parent.iterdir()) == []
    assert oct(first.path.parent.stat().st_mode)[-3:] == "700"


WORKER = """
import asyncio
from framemesh.service import main
from framemesh.steps.functions import functions_of
from framemesh.steps.worker import StepSettings, StepWorker

class Litter(StepWorker[StepSettings]):
    kind = "Litter"
    settings_type = StepSettings
    functions = tuple(functions_of("tests.integration.littering"))

main(Litter)
"""


async def test_what_a_killed_worker_leaves_is_swept_by_the_next(
    jobs: Jobs, servers: Mapping[str, str], tmp_path: Path
) -> None:
    environment = dict(servers) | {"TMPDIR": str(tmp_path)}

    async def files() -> list[Path]:
        return list(tmp_path.rglob("litter"))

    async def start() -> Process:
        made = Process("litter", [sys.executable, "-c", WORKER], env=environment)
        await made.start()
        return made

    first = await start()

    async def known() -> bool:
        return "litter" in await jobs.functions.all()

    await until(known, within=30)
    job = await jobs.submit(one("litter"))
    (left,) = await until(files, within=30)
    first.signal(signal.SIGKILL)
    await first.wait()
    await first.close()
    assert left.exists()
    second = await start()

    async def swept() -> bool:
        return not left.exists()

    await until(swept, within=30)
    await jobs.cancel(job.id)
    await second.stop()
    await second.close()
