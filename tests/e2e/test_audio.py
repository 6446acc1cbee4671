"""Sound through the whole mesh: files and a camera, transcribed and measured, and a killed replica."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from framemesh import assets, audio, subjects
from framemesh.audio import RATE
from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.embedded import free_port
from framemesh.messages import AudioWindow, Frame, Medium, Result, Segment, Voice
from tests.e2e.mesh import ended, known, mesh_of
from tests.e2e.test_rtsp import camera, require_rtsp
from tests.samples import PRESIDENT, until, word_errors
from tests.unit.test_sound import Film, Floats, click

ROUTES = '{"*": ["TranscribeInference", {"model": "VoiceInference", "follows": "TranscribeInference"}]}'
WORKERS = {"ear-1=transcribe": {"transcribe_beam": "5"}, "ear-2=transcribe": {}, "voice": {}}


def president(times: int) -> Floats:
    path = assets.find("jfk")
    if path is None:
        pytest.skip("asset jfk is not here: set FRAMEMESH_ASSETS or run `framemesh assets pull jfk`")
    return np.asarray(np.tile(audio.decode(path.read_bytes()), times), np.float32)


async def results(bus: Bus, kind: str, source: str) -> list[Result]:
    """In the order of their windows."""
    read = bus.read(subjects.RESULTS.name, subjects.results(kind, source), 1, Result)
    return sorted([stored.message async for stored in read], key=lambda result: result.seq)


async def all_results(bus: Bus, kind: str, source: str, count: int) -> list[Result]:
    async def complete() -> list[Result]:
        found = await results(bus, kind, source)
        return found if len(found) >= count else []

    return list(await until(complete, within=60))


async def windows(bus: Bus, source: str) -> list[AudioWindow]:
    return [stored.message async for stored in bus.read("AUDIO", subjects.audio(source), 1, AudioWindow)]


def span(found: list[AudioWindow]) -> float:
    """Seconds from the beginning of the first to the end of the last."""
    return found[-1].timestamp + found[-1].duration - found[0].timestamp if found else 0


def said(found: list[Result]) -> list[str]:
    segments = [item for result in found for item in result.result if isinstance(item, Segment)]
    return re.findall(r"[a-z0-9']+", " ".join(segment.text for segment in segments).lower())


def told(found: list[Result]) -> str:
    """What each window gave, a line each, to say what went wrong."""
    return "\n".join(f"{each.seq} {each.duration} s {each.error} {' '.join(said([each]))}" for each in found)


async def test_a_file_is_transcribed_and_measured_though_a_replica_dies(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(audio.wav(president(3)))
    async with mesh_of(tmp_path / "mesh", WORKERS, ROUTES) as (mesh, bus):
        await known(tmp_path / "mesh", "TranscribeInference", "VoiceInference")
        await mesh.start_service("reader", {"video_source": str(path), "source": "speech", "pace": "fast"})

        async def begun() -> list[Result]:
            return await results(bus, "TranscribeInference", "speech")

        await until(begun, within=60)
        os.kill(mesh.pids()["ear-1"], signal.SIGKILL)
        state = await ended(bus, "speech")
        assert (state.frames, state.reason) == (0, "")
        heard = await all_results(bus, "TranscribeInference", "speech", state.windows)
        measured = await all_results(bus, "VoiceInference", "speech", state.windows)
        stored = await windows(bus, "speech")
    assert [result.seq for result in heard] == list(range(state.windows))
    assert word_errors(3 * PRESIDENT.split(), said(heard)) <= 2, told(heard)
    assert [window.seq for window in stored] == [result.seq for result in measured]
    for window, result in zip(stored, measured, strict=True):
        assert (result.medium, result.frame_id, result.width) == (Medium.AUDIO, "", 0)
        assert (result.timestamp, result.duration) == (window.timestamp, window.duration)
        assert result.audio_url == window.url
        assert result.model_name == "silero-pyin"
        assert len(result.model_sha256) == 64
    voices = [item for result in measured for item in result.result if isinstance(item, Voice)]
    assert len(voices) == state.windows
    assert sum(voice.duration_s for voice in voices) == pytest.approx(33, abs=0.01)
    rates = [voice.words_per_minute for voice in voices if voice.words_per_minute]
    assert rates
    assert all(40 < rate < 400 for rate in rates)


def film(folder: Path) -> Path:
    """The president twice, then a flash and a click, H.264 and AAC."""
    speech = president(2)
    speech = np.interp(np.arange(3 * len(speech)) / 3, np.arange(len(speech)), speech).astype(np.float32)
    sound = np.concatenate((speech, click(2.0, 1.0, 48000)))
    return Film(flash=23.0, seconds=len(sound) / 48000, samples=sound, rate=48000, container="mp4").write(folder)


async def test_a_camera_is_heard_in_step_with_its_pictures(tmp_path: Path) -> None:
    require_rtsp()
    path, port = await asyncio.to_thread(film, tmp_path), free_port()
    reader: dict[str, Any] = {
        "video_source": f"rtsp://127.0.0.1:{port}/live",
        "source": "gate",
        "read_timeout": "2",
        "retry_seconds": "1",
    }
    async with mesh_of(tmp_path / "mesh", WORKERS, ROUTES) as (mesh, bus):
        await known(tmp_path / "mesh", "TranscribeInference", "VoiceInference")
        with camera(path, port, "--sound", "--once", repeat=1):
            await mesh.start_service("reader", reader)

            async def whole() -> bool:
                log = tmp_path / "mesh" / "logs" / "reader.log"
                heard = await results(bus, "TranscribeInference", "gate")
                gone = log.exists() and "trying again" in log.read_text()
                there = await windows(bus, "gate")
                return gone and span(there) > 23 and len(heard) == len(there)

            await until(whole, within=75)
        first = await results(bus, "TranscribeInference", "gate")
        stored = await windows(bus, "gate")
        clicked = stored[-1]
        await asyncio.sleep(1.5)
        with camera(path, port, "--sound", repeat=1):  # it comes back: the run goes on

            async def more() -> bool:
                return len(await windows(bus, "gate")) > len(stored) + 1

            await until(more, within=30)
        stored = await windows(bus, "gate")
        await mesh.services["reader"].stop(3)
        flash = await flash_time(mesh.environment()["master_url"], bus)
        click_at = await click_time(mesh.environment()["master_url"], clicked)
    print(f"the click is {1000 * (click_at - flash):+.0f} ms after the flash")
    assert click_at == pytest.approx(flash, abs=0.2)
    assert word_errors(2 * PRESIDENT.split(), said(first)) <= 2, told(first)
    assert len({window.run for window in stored}) == 1
    assert [window.seq for window in stored] == list(range(len(stored)))
    assert all(one.timestamp < other.timestamp for one, other in pairwise(stored))
    gaps = [other.timestamp - one.timestamp - one.duration + one.tail for one, other in pairwise(stored)]
    assert max(gaps) > 1  # while there was no camera
    assert min(gaps) > -0.05  # each begins where the one before has ended


async def flash_time(master: str, bus: Bus) -> float:
    """When the first bright picture was seen."""
    stream = subjects.frames_stream("frames-stream", 0).name
    async with BlobStore(master) as blobs:
        async for stored in bus.read(stream, "frames-stream.gate", 1, Frame):
            picture = simplejpeg.decode_jpeg(await blobs.get(stored.message.url))
            if picture.mean() > 128:
                return stored.message.timestamp
    raise AssertionError("no flash was seen")


async def click_time(master: str, window: AudioWindow) -> float:
    async with BlobStore(master) as blobs:
        samples = audio.decode(await blobs.get(window.url))
    return window.timestamp + int(np.flatnonzero(np.abs(samples) > 0.4)[-1]) / RATE - 0.02
