"""Faces in evidence, hidden. Needs the assets."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import simplejpeg

from framemesh import assets
from framemesh.errors import FramemeshError
from framemesh.faces import YuNet
from services.registrator.blur import HOLD_SECONDS, FaceBlur, hide
from services.registrator.evidence import EvidenceError


def need(name: str) -> Path:
    path = assets.find(name)
    if path is None:
        pytest.skip(f"asset {name} is not here: set FRAMEMESH_ASSETS or run `framemesh assets pull {name}`")
    return path


def jpegs(name: str, every: int = 1) -> list[tuple[float, bytes]]:
    with av.open(str(need(name))) as container:
        return [
            (number / 10, simplejpeg.encode_jpeg(frame.to_ndarray(format="bgr24"), colorspace="BGR"))
            for number, frame in enumerate(container.decode(video=0))
            if number % every == 0
        ]


def faces(jpeg: bytes) -> int:
    picture = simplejpeg.decode_jpeg(jpeg, "BGR")
    return len(YuNet(need("yunet")).detect(picture, 0.5))


@pytest.fixture
def blur() -> FaceBlur:
    need("yunet")
    return FaceBlur()


def test_no_face_is_found_in_what_is_shown(blur: FaceBlur) -> None:
    for timestamp, jpeg in jpegs("face", every=5):
        assert faces(jpeg) == 1
        assert faces(blur(timestamp, jpeg)) == 0


@pytest.mark.parametrize("name", ["astronaut", "portrait"])
def test_photos(blur: FaceBlur, name: str) -> None:
    picture = cv2.imread(str(need(name)))
    jpeg = simplejpeg.encode_jpeg(picture, colorspace="BGR")
    shown = simplejpeg.decode_jpeg(blur(0, jpeg), "BGR")
    assert faces(jpeg) >= 1 and faces(simplejpeg.encode_jpeg(shown, colorspace="BGR")) == 0
    changed = np.abs(shown.astype(int) - simplejpeg.decode_jpeg(jpeg, "BGR")).max(axis=2) > 40
    assert 0.005 < changed.mean() < 0.5  # the rest of the picture stays


def test_pictures_without_faces_stay_as_they_are(blur: FaceBlur) -> None:
    for timestamp, jpeg in jpegs("no-face", every=20):
        assert blur(timestamp, jpeg) == jpeg


def test_a_face_stays_hidden_where_the_detector_loses_it_for_a_moment(blur: FaceBlur) -> None:
    (timestamp, jpeg), *_ = jpegs("face")
    blank = simplejpeg.encode_jpeg(np.full_like(simplejpeg.decode_jpeg(jpeg, "BGR"), 90), colorspace="BGR")
    blur(timestamp, jpeg)
    assert blur(timestamp + HOLD_SECONDS / 2, blank) != blank
    assert blur(timestamp + HOLD_SECONDS * 2, blank) == blank
    blur(timestamp, jpeg)
    blur.forget()
    assert blur(timestamp, blank) == blank


def test_what_cannot_be_read_is_not_shown(blur: FaceBlur) -> None:
    with pytest.raises(EvidenceError, match="cannot be hidden"):
        blur(0, b"\xff\xd8 no picture")


def test_without_weights_there_is_no_blur() -> None:
    with pytest.raises(FramemeshError, match="neither a file nor an asset"):
        FaceBlur("no-such-model")


@pytest.mark.parametrize("box", [(-50, -50, 20, 20), (90, 90, 400, 400), (5, 5, 5, 5), (-9, -9, -5, -5)])
def test_a_box_at_the_border(box: tuple[float, float, float, float]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    hide(picture, box)
    assert picture.shape == (100, 100, 3)
