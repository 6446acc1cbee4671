"""The steps of the media service. Each runs as a process of its own: FFmpeg reads the files of strangers in it."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from framemesh.errors import FramemeshError
from framemesh.settings import load
from framemesh.steps.context import Context
from framemesh.steps.files import Say, named_file
from framemesh.steps.functions import Skip, step
from services.media.download import Limits, download, shown
from services.media.extract import Written, extract
from services.media.probe import Probe, probe
from services.media.settings import MediaSettings

LONGEST_S = 2 * 3600.0
FETCHED = 80.0
"""Percent of a step when the file is here; the rest is storing it."""
_MIB = 1 << 20


@step("downloading-video", timeout=LONGEST_S, process=True)
async def downloading_video(ctx: Context, given: Any) -> Any:
    """Fetch a video from an address, or take one that was uploaded, and look into it.

    Input: ``url``, or ``upload``, the address of a stored file, which only the gateway says. Output: ``video``,
    its address in the store, and what it is.
    """
    settings = load(MediaSettings)
    url, upload = (given.get(name) if isinstance(given, dict) else None for name in ("url", "upload"))
    if bool(url) == bool(upload):
        raise FramemeshError("input: give either url, the address of a video, or upload, a stored file")
    if upload:
        path, found = await _uploaded(ctx, given, settings)
        video = str(upload)
    else:
        path, found = await _downloaded(ctx, url, settings)
        video = await ctx.put_file(path, _storing(ctx))
    checksum = await asyncio.to_thread(_sha256, path)
    return {"video": video, "bytes": path.stat().st_size, "sha256": checksum, **asdict(found)}


async def _downloaded(ctx: Context, url: Any, settings: MediaSettings) -> tuple[Path, Probe]:
    if not isinstance(url, str):
        raise FramemeshError("input.url: want a text, e.g. https://example.org/video.mp4")
    path = ctx.scratch / "video"
    limits = Limits(settings.max_bytes, settings.download_timeout, settings.allow_private_addresses)

    async def say(have: int, total: int | None) -> None:
        of = f" of {total / _MIB:.1f}" if total else ""
        await ctx.progress(FETCHED * have / total if total else 0, f"{have / _MIB:.1f}{of} MiB")

    kind = await download(url, path, limits, say)
    ctx.log.info("fetched %s: %d bytes, %s", shown(url), path.stat().st_size, kind)
    return path, _looked_into(path, f"input.url: {shown(url)} ({kind})", settings)


async def _uploaded(ctx: Context, given: Any, settings: MediaSettings) -> tuple[Path, Probe]:
    path = await named_file(ctx, given, "upload", _fetching(ctx))
    if path.stat().st_size > settings.max_bytes:
        raise FramemeshError(
            f"input.upload: {path.stat().st_size // _MIB} MiB, {settings.media_max_mb} are allowed: "
            "upload a smaller video, or raise media_max_mb"
        )
    return path, _looked_into(path, "input.upload", settings)


def _looked_into(path: Path, name: str, settings: MediaSettings) -> Probe:
    if not path.stat().st_size:
        raise FramemeshError(f"{name}: the file is empty: give a video")
    try:
        found = probe(path)
    except FramemeshError as error:
        raise FramemeshError(f"{name}: {error}: give a video, e.g. MP4 or WebM") from error
    if (found.duration_s or 0) > 60 * settings.media_max_minutes:
        raise FramemeshError(
            f"{name}: {(found.duration_s or 0) / 60:.0f} minutes, {settings.media_max_minutes:g} are allowed: "
            "cut it, or raise media_max_minutes"
        )
    return found


@step("extracting-audio", timeout=LONGEST_S, process=True)
async def extracting_audio(ctx: Context, given: Any) -> Any:
    """Take the sound out of a video: ``video`` in, ``audio`` out, a WAV of 16 kHz, mono."""
    settings = load(MediaSettings)
    video = await named_file(ctx, given, "video", _fetching(ctx))
    found = probe(video)
    if not found.has_audio:
        raise Skip("the video has no sound")
    wav = ctx.scratch / "audio.wav"
    written = Written(0, 0)
    for written in extract(video, wav, settings.media_max_minutes):
        of = found.duration_s or written.seconds
        await ctx.progress(20 + min(60.0, 60 * written.seconds / max(of, 1e-3)), f"{written.seconds:.0f} s")
    if not written.seconds:
        raise Skip("the video's sound has no samples")
    return {
        "audio": await ctx.put_file(wav, _storing(ctx)),
        "duration_s": round(written.seconds, 3),
        "bytes": wav.stat().st_size,
        "sample_rate": 16_000,
        "channels": 1,
        "silent": written.peak == 0,
        "content_type": "audio/wav",
    }


def _fetching(ctx: Context) -> Say:
    async def say(share: float) -> None:
        await ctx.progress(20 * share, "reading from the store")

    return say


def _storing(ctx: Context) -> Say:
    async def say(share: float) -> None:
        await ctx.progress(FETCHED + (100 - FETCHED) * share, "storing")

    return say


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
