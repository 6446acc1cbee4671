"""The work on pixels. It runs in processes of the pool: files of strangers are decoded nowhere else."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from framemesh.errors import FramemeshError
from framemesh.images import FORMATS, SIZES
from services.images.anatomy import CUT_SHORT, DAMAGED, dissected
from services.images.likeness import likeness

Reply = tuple[dict[str, Any], list[bytes]]

ORIENTATION = 0x0112
"""EXIF's tag of which side is up; from 5 to 8 the picture lies on its side."""
_LYING = 5
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_LARGEST = max(SIZES)
SAVED: dict[str, dict[str, Any]] = {
    "webp": {"quality": 80, "method": 2},
    "jpeg": {"quality": 82},
}
"""How thumbnails are encoded: measured in docs/adr/0018-pictures-under-ids.md."""
_REDUCING_GAP = 1.5
_DECODERS = ("JPEG", "PNG", "WEBP", "GIF")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, ZeroDivisionError, MemoryError)
"""What decoders raise for files that are not right."""
_SRGB = ImageCms.createProfile("sRGB")
_SRGB_BYTES = ImageCms.ImageCmsProfile(_SRGB).tobytes()
Image.MAX_IMAGE_PIXELS = None  # the bound is checked before, by what the file itself says


# -- look ---------------------------------------------------------------------------------------------


def examine(given: dict[str, Any], data: bytes) -> Reply:
    """Look whether a file is a picture that can be decoded, of ``most_pixels`` at most.

    Output: ``type``, ``width`` and ``height`` of the upright picture, ``animated``; and a blob, the file without
    what is no picture. Raises FramemeshError.
    """
    claimed = dissected(data)
    _check_size(claimed.width, claimed.height, given["most_pixels"])
    clean = b"".join(claimed.kept)
    picture = _opened(clean, given["most_pixels"])  # what is stored, not what was sent
    width, height = picture.size
    animated = bool(getattr(_decoded(picture, reduced=True), "is_animated", False))
    orientation = 1 if clean == data else _orientation(_opened(data, given["most_pixels"]))
    if orientation > 1:
        clean = b"".join(dissected(data, _exif(orientation)).kept)
    if orientation >= _LYING:
        width, height = height, width
    return {"type": claimed.type, "width": width, "height": height, "animated": animated}, [clean]


def _check_size(width: int, height: int, most: float) -> None:
    if width * height > most:
        raise FramemeshError(
            f"file: {width} x {height} pixels, {most / 1e6:g} million are allowed: make it smaller, "
            "or let the operator raise images_max_megapixels"
        )


def _opened(data: bytes, most: float) -> Image.Image:
    """The picture with its head read, and nothing decoded. Raises FramemeshError."""
    try:
        picture = Image.open(io.BytesIO(data), formats=_DECODERS)
    except (UnidentifiedImageError, *_BROKEN) as error:
        raise FramemeshError(DAMAGED) from error
    _check_size(*picture.size, most)
    return picture


def _decoded(picture: Image.Image, *, reduced: bool) -> Image.Image:
    """Its first frame; ``reduced`` to half, a quarter or an eighth where that is enough for every thumbnail.

    Raises FramemeshError.
    """
    if reduced and picture.format == "JPEG":
        picture.draft(None, (_LARGEST, _LARGEST))
    try:
        picture.load()
    except _BROKEN as error:
        raise FramemeshError(CUT_SHORT if "truncated" in str(error) else DAMAGED) from error
    return picture


def _orientation(picture: Image.Image) -> int:
    """Which side of a decoded picture is up; what cannot be read turns nothing."""
    try:
        turned = picture.getexif().get(ORIENTATION, 1)
    except _BROKEN:
        return 1
    return turned if turned in _TURNS else 1


def _exif(orientation: int) -> bytes:
    """A TIFF block that says only which side is up."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


# -- thumbnails ---------------------------------------------------------------------------------------


def thumbnails(given: dict[str, Any], data: bytes) -> Reply:
    """A picture in each size and format: upright, in sRGB, without metadata, never enlarged.

    Output: ``thumbnails``, each with ``size``, ``type``, ``width`` and ``height``, in the order of the blobs.
    """
    whole = _decoded(_opened(data, given["most_pixels"]), reduced=True)
    picture = _in_srgb(_fitted(_plain(whole), _LARGEST), whole.info.get("icc_profile"))
    picture = _upright(picture, _orientation(whole))
    told, blobs = [], []
    for size in sorted(SIZES, reverse=True):
        picture = _fitted(picture, size)
        for kind in FORMATS:
            blobs.append(_saved(picture, kind, **SAVED[kind]))
            told.append({"size": size, "type": kind, "width": picture.width, "height": picture.height})
    return {"thumbnails": told}, blobs


def _fitted(picture: Image.Image, size: int) -> Image.Image:
    """The picture with a longer side of at most ``size`` pixels."""
    share = size / max(picture.size)
    if share >= 1:
        return picture
    width, height = (max(1, round(side * share)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def _plain(picture: Image.Image) -> Image.Image:
    """The picture as 8 bit samples without a palette, with an alpha channel where parts of it are transparent."""
    if picture.mode.startswith("I"):  # 16 bit, which convert would clip
        samples = np.asarray(picture).astype(np.uint32) >> 8
        return Image.fromarray(samples.clip(0, 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        return picture.convert("RGBA")
    return picture.convert("RGB") if picture.mode in {"P", "1"} else picture


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, or RGBA, in the colours of sRGB."""
    if profile and (turned := _by_profile(picture, profile)):
        return turned
    return picture if picture.mode in {"RGB", "RGBA"} else picture.convert("RGB")


def _by_profile(picture: Image.Image, profile: bytes) -> Image.Image | None:
    """The picture as its colour profile means it; None for a profile that is none, or of other colours."""
    if profile == _SRGB_BYTES:
        return None
    mode = "RGBA" if picture.mode == "RGBA" else "RGB"
    try:
        return ImageCms.profileToProfile(
            picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)), _SRGB, outputMode=mode
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    if kind == "jpeg" and picture.mode == "RGBA":  # it knows nothing transparent: white
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture.getchannel("A"))
        picture = white
    out = io.BytesIO()
    picture.info = {}  # nothing of it is written, whatever the writer would take
    picture.save(out, kind.upper(), **options)
    return out.getvalue()


# -- smaller ------------------------------------------------------------------------------------------

SAVED_SHARE = 0.05
"""Least share that a new encoding must save to be worth its loss."""
_QUALITIES = (75, 82, 88, 92)
_BYTE_BITS = 8
_PNG_DEPTH = 24
"""Place of the bits a sample in a PNG."""


def optimize(given: dict[str, Any], data: bytes) -> Reply:
    """A smaller file of the same picture, where there is one that is equal to the eye.

    PNG is packed anew, without loss. JPEG and WebP are encoded anew at the lowest quality whose likeness is
    at least ``least``. Output: ``likeness``, and a blob; no blob where none is smaller by 5%.
    """
    picture = _decoded(_opened(data, given["most_pixels"]), reduced=False)
    if getattr(picture, "is_animated", False) or picture.format == "GIF":
        return {"likeness": 1.0}, []
    if picture.format == "PNG":
        return _repacked(picture, data)
    for quality in _QUALITIES:
        tried = _encoded(picture, quality)
        if len(tried) > (1 - SAVED_SHARE) * len(data):
            break
        alike = likeness(picture, Image.open(io.BytesIO(tried)))
        if alike >= given["least"]:
            return {"likeness": alike}, [tried]
    return {"likeness": 0.0}, []


def _repacked(picture: Image.Image, data: bytes) -> Reply:
    if _says_more(picture, data):
        return {"likeness": 0.0}, []
    tried = _packed(picture, {"optimize": True})
    again = Image.open(io.BytesIO(tried))
    same = again.mode == picture.mode and again.tobytes() == picture.tobytes()
    if not same or len(tried) > (1 - SAVED_SHARE) * len(data):
        return {"likeness": 0.0}, []
    return {"likeness": 1.0}, [tried]


def _says_more(picture: Image.Image, data: bytes) -> bool:
    """Whether a PNG has deeper samples, or more to say of its colours, than Pillow would write."""
    head = data[: data.find(b"IDAT")]
    return head[_PNG_DEPTH] > _BYTE_BITS or bool({"gamma", "chromaticity"} & set(picture.info)) or b"cICP" in head


def _encoded(picture: Image.Image, quality: int) -> bytes:
    best = {"optimize": True, "progressive": True} if picture.format == "JPEG" else {"method": 6}
    return _packed(picture, best | {"quality": quality})


def _packed(picture: Image.Image, options: dict[str, Any]) -> bytes:
    """A file of the same format, with the colour profile and which side is up as they were."""
    kept: dict[str, Any] = {}
    if (orientation := _orientation(picture)) > 1:
        kept["exif"] = b"Exif\0\0" + _exif(orientation)
    if profile := picture.info.get("icc_profile"):
        kept["icc_profile"] = profile
    out = io.BytesIO()
    picture.save(out, picture.format, **options, **kept)
    return out.getvalue()
