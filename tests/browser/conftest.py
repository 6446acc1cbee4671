"""A real browser: Debian's Chromium, driven by Playwright, with hls.js of npm."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright

from tests.integration.conftest import ann, at, begin, jobs

__all__ = ["ann", "at", "begin", "jobs"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ("--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-dev-shm-usage")
HLS = "hls.js@1.7.4"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Chromium, without a window."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium")
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        await started.close()


@pytest.fixture(scope="session")
def hls_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hls.js, as pages load it."""
    if shutil.which("npm") is None:
        pytest.skip("no npm: apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("hls")
    got = subprocess.run(["npm", "install", "--silent", HLS], cwd=folder, check=False, timeout=120)
    script = folder / "node_modules" / "hls.js" / "dist" / "hls.min.js"
    if got.returncode or not script.is_file():
        pytest.skip(f"{HLS} cannot be had of npm: is there a network?")
    return script


@pytest.fixture(autouse=True)
async def settled() -> AsyncIterator[None]:
    """Playwright's driver has closed its pipes before the loop ends."""
    yield
    await asyncio.sleep(0.1)
