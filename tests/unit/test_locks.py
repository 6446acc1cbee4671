"""A folder for one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from framemesh.locks import is_at, lock


def test_a_locked_folder_is_nobody_elses(tmp_path: Path) -> None:
    handle = lock(tmp_path)
    assert handle is not None
    assert lock(tmp_path) is None
    os.close(handle)
    again = lock(tmp_path)
    assert again is not None
    os.close(again)


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from framemesh.locks import lock\n"
        f"assert lock(Path({str(tmp_path)!r})) is not None\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    handle = lock(tmp_path)
    assert handle is not None
    os.close(handle)


def test_a_lock_of_a_folder_that_was_removed_is_worth_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    handle = lock(folder)
    assert handle is not None
    assert is_at(handle, folder)
    folder.rmdir()
    assert not is_at(handle, folder)
    folder.mkdir()
    assert not is_at(handle, folder)
    os.close(handle)
