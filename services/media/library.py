"""What is published: the steps that need the database, the bucket as a whole, and the mesh."""

from __future__ import annotations

import re
import time
from typing import Any

from pydantic import Field, field_validator

from framemesh import subjects
from framemesh.blobs import BlobMissing
from framemesh.buckets import Bucket
from framemesh.bus import Bus
from framemesh.database.media import MediaTable
from framemesh.errors import FramemeshError
from framemesh.labels import LONGEST
from framemesh.media import MEDIA_PATTERN, TRANSCRIPT, edition_of, key, playlist_path
from framemesh.messages import SOURCE_PATTERN, MediaEvent, MediaState
from framemesh.steps.context import Context
from framemesh.steps.derivations import Derivations
from framemesh.steps.functions import Function, Skip
from framemesh.steps.given import Given, checked
from framemesh.steps.job import Owner

MOST_VERSIONS = (1 << 31) - 1
SUPERSEDED = "a newer version was asked for"
_FILE = (
    "version", "video", "fetched", "sha256", "width", "height", "fps", "has_audio", "has_video", "content_type",
    "codecs", "tags",
)  # fmt: skip
_SPOKEN = ("language", "text", "text_cut", "words", "segments", "words_per_minute", "model")


class RegisterInput(Given):
    """Input of ``registering``: anybody may have published it."""

    media: str = Field(pattern=MEDIA_PATTERN)
    version: int | None = Field(None, ge=1, le=MOST_VERSIONS, strict=True)
    owner: Owner | None = None
    title: str | None = Field(None, max_length=LONGEST)
    source: str | None = Field(None, pattern=SOURCE_PATTERN)

    @field_validator("title")
    @classmethod
    def _readable(cls, title: str | None) -> str | None:
        if title and not title.isprintable():
            raise ValueError("want one line, of characters that can be seen")
        return title


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
        asked = checked(RegisterInput, given)
        version = asked.version
        if version is None:
            version = await self._ask(ctx, asked)
        elif not await self._table.work_on(asked.media, version, ctx.job):
            raise Skip(SUPERSEDED)
        # Read now: what an older version publishes until this one is asked for is known, and nothing after that.
        row = await self._table.find(asked.media)
        published = row.published if row else None
        known = {name: published[name] for name in ("video", "sha256", "fetched")} if published else None
        return {"version": version, "known": known, "owner": row.owner if row else None}

    async def _ask(self, ctx: Context, asked: RegisterInput) -> int:
        """An event that is not of the gateway: the next version, unless this job has asked for it already."""
        media, before = asked.media, await self._table.find(asked.media)
        version = 1 if before is None else before.version + (before.job != ctx.job)
        owner, title, source = asked.owner or "nobody", asked.title or "", asked.source or media
        if not await self._table.ask(media, owner=owner, job=ctx.job, version=version, title=title, source=source):
            if before and before.owner != owner:
                raise FramemeshError(f"input.media: {media} is {before.owner}'s: choose another name")
            raise Skip(SUPERSEDED)
        return version

    async def publishing(self, ctx: Context, given: Any) -> Any:
        """Let what was made be played, then drop what was made of other files.

        What is to be found follows from the output: where a newer version was asked for, nothing.
        """
        media, file, hls = _name(given), given.get("file"), given.get("hls")
        if file is None or hls is None:
            raise Skip(SUPERSEDED)
        spoken = await self._keep_transcript(ctx, media, hls["edition"], given.get("transcript"))
        published = {name: file.get(name) for name in _FILE} | hls | {"transcript": spoken}
        current = await self._table.publish(media, file["version"], published)
        if gone := await self._drop(media):
            ctx.log.info("%d files of other versions deleted", gone)
        if not current:
            raise Skip(SUPERSEDED)
        return {
            "version": file["version"],
            "edition": hls["edition"],
            "duration_s": hls["duration_s"],
            "transcript": (given.get("transcript") or {}).get("transcript"),
        }

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

    async def _drop(self, media: str) -> int:
        """Nothing stays but what is published, and what the newest job is making."""
        count = 0
        async for page in self._bucket.pages(within=key(media, "")):
            kept = await self._kept(media)  # asked after the listing: what is newer than this is not in it
            stale = [each.key for each in page if not each.key.startswith(kept)]
            await self._bucket.delete(stale)
            count += len(stale)
        return count

    async def _kept(self, media: str) -> tuple[str, ...]:
        row = await self._table.find(media)
        if row is None or row.deleted:
            return ()
        editions = [edition_of(row.job), *([row.published["edition"]] if row.published else [])]
        return tuple(key(media, edition, "") for edition in editions)

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
            await self._memory.forget(media, but=row.job if row else "")
        state = MediaState.READY if failed is None else MediaState.FAILED
        if not isinstance(version, int):  # an event of anybody, which got its version here, or none
            version = row.version if row and row.job == ctx.job else 0
        await self._tell(ctx, media, version, state, **about)
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
        count = await self._drop(media)
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
