"""A medium is played in a real browser: it moves, it is heard, it can be sought in."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.integration.gateways import Client
from tests.integration.medias import form
from tests.integration.test_media_pipeline import ended

PLAYER = """<!doctype html><meta charset="utf-8"><title>player</title>
<style>body { margin: 0; background: #000 } video { width: 640px }</style>
<video id="video" controls playsinline></video>"""

WITH_TOKEN = """([path, token]) => new Promise((resolve, reject) => {
  const hls = new Hls({ xhrSetup: xhr => xhr.setRequestHeader('Authorization', 'Bearer ' + token) });
  hls.on(Hls.Events.ERROR, (_, error) => { if (error.fatal) reject(new Error(error.details)); });
  hls.on(Hls.Events.MANIFEST_PARSED, () => {
    hls.currentLevel = hls.levels.length - 1;
    resolve(hls.levels.length);
  });
  hls.loadSource(path);
  hls.attachMedia(document.getElementById('video'));
})"""
BY_TICKET = """path => new Promise((resolve, reject) => {
  const hls = new Hls();
  hls.on(Hls.Events.ERROR, (_, error) => { if (error.fatal) reject(new Error(error.details)); });
  hls.on(Hls.Events.MANIFEST_PARSED, () => resolve(hls.levels.length));
  hls.loadSource(path);
  hls.attachMedia(document.getElementById('video'));
})"""
PLAYED = "seconds => document.getElementById('video').currentTime >= seconds"
STATE = """() => {
  const video = document.getElementById('video');
  const canvas = Object.assign(document.createElement('canvas'), {width: 64, height: 36});
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0, 64, 36);
  const pixels = [...context.getImageData(0, 0, 64, 36).data].filter((_, at) => at % 4 < 3);
  const mean = pixels.reduce((sum, each) => sum + each, 0) / pixels.length;
  const spread = Math.sqrt(pixels.reduce((sum, each) => sum + (each - mean) ** 2, 0) / pixels.length);
  return { width: video.videoWidth, height: video.videoHeight, time: video.currentTime, duration: video.duration,
           frames: video.getVideoPlaybackQuality().totalVideoFrames, sound: video.webkitAudioDecodedByteCount,
           error: video.error && video.error.message, spread };
}"""
SEEK = """to => new Promise(resolve => {
  const video = document.getElementById('video');
  video.addEventListener('seeked', () => resolve(video.currentTime), { once: true });
  video.currentTime = to;
})"""


@pytest.fixture
async def film(ann: Client, assets: Any) -> str:
    """A film of five seconds, with sound, that is published."""
    name = f"film-{secrets.token_hex(4)}"
    await ann.ask("PUT", f"/media/{name}", data=form(assets("bigbuckbunny")))
    document = await ended(ann, name, within=120)
    assert document["status"] == "done", document
    return name


async def player(browser: Browser, base: str, script: Path) -> Page:
    """A page of the gateway's origin, as behind one proxy: it sends no CORS headers."""
    page = await browser.new_page(viewport={"width": 640, "height": 360})

    async def show(route: Any) -> None:
        await route.fulfill(body=PLAYER, content_type="text/html")

    await page.route(f"{base}/player", show)
    await page.goto(f"{base}/player")
    await page.add_script_tag(path=script)
    return page


async def play(page: Page, seconds: float) -> dict[str, Any]:
    await page.evaluate("() => document.getElementById('video').play()")
    await page.wait_for_function(PLAYED, arg=seconds, timeout=30_000)
    found: dict[str, Any] = await page.evaluate(STATE)
    return found


async def test_a_film_plays_is_heard_and_can_be_sought_in(
    ann: Client, film: str, browser: Browser, hls_script: Path
) -> None:
    page = await player(browser, ann.base, hls_script)
    levels = await page.evaluate(WITH_TOKEN, [f"/media/{film}/index.m3u8", ann.token])
    assert levels == 2
    state = await play(page, 1.0)
    assert (state["error"], state["width"], state["height"]) == (None, 640, 360), state
    assert state["duration"] == pytest.approx(5.3, abs=0.1)
    assert state["frames"] > 10
    assert state["sound"] > 1000
    assert state["spread"] > 10, "the picture is of one colour"
    if folder := os.environ.get("FRAMEMESH_SCREENSHOTS"):
        await page.screenshot(path=Path(folder) / "film.png")
    assert await page.evaluate(SEEK, 4.2) == pytest.approx(4.2, abs=0.1)
    await page.wait_for_function("() => document.getElementById('video').ended", timeout=30_000)
    assert await page.evaluate(SEEK, 0.5) == pytest.approx(0.5, abs=0.1)
    again = await play(page, 1.5)
    assert again["time"] < 4
    await page.close()


async def test_a_player_without_a_token_plays_by_a_ticket(
    ann: Client, film: str, browser: Browser, hls_script: Path
) -> None:
    ticket = (await ann.post(f"/media/{film}/tickets")).body
    page = await player(browser, ann.base, hls_script)
    await page.evaluate(BY_TICKET, ticket["path"])
    state = await play(page, 1.0)
    assert (state["error"], state["sound"] > 1000) == (None, True), state
    with pytest.raises(Exception, match="manifestLoadError"):
        await page.evaluate(BY_TICKET, f"/media/{film}/index.m3u8")
    await page.close()


async def test_sound_alone_plays(ann: Client, browser: Browser, hls_script: Path, assets: Any) -> None:
    name = f"sound-{secrets.token_hex(4)}"
    await ann.ask("PUT", f"/media/{name}", data=form(assets("jfk")))
    assert (await ended(ann, name))["status"] == "done"
    page = await player(browser, ann.base, hls_script)
    await page.evaluate(WITH_TOKEN, [f"/media/{name}/index.m3u8#t=9.0", ann.token])  # as a search names it
    state = await play(page, 1.0)
    assert (state["error"], state["width"], state["sound"] > 1000) == (None, 0, True), state
    assert state["duration"] == pytest.approx(11, abs=0.2)
    assert await page.evaluate(SEEK, 9.0) == pytest.approx(9.0, abs=0.1)
    await page.close()
