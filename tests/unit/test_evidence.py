from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import simplejpeg

from framemesh.encoders import pick_encoder
from framemesh.errors import FramemeshError
from framemesh.messages import Classification, Detection
from services.registrator.evidence import (
    EvidenceError,
    Pen,
    Picture,
    Rect,
    VideoWriter,
    colour_of,
    draw,
    free_place,
    plain,
)
from tests.unit.test_pictures import with_exif

START = 1_700_000_000.123
RED, GREEN, BLUE = (30, 40, 200), (40, 180, 60), (210, 70, 30)


def picture(colour: tuple[int, int, int], width: int = 160, height: int = 96) -> Picture:
    return np.full((height, width, 3), colour, np.uint8)


def jpeg(colour: tuple[int, int, int], width: int = 160, height: int = 96, subsampling: str = "420") -> bytes:
    return bytes(simplejpeg.encode_jpeg(picture(colour, width, height), 95, "BGR", subsampling))


def grey(level: int) -> bytes:
    return jpeg((level, level, level))


def write(path: Path, frames: Iterable[tuple[float, bytes]], **options: object) -> VideoWriter:
    with VideoWriter(path, **options) as writer:  # type: ignore[arg-type]
        for time, data in frames:
            writer.add(START + time, data)
    return writer


def shown(path: Path) -> list[Picture]:
    with av.open(str(path)) as container:
        return [
            frame.to_ndarray(format="bgr24").astype(np.uint8, copy=False) for frame in container.decode(video=0)
        ]


def levels(path: Path) -> list[int]:
    return [round(float(each[40:60, 60:100].mean()) / 10) * 10 for each in shown(path)]


def boxes(data: bytes) -> list[bytes]:
    kinds, at = [], 0
    while at < len(data):
        kinds.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at : at + 4], "big")
    return kinds


def close(seen: Picture, colour: tuple[int, int, int], tolerance: int = 6) -> bool:
    return bool((np.abs(seen.reshape(-1, 3).mean(axis=0) - colour) < tolerance).all())


def test_it_is_a_faststart_h264_mp4_that_begins_at_zero(tmp_path: Path) -> None:
    path = tmp_path / "event.mp4"
    write(path, [(i / 10, grey(90)) for i in range(25)])
    kinds = boxes(path.read_bytes())
    assert kinds.index(b"moov") < kinds.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10
        assert stream.frames == 25
        assert container.duration == 2_500_000
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    assert [float((packet.pts or 0) * (packet.time_base or 0)) for packet in packets] == pytest.approx(
        [i / 10 for i in range(25)]
    )
    assert all(packet.pts == packet.dts for packet in packets)
    assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == [0, 20]
    assert list(tmp_path.iterdir()) == [path]


def test_opencv_reads_it_alike(tmp_path: Path) -> None:
    write(tmp_path / "event.mp4", [(i / 10, jpeg(RED)) for i in range(7)])
    video = cv2.VideoCapture(str(tmp_path / "event.mp4"))
    assert (video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)) == (10, 7)
    ok, first = video.read()
    assert ok
    assert video.get(cv2.CAP_PROP_POS_MSEC) == 0
    assert close(first.astype(np.uint8), RED)


def test_a_gap_holds_the_picture(tmp_path: Path) -> None:
    writer = write(tmp_path / "v.mp4", [(0, grey(50)), (0.1, grey(100)), (1.0, grey(200))])
    assert levels(tmp_path / "v.mp4") == [50, *[100] * 9, 200]
    assert writer.frames == 11


def test_slow_input_plays_at_true_speed(tmp_path: Path) -> None:
    write(tmp_path / "v.mp4", [(0.4 * i, grey(50 + 50 * i)) for i in range(4)])
    assert levels(tmp_path / "v.mp4") == [*[50] * 4, *[100] * 4, *[150] * 4, 200]


def test_fast_input_is_thinned_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with VideoWriter(tmp_path / "v.mp4") as writer:
        decoded: list[bytes] = []
        decode = writer._decoder.decode

        def counted(data: bytes) -> av.VideoFrame | None:
            decoded.append(data)
            return decode(data)

        monkeypatch.setattr(writer._decoder, "decode", counted)
        for i in range(61):
            writer.add(START + i / 30, grey(2 * i))
    assert (writer.frames, len(decoded)) == (21, 21)
    assert [round(float(each.mean())) for each in shown(tmp_path / "v.mp4")] == pytest.approx(
        [6 * i for i in range(21)], abs=3
    )


@pytest.mark.parametrize(
    ("times", "frames"), [([0.0], 1), ([0, 0.05], 1), ([0, 0.1], 2), ([0, 0.19], 2), ([0, 59.97], 600)]
)
def test_it_lasts_from_the_first_to_the_last_and_a_frame(tmp_path: Path, times: list[float], frames: int) -> None:
    write(tmp_path / "v.mp4", [(time, grey(90)) for time in times])
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].frames == frames
        assert container.duration == frames * 100_000


def test_a_frame_between_two_ticks_is_shown_at_the_next(tmp_path: Path) -> None:
    write(tmp_path / "v.mp4", [(0, grey(50)), (0.15, grey(100)), (0.3, grey(200))])
    assert levels(tmp_path / "v.mp4") == [50, 50, 100, 200]


def test_a_step_back_in_time_does_no_harm(tmp_path: Path) -> None:
    write(tmp_path / "v.mp4", [(0, grey(50)), (0.2, grey(100)), (0.1, grey(150)), (0.3, grey(200))])
    assert levels(tmp_path / "v.mp4") == [50, 50, 150, 200]


def test_another_rate(tmp_path: Path) -> None:
    assert write(tmp_path / "v.mp4", [(i / 5, grey(90)) for i in range(6)], fps=5).frames == 6


@pytest.mark.parametrize("colour", [RED, GREEN, BLUE, (255, 255, 255), (0, 0, 0)])
@pytest.mark.parametrize("subsampling", ["420", "422", "444"])
def test_colours_stay_and_are_tagged(tmp_path: Path, colour: tuple[int, int, int], subsampling: str) -> None:
    write(tmp_path / "v.mp4", [(0, jpeg(colour, subsampling=subsampling))])
    assert close(shown(tmp_path / "v.mp4")[0], colour)
    with av.open(str(tmp_path / "v.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_range, context.colorspace) == (1, 6)  # limited, BT.601
        [frame] = container.decode(video=0)
    luma = frame.to_ndarray()[:96].mean()
    assert 15 <= luma <= 236


def test_grey_jpegs(tmp_path: Path) -> None:
    data = simplejpeg.encode_jpeg(np.full((96, 160, 1), 200, np.uint8), 95, "GRAY", "Gray")
    write(tmp_path / "v.mp4", [(0, data)])
    assert levels(tmp_path / "v.mp4") == [200]


@pytest.mark.parametrize(
    ("size", "expected"), [((161, 97), (160, 96)), ((160, 97), (160, 96)), ((33, 32), (32, 32))]
)
def test_odd_edges_are_cut(tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    write(tmp_path / "v.mp4", [(0, jpeg(RED, *size)), (0.1, jpeg(BLUE, *size))])
    first, second = shown(tmp_path / "v.mp4")
    assert first.shape == (expected[1], expected[0], 3)
    assert close(first, RED)
    assert close(second, BLUE)


def test_another_size_is_fitted_into_the_first(tmp_path: Path) -> None:
    write(tmp_path / "v.mp4", [(0, jpeg(RED)), (0.1, jpeg(GREEN, 200, 200)), (0.2, jpeg(BLUE, 640, 384))])
    first, second, third = shown(tmp_path / "v.mp4")
    assert close(first, RED)
    assert close(second[4:-4, 40:120], GREEN)
    assert close(second[:, :24], (0, 0, 0))
    assert close(second[:, -24:], (0, 0, 0))
    assert close(third, BLUE)


@pytest.mark.parametrize("bad", [b"", b"junk" * 50, b"\xff\xd8\xff", grey(7)[:-200]])
def test_a_broken_jpeg_is_skipped_and_counted(tmp_path: Path, bad: bytes) -> None:
    frames = [(0, bad), (0.1, grey(50)), (0.2, bad), (0.3, grey(150)), (0.4, bad)]
    writer = write(tmp_path / "v.mp4", frames)
    assert levels(tmp_path / "v.mp4") == [50, 50, 150, 150]
    assert (writer.frames, writer.skipped) == (4, 3)


def test_an_older_frame_stands_in_for_a_broken_one_of_the_same_tick(tmp_path: Path) -> None:
    writer = write(tmp_path / "v.mp4", [(0, grey(50)), (0.05, grey(100)), (0.1, b"junk")])
    assert levels(tmp_path / "v.mp4") == [50, 100]
    assert writer.skipped == 1


@pytest.mark.parametrize("frames", [[], [(0, b"junk")]])
def test_without_a_picture_there_is_an_error_and_no_file(
    tmp_path: Path, frames: list[tuple[float, bytes]]
) -> None:
    with pytest.raises(EvidenceError, match="no frame"):
        write(tmp_path / "v.mp4", frames)
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "v.mp4") as writer:
        for i in range(30):
            writer.add(i, grey(90))
        assert [each.name for each in tmp_path.iterdir()] == [f"v.mp4.{os.getpid()}.part"]
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"before")
    with pytest.raises(EvidenceError):
        write(tmp_path / "v.mp4", [])
    assert (tmp_path / "v.mp4").read_bytes() == b"before"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "v.mp4", [(0, grey(90)), (1, grey(90))])


def test_encoders() -> None:
    assert pick_encoder() in {"libopenh264", "libx264"}
    assert pick_encoder("libx264") == "libx264"
    for name in ("nonsense", "mpeg4"):
        with pytest.raises(FramemeshError, match=f"no H.264 encoder {name}"):
            pick_encoder(name)


def test_an_encoder_without_constant_quality_gets_a_bit_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.registrator.evidence.pick_encoder", lambda _: "mpeg4")
    write(tmp_path / "v.mp4", [(0, jpeg(RED)), (0.3, jpeg(RED))])
    assert len(shown(tmp_path / "v.mp4")) == 4


def detection(label: str, confidence: float, *box: float) -> Detection:
    return Detection.model_validate({"label": label, "class_id": 0, "confidence": confidence, "box": box})


def test_draw_draws_boxes_in_the_labels_colour_and_keeps_the_size() -> None:
    drawn = simplejpeg.decode_jpeg(
        draw(jpeg((90, 90, 90), 640, 360), [detection("person", 0.9, 200, 100, 400, 300)], ""), "BGR"
    )
    assert drawn.shape == (360, 640, 3)
    assert close(drawn[300, 250:350], colour_of("person"), 60)
    assert close(drawn[150:250, 250:350], (90, 90, 90), 3)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 640, 360),
        (-50, -50, 9999, 9999),
        (630, 350, 640, 360),
        (300, 200, 300, 200),
        (400, 300, 100, 100),
        (-1e300, 0, 1e300, 50),
    ],
)
@pytest.mark.parametrize("label", ["person", "行人 café\nß", "x" * 256, ""])
def test_any_box_and_label_can_be_drawn(box: tuple[float, ...], label: str) -> None:
    assert draw(jpeg(GREEN, 640, 360), [detection(label, 0.5, *box)], "ça va 日本")


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (320, 240), (3840, 2160)])
def test_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    found: list[Detection | Classification] = [
        detection("person", 0.5, 1, 1, 9, 9),
        Classification(label="night", class_id=0, confidence=0.5),
    ]
    assert simplejpeg.decode_jpeg_header(draw(jpeg(GREEN, *size), found, "cam"))[:2] == size[::-1]


def test_classes_and_title_stand_in_the_lower_left() -> None:
    plate = jpeg((90, 90, 90), 640, 360)
    pen = Pen(640, 360)
    drawn = simplejpeg.decode_jpeg(
        draw(plate, [Classification(label="night", class_id=0, confidence=0.5)], "cam"), "BGR"
    )
    changed = np.abs(drawn.astype(int) - 90).max(axis=2) > 20
    assert not changed[: -2 * pen.bar - 8].any()
    assert changed[-2 * pen.bar : -pen.bar, :20].any()
    assert changed[-pen.bar :, :20].any()


def turned(data: bytes) -> bytes:
    """The JPEG lying on its side, with an EXIF that says so: to be turned right by 90 degrees."""
    lying = cv2.rotate(simplejpeg.decode_jpeg(data, "BGR"), cv2.ROTATE_90_COUNTERCLOCKWISE)
    return with_exif(simplejpeg.encode_jpeg(lying, 95, "BGR", "420"), 6)


def test_boxes_are_drawn_where_they_are_in_the_upright_picture() -> None:
    found = [detection("person", 0.9, 40, 20, 80, 60)]
    drawn = [simplejpeg.decode_jpeg(draw(data, found, ""), "BGR") for data in (grey(128), turned(grey(128)))]
    assert drawn[0].shape == drawn[1].shape == (96, 160, 3)
    assert np.abs(drawn[0].astype(int) - drawn[1]).mean() < 2


def test_a_video_shows_turned_frames_upright(tmp_path: Path) -> None:
    left = picture((0, 0, 255))
    left[:, 80:] = (255, 0, 0)
    frame = simplejpeg.encode_jpeg(left, 95, "BGR", "420")
    write(tmp_path / "v.mp4", [(0.0, turned(frame)), (0.5, turned(frame))])
    for image in shown(tmp_path / "v.mp4"):
        assert image.shape == (96, 160, 3)
        assert close(image[40, 40], (0, 0, 255), 30) and close(image[40, 120], (255, 0, 0), 30)


def test_draw_of_a_broken_jpeg() -> None:
    with pytest.raises(EvidenceError, match="cannot be decoded"):
        draw(b"junk", [], "")


def test_bars_stay_inside_and_give_way() -> None:
    pen, taken = Pen(640, 360), [Rect(0, 340, 200, 360)]
    boxes = [Rect(300, 100, 400, 200), Rect(302, 102, 400, 200), Rect(0, 0, 640, 360), Rect(600, 0, 640, 40)]
    for box in boxes:
        place = free_place(box, 90, taken, pen)
        assert 0 <= place.left < place.right <= 640
        assert 0 <= place.top < place.bottom <= 360
        assert not any(map(place.meets, taken))
        taken.append(place)


def test_colours_are_stable() -> None:
    assert colour_of("person") == colour_of("person") != colour_of("dog")
    assert colour_of("person") == (95, 255, 47)


def test_plain() -> None:
    assert plain("Café 行\n~") == "Cafe ??~"
