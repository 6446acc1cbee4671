"""What is published: the steps that need the database, the bucket as a whole, and the mesh."""

from __future__ import annotations

import re
import time
from typing import Any

from framemesh import subjects
from framemesh.blobs import BlobMissing
from framemesh.buckets import Bucket
from framemesh.bus import Bus
from framemesh.database.media import Media, MediaTable
from framemesh.errors import FramemeshError
from framemesh.media import MEDIA_PATTERN, TRANSCRIPT, key, playlist_path
from framemesh.messages import MediaEvent, MediaState
from framemesh.steps.context import Context
from framemesh.steps.derivations import Derivations
from framemesh.steps.functions import Function, Skip

SUPERSEDED = "a newer version was asked for"
_FILE = (
    "version", "video", "fetched", "sha256", "width", "height", "fps", "has_audio", "has_video", "content_type",
    "codecs", "tags",
)  # fmt: skip
_SPOKEN = ("language", "text", "text_cut", "words", "segments", "words_per_minute", "model")


class Library:
    """The media that can be played."""

    def __init__(self, bus: Bus, table: MediaTable, bucket: Bucket) -> None:
        self._bus, self._table, self._bucket = bus, table, bucket
        self._memory = Derivations(bus)

    @property
    def functions(self) -> tuple[Function, ...]:
        """The steps."""
        return (
            Function("registering", self.registering, 60, description="Note that a medium was asked for."),
            Function(
                "publishing", self.publishing, 3600, description="Let what was made be played; drop the old."
            ),
            Function("notifying", self.notifying, 300, description="Tell on events.media what became of it."),
            Function("removing", self.removing, 3600, description="Forget a medium, and all that was made of it."),
        )

    async def registering(self, ctx: Context, given: Any) -> Any:
        """Say which version of a medium a job makes, and what is known of the file that is published."""
        media = _name(given)
        version, before = given.get("version"), await self._table.find(media)
        if version is None:
            version = await self._ask(ctx, media, given, before)
        elif not await self._table.work_on(media, version, ctx.job):
            raise Skip(SUPERSEDED)
        published = before.published if before else None
        known = {name: published[name] for name in ("video", "sha256", "fetched")} if published else None
        return {"version": version, "known": known}

    async def _ask(self, ctx: Context, media: str, given: Any, before: Media | None) -> int:
        """An event that is not of the gateway: the next version, unless this job has asked for it already."""
        version = 1 if before is None else before.version + (before.job != ctx.job)
        owner = str(given.get("owner") or "nobody")
        about = {name: str(given.get(name) or "") for name in ("title", "source")}
        about["source"] = about["source"] or media
        if not await self._table.ask(media, owner=owner, job=ctx.job, version=version, **about):
            if before and before.owner != owner:
                raise FramemeshError(f"input.media: {media} is {before.owner}'s: choose another name")
            raise Skip(SUPERSEDED)
        return version

    async def publishing(self, ctx: Context, given: Any) -> Any:
        """Let what was made be played, then drop what was made of other files."""
        media, file, hls = _name(given), given.get("file"), given.get("hls")
        if file is None or hls is None:
            raise Skip(SUPERSEDED)
        spoken = await self._keep_transcript(ctx, media, hls["edition"], given.get("transcript"))
        published = {name: file.get(name) for name in _FILE} | hls | {"transcript": spoken}
        current = await self._table.publish(media, file["version"], published)
        await self._tidy(ctx, media)
        if not current:
            raise Skip(SUPERSEDED)
        return {"version": file["version"], "edition": hls["edition"], "duration_s": hls["duration_s"]}

    async def _keep_transcript(self, ctx: Context, media: str, edition: str, spoken: Any) -> Any:
        """As long as the medium, beside its renditions."""
        if not spoken:
            return None
        try:
            data = await ctx.get(spoken["transcript"])
        except BlobMissing as error:
            raise FramemeshError(f"input.transcript: {error}; its time may be over: begin anew") from error
        await self._bucket.put(key(media, edition, TRANSCRIPT), data, "application/json")
        return {name: spoken.get(name) for name in _SPOKEN}

    async def _tidy(self, ctx: Context, media: str) -> None:
        """Nothing stays but what is published."""
        row = await self._table.find(media)
        edition = row.published["edition"] if row and row.published else None
        gone = await self._drop(media, edition)
        await self._memory.forget(media, but=row.job if row else "")
        if gone:
            ctx.log.info("%d files of other versions deleted", gone)

    async def _drop(self, media: str, but: str | None) -> int:
        kept, count = key(media, but, "") if but else None, 0
        async for page in self._bucket.pages(within=key(media, "")):
            stale = [each.key for each in page if not (kept and each.key.startswith(kept))]
            await self._bucket.delete(stale)
            count += len(stale)
        return count

    async def notifying(self, ctx: Context, given: Any) -> Any:
        """Tell what became of a medium; once for each job."""
        media, failed = _name(given), given.get("failed")
        row = await self._table.find(media)
        version = given.get("version")
        if version is None and failed is None:
            raise Skip(SUPERSEDED)
        published = (row.published if row else None) or {}
        about: dict[str, Any] = {"title": row.title, "source": row.source} if row else {}
        if failed is not None:
            about |= {"reason": str(failed)}
        else:
            about |= {"playlist": playlist_path(media), "duration_s": published.get("duration_s")}
            about |= {"indexed": given.get("indexed")}
        state = MediaState.READY if failed is None else MediaState.FAILED
        await self._tell(ctx, media, version or (row.version if row else 0), state, **about)
        return {"state": state.value}

    async def _tell(self, ctx: Context, media: str, version: int, state: MediaState, **about: Any) -> None:
        event = MediaEvent(media=media, version=version, job=ctx.job, state=state, timestamp=time.time(), **about)
        await self._bus.publish(subjects.events("media"), event, msg_id=f"{media}/{ctx.job}/{state}")

    async def removing(self, ctx: Context, given: Any) -> Any:
        """Forget a medium, unless it was asked for again since."""
        media, version = _name(given), given.get("version")
        row = await self._table.find(media)
        if row is None:
            raise Skip("there is no such medium (any more)")
        if version is None:
            version = row.version + (row.job != ctx.job)
            await self._table.mark_deleted(media, ctx.job, version)
            row = await self._table.find(media)
        if row is None or not row.deleted or row.version != version:
            raise Skip(SUPERSEDED)
        count = await self._drop(media, None)
        await self._memory.forget(media)
        await self._tell(ctx, media, version, MediaState.DELETED, title=row.title, source=row.source)
        await self._table.remove(media, version)
        return {"files": count}


def _name(given: Any) -> str:
    media = given.get("media") if isinstance(given, dict) else None
    if not isinstance(media, str) or not re.fullmatch(MEDIA_PATTERN.strip("^$"), media):
        raise FramemeshError(
            f"input.media: want a name of letters, digits, - and _, 64 at most, got {str(media)[:80]!r}"
        )
    return media
