"""No pictures and no sounds, given to real workers: each has a dead letter with the reason, the rest goes on."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from framemesh import audio, subjects
from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.messages import AudioTask, DeadLetter, Finding, Medium, Result, Task, Voice
from tests.samples import dead_letters, frame, until, window
from tests.unit.test_audio import tone, written

PICTURE = np.tile(np.linspace(0, 255, 640, dtype=np.uint8)[None, :, None], (480, 1, 3))


def jpeg(image: np.ndarray = PICTURE, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(exif=exif)


def with_alpha() -> bytes:
    png: bytes = cv2.imencode(".png", np.dstack([PICTURE, PICTURE[..., :1]]))[1].tobytes()
    return png


WHOLE = jpeg()
GOOD_PICTURES: dict[str, tuple[bytes, tuple[int, int]]] = {
    "grey": (jpeg(mode="L"), (640, 480)),
    "CMYK": (jpeg(mode="CMYK"), (640, 480)),
    "alpha": (with_alpha(), (640, 480)),
    "turned by EXIF": (turned(), (480, 640)),
    "20,000 pixels wide": (jpeg(np.zeros((64, 20_000, 3), np.uint8)), (20_000, 64)),
}
BAD_PICTURES: dict[str, tuple[bytes, tuple[int, int], str]] = {
    "nothing": (b"", (640, 480), "the frame is not a JPEG that can be read"),
    "text": (b"Dear diary,\n" * 400, (640, 480), "the frame is not a JPEG that can be read"),
    "sound": (audio.wav(np.zeros(100, np.float32)), (640, 480), "the frame is not a JPEG that can be read"),
    "a head alone": (WHOLE[:300], (640, 480), "the frame is not a JPEG that can be read"),
    "another size": (WHOLE, (1920, 1080), "the frame is 640x480 pixels upright, but its claim says 1920x1080"),
    "gigabytes": (
        WHOLE.replace(b"\x01\xe0\x02\x80", b"\xea\x60\xea\x60", 1),
        (60000, 60000),
        "the frame has 60000x60000 pixels; at most 64 million are decoded",
    ),
}
GOOD_SOUNDS = {
    "eight channels": written(np.stack([tone(1, 100 * (n + 1)) for n in range(8)], axis=1)),
    "cut short": audio.wav(tone(2).astype(np.float32))[:20_001],
}
BAD_SOUNDS = {
    "nothing": (b"", "the sound cannot be read"),
    "no samples": (written(np.zeros((0, 1))), "the sound has no samples"),
    "text": (b"Dear diary,\n" * 400, "the sound cannot be read"),
    "a picture": (WHOLE, "the file has no sound"),
    "two minutes and more": (written(np.zeros((123 * 8000, 1)), 8000), "the sound is longer than 120 seconds"),
}


class Given:
    """One worker, a queue of its own, and what becomes of what lies in it."""

    def __init__(self, bus: Bus, blobs: BlobStore, kind: str, medium: Medium) -> None:
        self._bus, self._blobs, self.kind, self.medium = bus, blobs, kind, medium

    async def give(self, source: str, data: bytes, size: tuple[int, int] = (640, 480)) -> None:
        url = await self._blobs.put(data) if data else await self._empty()
        await self.ask(source, url, size)

    async def ask(self, source: str, url: str, size: tuple[int, int] = (640, 480)) -> None:
        if self.medium is Medium.FRAME:
            given = frame(source, url=url, width=size[0], height=size[1]).model_dump()
            task: Task | AudioTask = Task(**given, model=self.kind)
        else:
            task = AudioTask(**window(source, url=url, tail=0.0).model_dump(), model=self.kind)
        await self._bus.publish(subjects.tasks(self.kind, source, lossless=True), task, msg_id=task.task_key)

    async def _empty(self) -> str:
        """SeaweedFS keeps no file without bytes: one byte that is none of any format."""
        return await self._blobs.put(b"\0")

    async def letter(self, source: str) -> DeadLetter:
        stream = subjects.task_stream(self.kind, lossless=True)

        async def come() -> list[DeadLetter]:
            return await dead_letters(self._bus, stream, f"{stream}.{source}")

        letter: DeadLetter = (await until(come, within=120))[0]
        assert json.loads(letter.payload)["source"] == source
        return letter

    async def result(self, source: str) -> Result:
        async def come() -> Result | None:
            stored = await self._bus.last("RESULTS", subjects.results(self.kind, source), Result)
            return stored.message if stored else None

        found: Result = await until(come, within=120)
        return found


@asynccontextmanager
async def worker(
    servers: Mapping[str, str], bus: Bus, blobs: BlobStore, spec: str, kind: str, medium: Medium
) -> AsyncIterator[Given]:
    """A worker's process, which must end as it is told and never before."""
    await bus.declare(*subjects.task_streams(kind, medium), subjects.RESULTS, subjects.DEADLETTERS)
    environment = dict(os.environ) | dict(servers)
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "framemesh.workers", spec, env=environment, cwd=root, stderr=subprocess.DEVNULL
    )
    try:
        yield Given(bus, blobs, kind, medium)
        assert process.returncode is None
    finally:
        process.terminate()
        status = await asyncio.wait_for(process.wait(), 10)
    assert status == -signal.SIGTERM


async def test_pictures(servers: Mapping[str, str], bus: Bus, blobs: BlobStore, source: str) -> None:
    spec, kind = "examples.brightness:Brightness", "BrightnessInference"
    async with worker(servers, bus, blobs, spec, kind, Medium.FRAME) as given:
        for number, (data, size, _) in enumerate(BAD_PICTURES.values()):
            await given.give(f"{source}-bad-{number}", data, size)
        for number, (data, size) in enumerate(GOOD_PICTURES.values()):
            await given.give(f"{source}-good-{number}", data, size)
        for number, (name, (_, _, reason)) in enumerate(BAD_PICTURES.items()):
            letter = await given.letter(f"{source}-bad-{number}")
            assert reason in letter.reason, name
            assert letter.deliveries == 1, name
        for number, name in enumerate(GOOD_PICTURES):
            (found,) = (await given.result(f"{source}-good-{number}")).result
            assert isinstance(found, Finding), name
            expected = 0 if name.startswith("20,000") else 0.5
            assert found.data["mean"] == pytest.approx(expected, abs=0.02), name


async def test_sounds(servers: Mapping[str, str], bus: Bus, blobs: BlobStore, source: str) -> None:
    async with worker(servers, bus, blobs, "voice", "VoiceInference", Medium.AUDIO) as given:
        for number, (data, _) in enumerate(BAD_SOUNDS.values()):
            await given.give(f"{source}-bad-{number}", data)
        for number, data in enumerate(GOOD_SOUNDS.values()):
            await given.give(f"{source}-good-{number}", data)
        for number, (name, (_, reason)) in enumerate(BAD_SOUNDS.items()):
            letter = await given.letter(f"{source}-bad-{number}")
            assert reason in letter.reason, name
            assert letter.deliveries == 1, name
        for number, name in enumerate(GOOD_SOUNDS):
            (found,) = (await given.result(f"{source}-good-{number}")).result
            assert isinstance(found, Voice), name
            assert found.duration_s == pytest.approx(1 if name == "eight channels" else 0.62, abs=0.01), name


async def test_what_is_gone(servers: Mapping[str, str], bus: Bus, blobs: BlobStore, source: str) -> None:
    url = await blobs.put(WHOLE)
    await blobs.delete(url)
    spec, kind = "examples.brightness:Brightness", "BrightnessInference"
    async with worker(servers, bus, blobs, spec, kind, Medium.FRAME) as given:
        await given.ask(source, url)
        assert "is gone" in (await given.letter(source)).reason


def test_a_model_that_does_not_load_says_so_in_a_line(
    servers: Mapping[str, str], tmp_path: Path, assets: Callable[[str], Path]
) -> None:
    (tmp_path / "broken.onnx").write_bytes(assets("yolox-nano").read_bytes()[:100_000])
    (tmp_path / "broken.yaml").write_text("{kind: Broken, model: broken.onnx, decoder: yolox, labels: coco}")
    ended = subprocess.run(
        [sys.executable, "-m", "framemesh.workers", str(tmp_path / "broken.yaml")],
        env=dict(os.environ) | dict(servers), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    [line] = [line for line in ended.stderr.splitlines() if " ERROR " in line]
    assert "broken.onnx does not load" in line
    assert "Traceback" not in ended.stderr


def test_the_made_pictures_are_what_they_claim() -> None:
    for name, (data, size) in GOOD_PICTURES.items():
        if name not in {"alpha", "turned by EXIF"}:
            assert simplejpeg.decode_jpeg_header(data)[:2] == size[::-1]
