"""Pictures and collections: listed, served, deleted.

Every token sees all of them, as a site that shows pictures has another token than who uploads them. What is
deleted must be one's own; an admin deletes anything.
"""

from __future__ import annotations

import contextlib
import logging
from typing import cast
from urllib.parse import quote

from aiohttp import web

from framemesh.blobs import BlobError, BlobMissing
from framemesh.database.images import Image, Thumbnail
from framemesh.errors import FramemeshError
from framemesh.images import TYPES, thumbnail_key, thumbnail_keys
from framemesh.labels import checked_label
from framemesh.steps.plan import NAME_PATTERN
from framemesh.tokens import Scope
from services.gateway import bodies
from services.gateway.bodies import checked
from services.gateway.desk import Call
from services.gateway.documents import matches
from services.gateway.handlers import answer
from services.gateway.image_documents import (
    CollectionDocument,
    CollectionPage,
    ForceQuery,
    ImageDocument,
    ImagePage,
    ImageQuery,
    ListQuery,
    NewCollection,
)
from services.gateway.image_problems import of_images
from services.gateway.problems import Problem, away
from services.gateway.ranges import is_known
from services.gateway.route import Route

log = logging.getLogger(__name__)

_INERT = {"Content-Security-Policy": "default-src 'none'; sandbox"}
"""Whatever a file of a stranger's says: a browser shows a picture, and runs nothing."""
SOON_S = 2


# -- collections --------------------------------------------------------------------------------------


async def create_collection(call: Call) -> web.Response:
    """Make a collection."""
    new = checked(NewCollection, await bodies.read_json(call.request))
    with of_images():
        made = await call.desk.images.create_collection(new.name, call.token.name)
    return answer(CollectionDocument.of(made), 201, {"Location": f"/collections/{made.name}"})


async def list_collections(call: Call) -> web.Response:
    """Collections by name."""
    query = cast(ListQuery, call.query)
    found = await call.desk.images.collections(query.after, query.limit)
    return answer(CollectionPage(collections=[CollectionDocument.of(each) for each in found]))


async def show_collection(call: Call) -> web.Response:
    """A collection with its statistics."""
    with of_images():
        return answer(CollectionDocument.of(await call.desk.images.collection(_collection(call))))


async def delete_collection(call: Call) -> web.Response:
    """Delete a collection of one's own."""
    with of_images():
        found = await call.desk.images.collection(_collection(call))
        _check_own(call, found.owner, f"collection: {found.name}")
        await call.desk.images.delete_collection(found.name, force=cast(ForceQuery, call.query).force)
    return web.Response(status=204)


async def list_images(call: Call) -> web.Response:
    """Pictures of a collection by name."""
    query, table = cast(ListQuery, call.query), call.desk.images
    with of_images():
        found = await table.collection(_collection(call))
    images = await table.page(found.name, query.after, query.limit)
    thumbnails = await table.thumbnails([image.id for image in images])
    return answer(ImagePage(images=[ImageDocument.of(image, thumbnails[image.id]) for image in images]))


def _collection(call: Call) -> str:
    name = call.request.match_info["collection"]
    if not matches(NAME_PATTERN, name):
        raise Problem(
            404, f"collection: there is none {name[:100]!r}: GET /collections lists them", field="collection"
        )
    return name


def _check_own(call: Call, owner: str, what: str) -> None:
    if not call.may_see(owner):
        raise Problem(403, f"{what} is {owner}'s: only {owner} or an admin may delete it")


# -- pictures -----------------------------------------------------------------------------------------


async def show(call: Call) -> web.Response:
    """A picture itself, or one of its thumbnails."""
    for _ in range(2):  # it may be optimised between the look-up and the reading
        with contextlib.suppress(BlobMissing):
            return await _shown(call)
    raise Problem(404, "name: the file of this image is gone: upload it again", field="name")


async def _shown(call: Call) -> web.Response:
    query = cast(ImageQuery, call.query)
    image = await _image(call)
    if query.size is None:
        return await _served(call, image.key, image.type, image.sha256, image.name, {})
    kind = query.format or ("webp" if "image/webp" in call.request.headers.get("Accept", "") else "jpeg")
    found = await _thumbnail(call, image, query.size, kind)
    vary = {} if query.format else {"Vary": "Accept"}
    key, name = thumbnail_key(image.id, query.size, kind), f"{image.name}.{query.size}.{kind}"
    return await _served(call, key, kind, found.sha256, name, vary)


async def _image(call: Call) -> Image:
    """The picture that the path names. Raises Problem."""
    collection = _collection(call)
    try:
        name = checked_label(call.request.match_info["name"], "name")
    except FramemeshError as error:
        raise Problem(404, str(error), field="name") from error
    image = await call.desk.images.find(collection, name)
    if image is None:
        raise Problem(
            404,
            f"name: there is no image {name} in {collection}: GET /images/{collection} lists them",
            field="name",
        )
    return image


async def _thumbnail(call: Call, image: Image, size: int, kind: str) -> Thumbnail:
    for each in (await call.desk.images.thumbnails([image.id]))[image.id]:
        if (each.size, each.type) == (size, kind):
            return each
    raise away(f"size: the thumbnails of {image.name} are not made yet: try again, or leave size out", SOON_S)


async def _served(call: Call, key: str, kind: str, sha256: str, name: str, more: dict[str, str]) -> web.Response:
    headers: dict[str, str] = (
        _INERT
        | more
        | {
            "ETag": f'"{sha256[:32]}"',
            "Cache-Control": f"private, max-age={call.desk.settings.images_max_age}",
        }
    )
    if is_known(call.request, sha256[:32]):
        return web.Response(status=304, headers=headers)
    data = await call.desk.bucket.get(key)
    headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(name, safe='')}"
    return web.Response(body=data, content_type=f"image/{kind}", headers=headers)


async def delete(call: Call) -> web.Response:
    """Delete a picture of one's own, with its thumbnails."""
    image = await _image(call)
    _check_own(call, image.owner, f"image {image.name}")
    await call.desk.images.delete(image)
    try:
        await call.desk.bucket.delete([image.key, *thumbnail_keys(image.id)])
    except BlobError as error:
        log.warning("files of %s are left to the cleanup: %s", image.id, error)
    return web.Response(status=204)


V, O = Scope.VIEWER, Scope.OPERATOR  # noqa: E741 - as the table is read
ROUTES = (
    Route(
        "POST", "/collections", "createCollection", "Make a collection of pictures.",
        O, create_collection, CollectionDocument, body=NewCollection, statuses=(201,), problems=(409, 413),
    ),
    Route(
        "GET", "/collections", "listCollections", "Collections by name, with how much they have.",
        V, list_collections, CollectionPage, ListQuery,
    ),
    Route(
        "GET", "/collections/{collection}", "getCollection", "A collection, and how much it has.",
        V, show_collection, CollectionDocument, problems=(404,),
    ),
    Route(
        "DELETE", "/collections/{collection}", "deleteCollection",
        "Delete a collection of one's own; one that has images only with force.",
        O, delete_collection, None, ForceQuery, statuses=(204,), problems=(404, 409),
    ),
    Route(
        "GET", "/images/{collection}", "listImages", "Pictures of a collection by name.",
        V, list_images, ImagePage, ListQuery, problems=(404,),
    ),
    Route(
        "GET", "/images/{collection}/{name}", "getImage",
        "A picture, or with size a thumbnail. 304: it is what If-None-Match says.",
        V, show, None, ImageQuery, statuses=(200, 304), problems=(404,),
        media=tuple(f"image/{kind}" for kind in TYPES),
    ),
    Route(
        "DELETE", "/images/{collection}/{name}", "deleteImage", "Delete a picture of one's own.",
        O, delete, None, statuses=(204,), problems=(404,),
    ),
)  # fmt: skip
