"""``fetching-media`` and ``transcoding``: a medium looked into, and made into HLS, as steps of a job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field

from framemesh.buckets import Bucket
from framemesh.encoders import pick_encoder
from framemesh.media import MASTER, MEDIA_PATTERN, TYPES, edition_of, key
from framemesh.settings import load
from framemesh.steps.context import Context
from framemesh.steps.derivations import kept_seconds
from framemesh.steps.files import named_file
from framemesh.steps.functions import Skip, step
from framemesh.steps.given import Given, checked
from services.media.functions import downloading_video
from services.media.hls import Written, look, master
from services.media.ladder import Rendition, renditions
from services.media.loudness import Loudness, measure
from services.media.probe import Probe
from services.media.settings import MediaSettings
from services.media.transcode import Transcoder

FETCH_S, LONGEST_S = 2 * 3600.0, 12 * 3600.0
MEASURED, WRITTEN = 10.0, 85.0
"""Percent of a step when the loudness is known, and when the renditions are here; the rest is storing them."""
AT_A_TIME = 8
"""Files that are stored at a time."""


class TranscodeInput(Given):
    """Input of ``transcoding``."""

    media: str = Field(pattern=MEDIA_PATTERN)
    video: str | None
    duration_s: float | None = None
    renditions: list[Rendition] | None
    loudness: float | None


@step("fetching-media", timeout=FETCH_S, process=True)
async def fetching_media(ctx: Context, given: Any) -> Any:
    """Fetch a medium, or take one that was uploaded, look into it, and say which renditions it shall have.

    A file of the same bytes as the one that is known goes by that one's address: what was made of it is known too.
    """
    if given.get("version") is None:
        raise Skip("a newer version was asked for")
    found = await downloading_video(ctx, {name: given.get(name) for name in ("url", "upload")})
    settings, known, now = load(MediaSettings), given.get("known") or {}, time.time()
    if known.get("sha256") == found["sha256"] and known["fetched"] + kept_seconds(settings.jobs_ttl) > now:
        ctx.log.info("the file is the same as before")
        found["video"], now = known["video"], known["fetched"]
    looked = Probe(**{name: found[name] for name in Probe.__dataclass_fields__})
    rungs = renditions(looked, settings.media_ladder, settings.media_audio)
    return found | {
        "version": given["version"],
        "fetched": now,
        "renditions": [each.model_dump() for each in rungs],
        "loudness": settings.media_loudness if looked.has_audio else None,
    }


def _encoding() -> list[str]:
    """What is written depends on the encoder; ladder and loudness are in the input."""
    settings = load(MediaSettings)
    return [pick_encoder(settings.video_encoder), settings.media_preset]


@step("transcoding", timeout=LONGEST_S, process=True, depends=_encoding)
async def transcoding(ctx: Context, given: Any) -> Any:
    """Make the renditions of a medium as HLS, its sound at one loudness, and store them in the bucket."""
    settings = load(MediaSettings)
    path = await named_file(ctx, given, "video")
    asked = checked(TranscodeInput, given)
    loudness = await _measured(ctx, path, asked)
    folder = ctx.scratch / "hls"
    gain = loudness.gain(asked.loudness) if loudness and asked.loudness is not None else 0.0
    transcoder = Transcoder(
        folder, asked.renditions or [], gain_db=gain, longest_s=60 * settings.media_max_minutes,
        encoder=pick_encoder(settings.video_encoder), preset=settings.media_preset, threads=settings.media_threads,
    )  # fmt: skip
    await _follow(ctx, transcoder.run(path), asked.duration_s, MEASURED, WRITTEN)
    written = [look(folder, each) for each in asked.renditions or []]
    edition = edition_of(ctx.job)
    (folder / MASTER).write_text(master(written, f"hls/{edition}"))
    await _store(ctx, folder, asked.media, edition, settings)
    return {
        "edition": edition,
        "duration_s": max(each.seconds for each in written),
        "bytes": sum(each.bytes for each in written),
        "renditions": [_told(each) for each in written],
        "loudness": None if loudness is None else asdict(loudness) | {"target": asked.loudness, "gain_db": gain},
    }


async def _measured(ctx: Context, path: Path, asked: TranscodeInput) -> Loudness | None:
    if asked.loudness is None:
        return None
    found: list[Loudness] = []

    def seconds() -> Iterator[float]:
        for at, loudness in measure(path):
            found[:] = [loudness]
            yield at

    await _follow(ctx, seconds(), asked.duration_s, 0, MEASURED)
    return found[0] if found else None


async def _follow(ctx: Context, work: Iterator[float], of: float | None, low: float, high: float) -> None:
    """Do work that says how many seconds are done."""
    for at in work:
        share = min(1.0, at / max(of or at, 1e-3))
        await ctx.progress(low + (high - low) * share, f"{at:.0f} of {max(of or at, at):.0f} s")


def _told(written: Written) -> dict[str, Any]:
    return written.rendition.model_dump() | {
        name: getattr(written, name) for name in ("codecs", "peak_bps", "mean_bps", "segments", "bytes")
    }


async def _store(ctx: Context, folder: Path, media: str, edition: str, settings: MediaSettings) -> None:
    """The master playlist last: where it is, all is."""
    bucket = Bucket(settings.s3_url, settings.media_bucket, settings.s3_access_key, settings.s3_secret_key)
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.parent == folder)
    free, done = asyncio.Semaphore(AT_A_TIME), 0

    async def put(path: Path) -> None:
        nonlocal done
        async with free:
            names = path.relative_to(folder).parts
            await bucket.put(key(media, edition, *names), path.read_bytes(), TYPES[path.suffix])
            done += 1
            await ctx.progress(WRITTEN + (100 - WRITTEN) * done / len(files), "storing")

    async with asyncio.TaskGroup() as group:
        for path in files[:-1]:
            group.create_task(put(path))
    await put(files[-1])
