from __future__ import annotations

import contextlib
import io
import struct

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from framemesh.bus import Reject
from framemesh.messages import Box, Classification, Detection, Finding, Found, Task
from framemesh.pictures import Image, crops, decode, placed, scaled, upright
from tests import samples


def gradient(width: int, height: int) -> Image:
    """Blue rises to the right and green downwards, so that a pixel's colour says where it was."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)[None, :]
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    return image


def jpeg(width: int, height: int, colorspace: str = "BGR") -> bytes:
    encoded: bytes = simplejpeg.encode_jpeg(gradient(width, height), quality=95, colorspace=colorspace)
    return encoded


def task(width: int, height: int, regions: list[Box] | None) -> Task:
    values = {"width": width, "height": height, "regions": regions}
    return samples.task("cam", "M").model_copy(update=values)


def person(box: Box) -> Detection:
    return Detection(label="person", class_id=0, confidence=0.9, box=box)


# -- decoding ---------------------------------------------------------------------------------------------


def test_a_picture_is_decoded_to_bgr() -> None:
    image = decode(jpeg(64, 48))
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.dtype(np.uint8)
    assert np.abs(image.astype(int) - gradient(64, 48)).mean() < 5


def test_a_grey_picture_is_decoded_to_bgr() -> None:
    grey = simplejpeg.encode_jpeg(np.full((48, 64, 1), 99, np.uint8), colorspace="GRAY")
    assert np.abs(decode(grey).astype(int) - 99).max() <= 1


@pytest.mark.parametrize(
    ("size", "min_size", "shape"),
    [
        ((1920, 1080), 0, (1080, 1920)),
        ((1920, 1080), 416, (540, 960)),
        ((1920, 1080), 270, (270, 480)),
        ((1920, 1080), 271, (540, 960)),
        ((1920, 1080), 541, (1080, 1920)),
        ((640, 360), 416, (360, 640)),
        ((101, 51), 10, (13, 26)),
        ((101, 51), 25, (26, 51)),
        ((3, 1), 1, (1, 3)),
    ],
)
def test_a_large_picture_is_decoded_smaller(size: tuple[int, int], min_size: int, shape: tuple[int, int]) -> None:
    image = decode(jpeg(*size), min_size)
    assert image.shape == (*shape, 3)
    assert min(image.shape[:2]) >= min(min_size, *size)


@pytest.mark.parametrize("min_size", [60, 120])
def test_a_smaller_picture_is_the_same_picture(min_size: int) -> None:
    image = decode(jpeg(640, 480), min_size)
    assert np.abs(image.astype(int) - gradient(image.shape[1], image.shape[0])).mean() < 5


GARBAGE = {
    "nothing": b"",
    "text": b"404 page not found",
    "zeros": bytes(1000),
    "a head alone": b"\xff\xd8\xff\xe0",
    "half": jpeg(640, 480)[:5000],
    "without its end": jpeg(640, 480)[:-2],
    "half a PNG": cv2.imencode(".png", gradient(64, 48))[1].tobytes()[:500],
}


@pytest.mark.parametrize("min_size", [0, 100])
@pytest.mark.parametrize("data", GARBAGE.values(), ids=list(GARBAGE))
def test_what_is_no_picture_is_rejected(data: bytes, min_size: int) -> None:
    with pytest.raises(Reject, match="not a JPEG that can be read"):
        decode(data, min_size)


@given(data=st.binary(max_size=200), min_size=st.sampled_from([0, 16]))
def test_no_bytes_crash_the_decoder(data: bytes, min_size: int) -> None:
    with pytest.raises(Reject):
        decode(jpeg(8, 8)[:20] + data, min_size)


# -- crops ------------------------------------------------------------------------------------------------


def test_a_task_without_regions_is_the_whole_picture() -> None:
    image = gradient(64, 48)
    ((crop, box),) = crops(image, task(64, 48, None))
    assert crop is image
    assert box is None


def test_a_task_with_no_regions_left_is_nothing() -> None:
    assert crops(gradient(64, 48), task(64, 48, [])) == []


@pytest.mark.parametrize(
    ("asked", "cut"),
    [
        ((10, 20, 30, 40), (10, 20, 30, 40)),
        ((10.6, 20.9, 30.2, 40.7), (10, 20, 30, 40)),
        ((0, 0, 64, 48), (0, 0, 64, 48)),
        ((-5, -5, 10, 10), (0, 0, 10, 10)),
        ((50, 40, 99, 99), (50, 40, 64, 48)),
        ((70, 60, 80, 90), (63, 47, 64, 48)),
        ((10, 10, 10, 10), (10, 10, 11, 11)),
        ((30, 40, 10, 20), (30, 40, 31, 41)),
    ],
)
def test_a_crop_is_whole_pixels_inside_of_the_picture(asked: Box, cut: Box) -> None:
    image = gradient(64, 48)
    ((crop, box),) = crops(image, task(64, 48, [asked]))
    assert box == cut
    x1, y1, x2, y2 = (int(value) for value in cut)
    assert (crop == image[y1:y2, x1:x2]).all()
    assert crop.size


def test_crops_of_a_picture_that_was_decoded_smaller() -> None:
    image = gradient(64, 48)
    ((crop, box),) = crops(image, task(256, 192, [(40, 80, 122, 160)]))
    assert crop.shape == (20, 20, 3)
    assert box == (40, 80, 120, 160)


edges = st.floats(-1000, 3000)


@given(boxes=st.lists(st.tuples(edges, edges, edges, edges), max_size=5), factor=st.sampled_from([1, 2, 4]))
def test_every_region_has_a_crop_of_its_own(boxes: list[Box], factor: int) -> None:
    image = gradient(160, 120)
    found = crops(image, task(160 * factor, 120 * factor, boxes))
    assert len(found) == len(boxes)
    for crop, box in found:
        assert box is not None
        x1, y1, x2, y2 = box
        assert 0 <= x1 < x2 <= 160 * factor
        assert 0 <= y1 < y2 <= 120 * factor
        assert crop.shape == ((y2 - y1) / factor, (x2 - x1) / factor, 3)


# -- back to the frame ------------------------------------------------------------------------------------


def test_a_class_has_no_place() -> None:
    tabby = Classification(label="tabby", class_id=281, confidence=0.5)
    assert scaled(tabby, 2, 2, 10, 10) is tabby


@pytest.mark.parametrize(
    "found",
    [Classification(label="tabby", class_id=281, confidence=0.5), Finding(kind="brightness", label="dark")],
)
def test_what_has_no_place_says_in_which_region_it_is(found: Classification | Finding) -> None:
    asked = task(160, 120, [(0, 0, 10, 10), (20, 20, 40, 40)])
    assert placed(found, (20, 20), (20, 20, 40, 40), asked, 1) == found.model_copy(update={"region": 1})
    assert placed(found, (120, 160), None, task(160, 120, None), 0) == found


def test_a_box_at_full_size_stays_as_it_is() -> None:
    found = person((1, 2, 3, 4))
    assert scaled(found, 1, 1, 0, 0) is found


@pytest.mark.parametrize(
    ("scale", "corner", "box"),
    [
        ((2, 4), (0, 0), (2, 8, 6, 16)),
        ((1, 1), (10, 20), (11, 22, 13, 24)),
        ((1, 1), (10, 0), (11, 2, 13, 4)),
        ((2, 2), (10, 20), (12, 24, 16, 28)),
    ],
)
def test_a_box_is_scaled_then_moved(scale: tuple[float, float], corner: tuple[float, float], box: Box) -> None:
    found: Found = scaled(person((1, 2, 3, 4)), *scale, *corner)
    assert found == person(box)


@given(
    box=st.tuples(st.integers(0, 100), st.integers(0, 80), st.integers(5, 60), st.integers(5, 40)),
    outside=st.integers(0, 50),
    factor=st.sampled_from([1, 2, 4]),
)
def test_what_fills_a_crop_lies_where_the_crop_was(
    box: tuple[int, int, int, int], outside: int, factor: int
) -> None:
    """Also for a region that reaches out of the frame, of which the crop has only the part inside."""
    x, y, w, h = box
    region = (x - outside, y - outside, x + w, y + h)
    ((crop, cut),) = crops(gradient(160, 120), task(160 * factor, 120 * factor, [region]))
    assert cut is not None
    height, width = crop.shape[:2]
    x1, y1, x2, y2 = cut
    found = scaled(person((0, 0, width, height)), (x2 - x1) / width, (y2 - y1) / height, x1, y1)
    assert isinstance(found, Detection)
    inside = (max(0, region[0]), max(0, region[1]), region[2], region[3])
    assert found.box == pytest.approx(inside, abs=factor)


# -- pictures that others send ------------------------------------------------------------------------


def coloured(height: int = 80, width: int = 120) -> Image:
    """Red above, blue below: which way is up can be seen."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2] = (0, 0, 255)
    image[height // 2 :] = (255, 0, 0)
    return image


def with_exif(jpeg: bytes, orientation: int, order: str = "big") -> bytes:
    number = {"big": ">", "little": "<"}[order]
    entry = struct.pack(f"{number}HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = {"big": b"MM", "little": b"II"}[order] + struct.pack(f"{number}HIH", 42, 8, 1) + entry + b"\0" * 4
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def cmyk_jpeg(size: tuple[int, int]) -> bytes:
    made = io.BytesIO()
    PILImage.new("CMYK", size, (0, 255, 255, 0)).save(made, "JPEG")
    return made.getvalue()


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize(("orientation", "place"), [(1, "top"), (3, "bottom"), (6, "right"), (8, "left")])
def test_a_picture_is_turned_upright_by_its_exif(orientation: int, place: str, order: str) -> None:
    made = with_exif(simplejpeg.encode_jpeg(coloured(), colorspace="BGR"), orientation, order)
    image = decode(made)
    size = (80, 120) if orientation in {1, 3} else (120, 80)
    assert image.shape[:2] == size
    red = image[..., 2] > 128
    where = {"top": red[:30], "bottom": red[-30:], "right": red[:, -30:], "left": red[:, :30]}
    assert where[place].all() and red.mean() < 0.6
    assert decode(made, claimed=size).shape[:2] == size
    if size != (80, 120):
        with pytest.raises(Reject, match="80x120 pixels upright, but its claim says 120x80"):
            decode(made, claimed=(80, 120))


@pytest.mark.parametrize(("orientation", "size"), [(1, (80, 120)), (3, (80, 120)), (6, (120, 80)), (8, (120, 80))])
def test_a_png_that_exif_turns_has_the_size_of_its_claim(orientation: int, size: tuple[int, int]) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    made = io.BytesIO()
    PILImage.fromarray(coloured()).save(made, "PNG", exif=exif)
    assert decode(made.getvalue(), claimed=size).shape[:2] == size
    with pytest.raises(Reject, match="but its claim says"):
        decode(made.getvalue(), claimed=(size[1], size[0]))


def test_an_upright_jpeg_stays_as_it_is_and_another_picture_becomes_one() -> None:
    made = simplejpeg.encode_jpeg(coloured(), colorspace="BGR")
    assert upright(made) is made
    turned = upright(with_exif(made, 6))
    assert simplejpeg.decode_jpeg_header(turned)[:2] == (120, 80)
    assert decode(turned)[60, 70, 2] > 200  # red, at the right
    assert simplejpeg.decode_jpeg_header(upright(cv2.imencode(".png", coloured())[1].tobytes()))[:2] == (80, 120)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"text"])
def test_what_is_no_picture_is_never_upright(data: bytes) -> None:
    with pytest.raises(Reject):
        decode(upright(data))


def test_a_cmyk_picture_is_decoded() -> None:
    image = decode(cmyk_jpeg((64, 48)))
    assert image.shape == (48, 64, 3)
    blue, green, red = image.reshape(-1, 3).mean(axis=0)
    assert red > 200 and blue < 80 and green < 80


def test_a_picture_with_alpha_is_decoded() -> None:
    made = cv2.imencode(".png", np.dstack([coloured(), np.full((80, 120), 7, np.uint8)]))[1].tobytes()
    assert np.array_equal(decode(made, 16, (80, 120)), coloured())


def test_a_very_wide_picture() -> None:
    made = simplejpeg.encode_jpeg(np.zeros((10, 20_000, 3), np.uint8), colorspace="BGR")
    assert decode(made).shape == (10, 20_000, 3)
    with pytest.raises(Reject, match="20000x4000 pixels; at most"):
        decode(simplejpeg.encode_jpeg(np.zeros((4000, 20_000, 3), np.uint8), colorspace="BGR"))


def test_a_png_that_claims_gigabytes_is_rejected_unread() -> None:
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 60_000, 60_000, 8, 2, 0, 0, 0)
    with pytest.raises(Reject, match="60000x60000"):
        decode(head)


@given(st.binary(max_size=200))
def test_no_exif_crashes_the_decoder(tail: bytes) -> None:
    made = simplejpeg.encode_jpeg(coloured(), colorspace="BGR")
    body = b"Exif\0\0" + tail
    with contextlib.suppress(Reject):
        decode(made[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + made[2:])


@given(st.binary(max_size=300))
def test_no_png_crashes_the_decoder(tail: bytes) -> None:
    with contextlib.suppress(Reject):
        decode(b"\x89PNG\r\n\x1a\n" + tail)
