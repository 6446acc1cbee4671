"""The work on pixels: what is taken and refused, what thumbnails are, when a picture is made smaller."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from framemesh.errors import FramemeshError
from framemesh.images import (
    FORMATS,
    SIZES,
    bulk_plan,
    image_of,
    new_image_id,
    new_key,
    orphans,
    sniffed,
    task_plan,
    thumbnail_keys,
    upload_plan,
)
from framemesh.steps.plan import check
from services.images import pixels
from services.images.likeness import likeness
from tests.pictures import (
    encoded,
    gif_bomb,
    gif_frame_bomb,
    gps,
    jpeg_bomb,
    opened,
    png,
    png_bomb,
    scene,
    webp_bomb,
)

GIVEN = {"most_pixels": 64e6, "least": 0.98}
TOLERANCE = 40
"""Of a colour after lossy encoding."""
KINDS = ("JPEG", "PNG", "WEBP", "GIF")


def examined(data: bytes) -> tuple[dict[str, Any], bytes]:
    told, (clean,) = pixels.examine(GIVEN, data)
    return told, clean


def thumbnails(data: bytes) -> dict[tuple[int, str], Image.Image]:
    """By size and format, as they are decoded."""
    told, blobs = pixels.thumbnails(GIVEN, examined(data)[1])
    found = {}
    for each, blob in zip(told["thumbnails"], blobs, strict=True):
        picture = opened(blob)
        assert picture.size == (each["width"], each["height"])
        assert (picture.format or "").lower() == each["type"]
        found[each["size"], each["type"]] = picture
    return found


def corners(picture: Image.Image) -> list[tuple[int, ...]]:
    """Colours at the top left, top right and bottom left."""
    small = picture.convert("RGB")
    right, bottom = small.width - 3, small.height - 3
    return [tuple(small.getpixel(place)) for place in ((2, 2), (right, 2), (2, bottom))]  # type: ignore[arg-type]


def alike(one: Image.Image, other: Image.Image) -> bool:
    pairs = zip(corners(one), corners(other), strict=True)
    return all(abs(a - b) <= TOLERANCE for left, right in pairs for a, b in zip(left, right, strict=True))


# -- what is taken ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_told_by_its_bytes(kind: str) -> None:
    data = encoded(scene(), kind)
    assert sniffed(data[:16]) == kind.lower()
    told, clean = examined(data)
    assert told == {"type": kind.lower(), "width": 640, "height": 480, "animated": False}
    assert opened(clean).convert("RGB").tobytes() == opened(data).convert("RGB").tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_is_cut_short_anywhere_is_refused(kind: str) -> None:
    data = encoded(scene(160, 120), kind)
    for size in range(0, len(data) - 1, max(1, len(data) // 60)):
        with pytest.raises(FramemeshError, match=r"^file: "):
            examined(data[:size])


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8 ", b""]),
    st.binary(max_size=300),
)
def test_bytes_that_only_begin_like_a_picture_are_refused(begin: bytes, rest: bytes) -> None:
    with pytest.raises(FramemeshError, match=r"^file: "):
        examined(begin + rest)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_a_damaged_picture_is_refused_or_decoded_and_nothing_else(kind: str, data: st.DataObject) -> None:
    whole = bytearray(encoded(scene(80, 60), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        _, clean = examined(bytes(whole))
        pixels.thumbnails(GIVEN, clean)
    except FramemeshError as error:
        assert str(error).startswith("file: ")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", b"%PDF-1.7",
        b"PK\x03\x04",
        b"<!doctype html><script>", b"MZ", b"II*\0", b"\0\0\0\x1cftypavif",
    ],
    ids=ascii,
)  # fmt: skip
def test_another_kind_of_file_is_refused_whatever_it_is_called(data: bytes) -> None:
    with pytest.raises(FramemeshError, match="neither JPEG, PNG, WebP nor GIF"):
        examined(data)


@pytest.mark.parametrize("bomb", [png_bomb, jpeg_bomb, gif_bomb, webp_bomb], ids=lambda bomb: bomb.__name__)
def test_a_bomb_is_refused_by_what_it_claims_before_it_is_decoded(
    bomb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("it was opened")

    monkeypatch.setattr(Image, "open", never)
    with pytest.raises(FramemeshError, match=r"pixels, 64 million are allowed.*images_max_megapixels"):
        examined(bomb())


def test_a_frame_larger_than_its_screen_is_not_decoded_either(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FramemeshError, match=r"^file: "):
        examined(gif_frame_bomb())


def test_thirty_megapixels_are_taken() -> None:
    data = encoded(scene(1200, 800).resize((6708, 4472)), quality=80)
    told, _ = examined(data)
    assert told["width"] * told["height"] > 29.9e6
    assert {picture.size for picture in thumbnails(data).values()} == {(600, 400), (300, 200), (150, 100)}


# -- what is kept of a file ---------------------------------------------------------------------------


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("evil.js", "alert(1)")
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "tail", [archive(), b"<script>alert(1)</script>", b"%PDF-1.7 evil"], ids=["zip", "html", "pdf"]
)
def test_of_a_polyglot_the_picture_alone_is_kept(kind: str, tail: bytes) -> None:
    data = encoded(scene(100, 80), kind)
    assert examined(data + tail)[1] == examined(data)[1]


def test_what_hides_in_comments_is_not_kept() -> None:
    for data in (
        encoded(scene(90, 60), "JPEG", comment=b"<script>evil"),
        encoded(scene(90, 60), "GIF", comment=b"<script>evil"),
        encoded(scene(90, 60), "WEBP", xmp=b"<script>evil"),
        encoded(scene(90, 60), "PNG", pnginfo=_text("evil", "<script>evil")),
    ):
        assert b"evil" in data
        assert b"evil" not in examined(data)[1]


def _text(name: str, value: str) -> Any:
    from PIL.PngImagePlugin import PngInfo

    made = PngInfo()
    made.add_text(name, value)
    return made


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_where_a_picture_was_taken_is_forgotten_and_which_side_is_up_is_not(kind: str, orientation: int) -> None:
    upright = scene(320, 200)
    turns = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    turn = turns[orientation]
    data = encoded(upright if turn is None else upright.transpose(turn), kind, exif=gps(orientation))
    assert b"SecretCamera" in data
    told, clean = examined(data)
    assert (told["width"], told["height"]) == (320, 200)
    assert b"SecretCamera" not in clean
    assert dict(opened(clean).getexif()) == ({0x0112: orientation} if orientation > 1 else {})
    for picture in thumbnails(data).values():
        assert alike(picture, upright)
        assert not picture.getexif()
        assert not set(picture.info) & {"exif", "xmp", "icc_profile", "comment"}


# -- thumbnails ---------------------------------------------------------------------------------------


def test_thumbnails_keep_the_shape_and_are_never_larger() -> None:
    found = thumbnails(encoded(scene(1000, 500)))
    assert set(found) == {(size, kind) for size in SIZES for kind in FORMATS}
    assert {key[0]: picture.size for key, picture in found.items()} == {
        150: (150, 75), 300: (300, 150), 600: (600, 300)
    }  # fmt: skip
    small = thumbnails(encoded(scene(200, 90)))
    assert {key[0]: picture.size for key, picture in small.items()} == {
        150: (150, 68),
        300: (200, 90),
        600: (200, 90),
    }
    assert {picture.size for picture in thumbnails(encoded(scene(1, 1), "PNG")).values()} == {(1, 1)}
    assert (600, 1) in {picture.size for picture in thumbnails(encoded(scene(4000, 2), "PNG")).values()}


@pytest.mark.parametrize(
    "make",
    [
        lambda: encoded(scene().convert("CMYK"), "JPEG", quality=95),
        lambda: encoded(scene().quantize(256), "PNG"),
        lambda: encoded(scene(), "JPEG", progressive=True, quality=95),
        lambda: encoded(scene(), "WEBP", lossless=True),
        lambda: encoded(scene(), "MPO", quality=95, save_all=True, append_images=[scene(seed=1).rotate(180)]),
        lambda: encoded(scene(), "GIF", save_all=True, append_images=[scene(seed=1).rotate(180)]),
        lambda: encoded(scene(), "PNG", save_all=True, append_images=[scene(seed=1).rotate(180)]),
        lambda: encoded(scene(), "WEBP", save_all=True, append_images=[scene(seed=1).rotate(180)]),
    ],
    ids=[
        "cmyk", "palette", "progressive", "lossless", "two of a phone", "animated gif", "animated png",
        "animated webp",
    ],
)  # fmt: skip
def test_a_picture_of_any_make_looks_the_same_in_small(make: Any) -> None:
    data = make()
    told, clean = examined(data)
    assert told["animated"] == (getattr(Image.open(io.BytesIO(clean)), "n_frames", 1) > 1)
    for picture in thumbnails(data).values():
        assert alike(picture, scene())


def test_sixteen_bits_are_not_clipped() -> None:
    ramp = np.tile(np.linspace(0, 65_535, 400), (200, 1)).astype(np.uint16)
    for picture in thumbnails(encoded(Image.fromarray(ramp), "PNG")).values():
        middle = picture.convert("L").getpixel((picture.width // 2, picture.height // 2))
        assert 115 <= middle <= 140  # type: ignore[operator]


def test_what_is_transparent_stays_so_in_webp_and_is_white_in_jpeg() -> None:
    clear = Image.new("RGBA", (400, 300), (200, 0, 0, 0))
    clear.paste((0, 0, 200, 255), (100, 100, 300, 200))
    found = thumbnails(encoded(clear, "PNG"))
    assert found[300, "webp"].convert("RGBA").getpixel((3, 3))[3] == 0  # type: ignore[index]
    assert min(found[300, "jpeg"].getpixel((3, 3))) > 245  # type: ignore[arg-type]
    assert found[300, "jpeg"].getpixel((150, 112))[2] > 150  # type: ignore[index]


def test_colours_are_turned_to_srgb() -> None:
    swapped = _rotated_profile()
    plain, meant = thumbnails(encoded(scene(), "PNG")), thumbnails(encoded(scene(), "PNG", icc_profile=swapped))
    assert not alike(plain[300, "jpeg"], meant[300, "jpeg"])
    red, green = corners(plain[300, "jpeg"])[0], corners(meant[300, "jpeg"])[0]
    assert red[0] > red[2]
    assert green[2] > green[0]
    assert opened(examined(encoded(scene(), "PNG", icc_profile=swapped))[1]).info["icc_profile"] == swapped
    assert alike(thumbnails(encoded(scene(), "PNG", icc_profile=b"no profile"))[300, "jpeg"], plain[300, "jpeg"])


def _rotated_profile() -> bytes:
    """sRGB with red and blue the other way round."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {}
    for at in range(132, 132 + 12 * int.from_bytes(data[128:132]), 12):
        places[bytes(data[at : at + 4])] = at
    red, blue = places[b"rXYZ"], places[b"bXYZ"]
    data[red + 4 : red + 12], data[blue + 4 : blue + 12] = data[blue + 4 : blue + 12], data[red + 4 : red + 12]
    return bytes(data)


# -- smaller ------------------------------------------------------------------------------------------


def optimized(data: bytes) -> tuple[float, bytes | None]:
    told, blobs = pixels.optimize(GIVEN, data)
    return told["likeness"], blobs[0] if blobs else None


def test_a_wasteful_picture_is_made_smaller_and_looks_the_same() -> None:
    smooth = scene(800, 600).resize((1600, 1200), Image.Resampling.BICUBIC)
    data = examined(encoded(smooth, quality=98, exif=gps(6)))[1]
    measured, made = optimized(data)
    assert made is not None
    assert len(made) < 0.95 * len(data)
    assert measured >= GIVEN["least"]
    assert likeness(opened(made), opened(data)) == pytest.approx(measured)
    assert dict(opened(made).getexif()) == {0x0112: 6}


def test_a_png_is_packed_anew_without_loss() -> None:
    data = encoded(scene(), "PNG", compress_level=0)
    measured, made = optimized(data)
    assert made is not None
    assert measured == 1
    assert len(made) < len(data)
    assert opened(made).tobytes() == opened(data).tobytes()


def test_what_cannot_be_smaller_or_alike_stays_as_it_is() -> None:
    assert optimized(encoded(scene(), quality=30, optimize=True, progressive=True))[1] is None
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    assert optimized(encoded(Image.fromarray(noise), quality=100, subsampling=0))[1] is None
    deep = encoded(Image.fromarray(np.full((50, 50), 300, np.uint16)), "PNG", compress_level=0)
    assert optimized(deep)[1] is None
    moving = encoded(scene(), "GIF", save_all=True, append_images=[scene(seed=1)])
    assert optimized(moving)[1] is None
    gamma = png(*[(b"IHDR", opened_head(scene(50, 50))), (b"gAMA", (100_000).to_bytes(4)), *_rest(scene(50, 50))])
    assert optimized(gamma)[1] is None
    wide = encoded(scene(50, 50), "PNG", compress_level=0, icc_profile=_rotated_profile())
    at = wide.index(b"IDAT") - 4
    assert optimized(wide[:at] + png((b"cICP", b"\x09\x10\0\1"))[8:] + wide[at:])[1] is None


def opened_head(picture: Image.Image) -> bytes:
    return encoded(picture, "PNG")[16:29]


def _rest(picture: Image.Image) -> list[tuple[bytes, bytes]]:
    import zlib

    rows = b"".join(b"\0" + np.asarray(picture)[row].tobytes() for row in range(picture.height))
    return [(b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")]


def test_likeness_falls_with_what_is_seen() -> None:
    whole = scene(300, 200)
    assert likeness(whole, whole) == 1
    assert likeness(whole, whole.resize((299, 200))) == 0
    values = [likeness(whole, opened(encoded(whole, quality=quality))) for quality in (95, 60, 10)]
    assert values == sorted(values, reverse=True)
    red, green, blue = whole.split()
    assert likeness(whole, Image.merge("RGB", (green, red, blue))) < 0.9


# -- files and plans ----------------------------------------------------------------------------------

ids = st.binary(min_size=12, max_size=12).map(bytes.hex)


@given(st.sets(ids, max_size=6), st.sets(ids, max_size=6), st.data())
def test_orphans_are_the_files_of_no_picture(known: set[str], gone: set[str], data: st.DataObject) -> None:
    keys = {image: new_key(image, "jpeg") for image in known}
    lost = {new_key(image, "png") for image in known} | {
        key for image in gone - known for key in (new_key(image, "gif"), *thumbnail_keys(image))
    }
    kept = set(keys.values()) | {key for image in known for key in thumbnail_keys(image)}
    strange = {"notes.txt", "a/b/c", "../x", "0" * 24, "0" * 24 + "/"}
    everything = data.draw(st.permutations(sorted(lost | kept | strange)))
    assert set(orphans(everything, keys)) == lost


def test_a_key_is_of_its_picture() -> None:
    image = new_image_id()
    assert {image_of(key) for key in (new_key(image, "webp"), *thumbnail_keys(image))} == {image}


def test_the_plans_can_be_worked_off() -> None:
    given = dict.fromkeys(("upload", "files", "collection", "name", "owner"), "x")
    for plan in (upload_plan(), bulk_plan(), task_plan("optimize_images")):
        check(plan, given, plan.functions())
