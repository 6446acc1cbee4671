"""Media: taken in, shown, played and deleted. They are their owner's, and an admin's.

What is asked for becomes an event on ``triggers.media.uploaded``: it is durable when the answer says 202, and the
plan that is subscribed to it does the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from pathlib import PurePath
from typing import Any, cast

from aiohttp import web
from pydantic import BaseModel

from framemesh.blobs import BlobMissing
from framemesh.bus import BusError
from framemesh.database.media import Media
from framemesh.errors import FramemeshError
from framemesh.labels import checked_label
from framemesh.media import (
    DELETED,
    EDITION_PATTERN,
    FILE_PATTERN,
    MASTER,
    MEDIA_PATTERN,
    RENDITION_PATTERN,
    TRANSCRIPT,
    TYPES,
    UPLOADED,
    key,
)
from framemesh.steps.job import Job, Priority, new_id
from framemesh.steps.store import JobMissing
from framemesh.steps.triggers import TriggerEvent, Triggers
from framemesh.tokens import Scope
from services.gateway import bodies, events, tickets, uploads
from services.gateway.bodies import checked
from services.gateway.desk import Call
from services.gateway.documents import matches
from services.gateway.handlers import FORM, JSON, answer, check_workers
from services.gateway.media_documents import (
    About,
    AboutNew,
    MediaDocument,
    MediaPage,
    MediaQuery,
    MediaRemoval,
    MediaSummary,
    MediaUpdate,
    NewMedia,
    TicketDocument,
)
from services.gateway.problems import Problem, away
from services.gateway.ranges import File, served
from services.gateway.route import Route
from services.gateway.uploads import Bounds, Shape, Stored

NEW_FORM = Shape("file", AboutNew, "a video or a sound", "gateway_upload_mb")
UPDATE_FORM = Shape("file", About, "a video or a sound", "gateway_upload_mb")
FRESH = "private, no-cache"
FOR_EVER = "private, max-age=31536000, immutable"
"""What lies under an edition is never another file."""


# -- taken in -----------------------------------------------------------------------------------------


async def create(call: Call) -> web.Response:
    """Take in a medium, by its address or as it is."""
    return await _take_in(call, NewMedia, NEW_FORM)


async def update(call: Call) -> web.Response:
    """Take in another version of a medium, or one under an id of the client's."""
    return await _take_in(call, MediaUpdate, UPDATE_FORM, _id(call))


async def _take_in(call: Call, body: type[About], form: Shape, media: str = "") -> web.Response:
    if plan := await Triggers(call.desk.bus).find(UPLOADED):
        await check_workers(call.desk, plan, "the media service makes media")
    match call.request.content_type:
        case "application/json":
            new = checked(body, await bodies.read_json(call.request))
            return await _asked(call, media, new, {"url": getattr(new, "media_url", "")})
        case "multipart/form-data":
            with call.desk.uploads.entered(call.token.name):
                return await _uploaded(call, media, form)
        case other:
            raise Problem(
                415, f"{other} is not taken: send {JSON} or {FORM}", headers={"Accept-Post": f"{JSON}, {FORM}"}
            )


async def _uploaded(call: Call, media: str, shape: Shape) -> web.Response:
    most = call.desk.settings.upload_bytes
    form = await uploads.receive(call.request, call.desk.blobs, shape, Bounds(most, most))
    taken = False
    try:
        new = cast(About, checked(shape.texts, form.values))
        file = cast(Stored, form.file)
        found = await _asked(call, media, new, {"upload": file.address}, _titled(file.name))
        taken = True
        return found
    finally:
        if not taken:
            await asyncio.shield(form.delete())


def _titled(name: str) -> str:
    """What a file is called, where that is a name at all."""
    with contextlib.suppress(FramemeshError):
        return checked_label(PurePath(name).stem, "file")
    return ""


async def _asked(call: Call, media: str, new: About, given: dict[str, Any], named: str = "") -> web.Response:
    """Note the version that is asked for, and publish its event. Raises Problem."""
    desk, table, owner = call.desk, call.desk.media, call.token.name
    media = media or getattr(new, "media_id", None) or secrets.token_hex(8)
    before = await table.find(media)
    if before and not call.may_see(before.owner):
        raise Problem(409, f"mediaId: {media} is somebody else's: choose another", field="mediaId")
    owner = before.owner if before else owner
    about = {
        "title": new.title or (before.title if before and not before.deleted else "") or named or media,
        "source": new.source or (before.source if before else "") or media,
    }
    event_key = secrets.token_hex(16)
    job, version = new_id(owner, event_key), before.version + 1 if before else 1
    if not await table.ask(media, owner=owner, job=job, version=version, **about):
        raise Problem(409, f"mediaId: {media} is just being changed by somebody else: try again", field="mediaId")
    event = TriggerEvent(
        input={"media": media, "version": version, "owner": owner} | about | given,
        owner=owner, priority=Priority(new.priority), key=event_key,
    )  # fmt: skip
    try:
        await Triggers(desk.bus).fire(UPLOADED, event)
    except BusError as error:
        await table.take_back(media, job, before)
        raise away("the stream of events takes no more just now: try again later") from error
    await _end(call, before)
    return answer(await _document(call, media), 202, {"Location": f"/media/{media}"})


async def _end(call: Call, before: Media | None) -> None:
    """Nobody wants an older version any more."""
    if before and before.job:
        with contextlib.suppress(JobMissing):
            await call.desk.jobs.cancel(before.job, f"{before.id} was asked for again, or deleted")


async def delete(call: Call) -> web.Response:
    """Delete a medium: at once it is not there any more; what was made of it goes with a job."""
    media = await _media(call)
    event_key = secrets.token_hex(16)
    job, version = new_id(media.owner, event_key), media.version + 1
    if not await call.desk.media.mark_deleted(media.id, job, version):
        raise Problem(409, f"mediaId: {media.id} is just being changed: try again", field="mediaId")
    event = TriggerEvent(input={"media": media.id, "version": version}, owner=media.owner, key=event_key)
    try:
        await Triggers(call.desk.bus).fire(DELETED, event)
    except BusError as error:
        await call.desk.media.take_back(media.id, job, media)
        raise away("the stream of events takes no more just now: try again later") from error
    await _end(call, media)
    return answer(MediaRemoval(media_id=media.id, job_id=job), 202)


# -- shown --------------------------------------------------------------------------------------------


def _id(call: Call) -> str:
    media = call.request.match_info["mediaId"]
    if not matches(MEDIA_PATTERN, media):
        raise _missing(media)
    return media


def _missing(media: str) -> Problem:
    return Problem(404, f"mediaId: there is no medium {media[:64]!r}: GET /media lists yours", field="mediaId")


async def _media(call: Call) -> Media:
    """The medium that the path names. Raises Problem, the same for one that is not there and for another's."""
    name = _id(call)
    media = await call.desk.media.find(name)
    if media is None or media.deleted or not call.may_see(media.owner):
        raise _missing(name)
    return media


async def _document(call: Call, name: str) -> MediaDocument:
    media = await call.desk.media.find(name)
    if media is None or media.deleted:
        raise _missing(name)
    return MediaDocument.with_job(media, await call.desk.find(media.job))


async def show(call: Call) -> web.Response:
    """A medium, and how it stands."""
    media = await _media(call)
    return answer(MediaDocument.with_job(media, await call.desk.find(media.job)))


async def list_media(call: Call) -> web.Response:
    """Media, the newest first."""
    query = cast(MediaQuery, call.query)
    owner = call.whose(query.owner, "media")
    try:
        found = await call.desk.media.page(
            owner=owner, source=query.source, limit=query.limit + 1, after=query.cursor or ""
        )
    except FramemeshError as error:
        raise Problem(400, str(error), field="cursor") from error
    page = found[: query.limit]
    more = page[-1].id if len(found) > query.limit else ""
    return answer(MediaPage(media=[MediaSummary.of(each) for each in page], cursor=more))


async def stream(call: Call) -> web.StreamResponse:
    """Answer with the medium each time that it has changed, until the job of its version is over."""
    media = await _media(call)

    async def describe(job: Job | None) -> BaseModel | None:
        now = await call.desk.media.find(media.id)
        if now is None or now.deleted or now.job != media.job:
            return None
        return MediaDocument.with_job(now, job)

    return await events.follow(call, media.job, describe)


# -- played -------------------------------------------------------------------------------------------


async def playlist(call: Call) -> web.Response:
    """The master playlist."""
    return await _file(call, MASTER, TYPES[".m3u8"], FRESH)


async def transcript(call: Call) -> web.Response:
    """All that is said, with its times."""
    return await _file(call, TRANSCRIPT, JSON, FRESH)


async def _file(call: Call, name: str, content_type: str, cache: str) -> web.Response:
    media = await _media(call)
    if media.published is None:
        raise Problem(404, f"mediaId: {media.id} cannot be played (yet): GET /media/{media.id}", field="mediaId")
    return await _served(call, key(media.id, media.published["edition"], name), content_type, cache)


async def segment(call: Call) -> web.Response:
    """A playlist, an initialisation segment or a segment of a rendition."""
    media, info = await _media(call), call.request.match_info
    names = [info["edition"], info["rendition"], info["file"]]
    patterns = (EDITION_PATTERN, RENDITION_PATTERN, FILE_PATTERN)
    if not all(matches(pattern, name) for pattern, name in zip(patterns, names, strict=True)):
        raise Problem(404, "there is no such file: the playlist names those that there are")
    return await _served(call, key(media.id, *names), TYPES[PurePath(names[-1]).suffix], FOR_EVER)


async def _served(call: Call, where: str, content_type: str, cache: str) -> web.Response:
    try:
        data = await call.desk.media_bucket.get(where)
    except BlobMissing:
        raise Problem(404, "there is no such file (any more): the playlist names those that there are") from None
    return served(call.request, File(data, content_type, cache))


async def ticket(call: Call) -> web.Response:
    """An address for a player that cannot send a token."""
    media = await _media(call)
    made, expires = await tickets.make(call.desk.tokens, call.token, media.id, call.desk.settings.tickets_last)
    return answer(TicketDocument(path=f"/play/{made}/{media.id}/{MASTER}", expires=expires), 201)


V, O = Scope.VIEWER, Scope.OPERATOR  # noqa: E741 - as the table is read
_ABOUT_RANGES = {
    "Range": "The part that is wanted: bytes=0-499; several are answered with all",
    "If-Range": "Only while its ETag is this one, else all",
    "If-None-Match": "Not when its ETag is this one",
}
_FILES: dict[str, Any] = {
    "statuses": (200, 206, 304), "problems": (404, 416), "headers": _ABOUT_RANGES,
}  # fmt: skip
_PLAYLISTS, _SEGMENTS = (TYPES[".m3u8"],), tuple(TYPES.values())
_SEGMENT_PATH = "{mediaId}/hls/{edition}/{rendition}/{file}"
ROUTES = (
    Route(
        "POST", "/media", "createMedia",
        "Take in a video or a sound, by its address or as an upload; answers at once. "
        "With the id of one that is there it is a new version of that.",
        O, create, MediaDocument, body=NewMedia, form=NEW_FORM, statuses=(202,), problems=(409, 413, 415),
    ),
    Route("GET", "/media", "listMedia", "Media, the newest first; admin sees everybody's.", V, list_media,
          MediaPage, MediaQuery),
    Route(
        "PUT", "/media/{mediaId}", "updateMedia",
        "Take in a medium under this id, or a new version of it. What was made of the same bytes is taken again.",
        O, update, MediaDocument, body=MediaUpdate, form=UPDATE_FORM, statuses=(202,),
        problems=(404, 409, 413, 415),
    ),
    Route("GET", "/media/{mediaId}", "getMedia", "A medium, and how its newest version stands.", V, show,
          MediaDocument, problems=(404,)),
    Route(
        "DELETE", "/media/{mediaId}", "deleteMedia",
        "Delete a medium: from now on it is not there; its files and passages go with a job.",
        O, delete, MediaRemoval, statuses=(202,), problems=(404, 409),
    ),
    Route(
        "GET", "/media/{mediaId}/events", "streamMedia",
        "Server-sent events: the medium each time that it has changed, until the job of its version is over. "
        "204: nothing follows what Last-Event-ID names.",
        V, stream, MediaDocument, statuses=(200, 204), problems=(404,), is_stream=True,
        headers={events.SEEN_HEADER: "The last that was seen"},
    ),
    Route("GET", "/media/{mediaId}/index.m3u8", "getPlaylist", "The master playlist (HLS).", V, playlist, None,
          media=_PLAYLISTS, **_FILES),
    Route("GET", "/media/{mediaId}/transcript", "getTranscript", "All that is said, word by word.", V, transcript,
          None, media=(JSON,), **_FILES),
    Route("GET", f"/media/{_SEGMENT_PATH}", "getSegment", "A rendition's playlist, or a segment of it.", V,
          segment, None, media=_SEGMENTS, **_FILES),
    Route("POST", "/media/{mediaId}/tickets", "createTicket",
          "An address for a player that cannot send a token; it ends by itself, and with the token.",
          V, ticket, TicketDocument, statuses=(201,), problems=(404,)),
    Route("GET", "/play/{ticket}/{mediaId}/index.m3u8", "playPlaylist", "The master playlist, by a ticket.", V,
          playlist, None, media=_PLAYLISTS, by_ticket=True, **_FILES),
    Route("GET", f"/play/{{ticket}}/{_SEGMENT_PATH}", "playSegment",
          "A rendition's playlist, or a segment of it, by a ticket.", V, segment, None, media=_SEGMENTS,
          by_ticket=True, **_FILES),
)  # fmt: skip
