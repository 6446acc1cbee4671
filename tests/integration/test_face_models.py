"""The face models on real pictures, against faces, pupils, mouths and blinks that a person marked.

Needs the assets: set FRAMEMESH_ASSETS, or run `framemesh assets pull`. A test whose file is missing skips.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import av
import cv2
import h5py
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from framemesh import assets
from framemesh.errors import FramemeshError
from framemesh.faces import FaceBox, YuNet
from framemesh.inference import Skipped
from framemesh.messages import Box, Face, Point, Task
from framemesh.pictures import placed
from services.face import expression
from services.face.analyzer import LEAST_DETAIL, PARTS, TOO_SMALL, UNASKED, WEIGHTS
from services.face.expression import EXPRESSIONS, ExpressionModel
from services.face.gaze import PupilsModel
from services.face.keras import convert
from services.face.landmarks import LandmarksModel
from services.face.pose import PoseModel
from services.face.worker import FaceInference, FaceSettings

Image = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
DATA = Path(__file__).parents[1] / "data"
CASES: list[dict[str, Any]] = json.loads((DATA / "faces.json").read_text("utf-8"))
SMILE_BEGINS = 18
"""Frame of the face clip in which the corners of the mouth go up, as a person sees it."""


def need(name: str) -> Path:
    path = assets.find(name)
    if path is None:
        pytest.skip(f"asset {name} is not here: set FRAMEMESH_ASSETS or run `framemesh assets pull {name}`")
    return path


def frames(name: str) -> Iterator[tuple[float, Image]]:
    with av.open(str(need(name))) as container:
        for frame in container.decode(video=0):
            yield float(frame.time or 0), frame.to_ndarray(format="bgr24")


@cache
def picture(name: str, frame: int | None = None) -> Image:
    if frame is not None:
        return next(image for index, (_, image) in enumerate(frames(name)) if index == frame)
    image = cv2.imread(str(need(name)))
    assert image is not None
    return image


@cache
def yunet() -> YuNet:
    return YuNet(need("yunet"))


@cache
def pose_model() -> PoseModel:
    return PoseModel([need(name) for name in WEIGHTS["pose"]])


@cache
def landmarks_model() -> LandmarksModel:
    return LandmarksModel(need("openseeface-landmarks"))


@cache
def pupils_model() -> PupilsModel:
    return PupilsModel(need("openseeface-gaze"))


def worker(**settings: Any) -> FaceInference:
    for name in FaceInference.choices["yunet"]:
        need(name)
    made = FaceInference(FaceSettings.model_validate(settings), cast("Any", None), cast("Any", None))
    made.load()
    return made


def task(image: Image, seq: int = 0, at: float = 0.0, **more: Any) -> Task:
    height, width = image.shape[:2]
    return Task(
        source="s",
        run="r",
        seq=seq,
        frame_id=f"frame_{seq:06d}",
        timestamp=at,
        bytes=1,
        captured_at=at,
        model="FaceInference",
        width=width,
        height=height,
        **more,
    )


def look(model: FaceInference, image: Image, seq: int = 0, at: float = 0.0) -> tuple[list[Face], dict[str, int]]:
    """What the worker makes of one frame."""
    (output,) = model.infer([model.preprocess(image)])
    found = model.track(list(model.postprocess(output, *image.shape[:2])), task(image, seq, at))
    skipped = {item.reason: item.count for item in found if isinstance(item, Skipped)}
    return [item for item in found if isinstance(item, Face)], skipped


@cache
def film(name: str) -> list[Face]:
    """The one face of every frame of a clip, followed."""
    model = worker()
    return [face for seq, (at, image) in enumerate(frames(name)) for face in look(model, image, seq, at)[0]]


@cache
def still(name: str) -> list[Face]:
    return look(worker(), picture(name))[0]


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def centre(box: Box) -> Floats:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


def mirrored(image: Image) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


# -- detection --------------------------------------------------------------------------------------


def marked() -> Iterator[tuple[Image, dict[str, Any]]]:
    for case in CASES:
        for one in case["faces"]:
            yield picture(case["picture"], case.get("frame")), one


def nearest(image: Image, box: Box) -> FaceBox:
    return max(yunet().detect(image), key=lambda face: iou(face.box, box))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['picture']}-{case.get('frame', 'photo')}")
def test_the_faces_are_where_a_person_marked_them(case: dict[str, Any]) -> None:
    found = yunet().detect(picture(case["picture"], case.get("frame")))
    assert len(found) == len(case["faces"])
    for one in case["faces"]:
        assert sum(iou(face.box, one["box"]) >= 0.5 for face in found) == 1, one


def test_no_face_is_seen_where_there_is_none() -> None:
    seen = [yunet().detect(image) for _, image in frames("no-face")]
    assert len(seen) > 90
    assert not any(seen)


def test_every_frame_of_the_clip_has_its_one_face() -> None:
    faces = film("face")
    assert len(faces) == 72
    assert {face.track for face in faces} == {0}


def test_the_points_are_the_eyes_the_nose_and_the_mouth() -> None:
    for case in CASES:
        for face in yunet().detect(picture(case["picture"], case.get("frame"))):
            right, left, nose, mouth_right, mouth_left = face.points
            assert right[0] < left[0]
            assert mouth_right[0] < mouth_left[0]
            assert max(right[1], left[1]) < nose[1] < min(mouth_right[1], mouth_left[1])


def test_faces_in_a_large_picture_are_in_its_own_pixels() -> None:
    image = picture("astronaut")
    large = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    (face,), (big,) = yunet().detect(image), yunet().detect(large)
    assert iou(face.box, cast("Box", tuple(value / 3 for value in big.box))) > 0.8


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (5, 700), (32, 32)])
def test_pictures_of_any_size_are_looked_at(size: tuple[int, int]) -> None:
    assert yunet().detect(np.full((*size, 3), 128, np.uint8)) == []


def test_several_faces_in_one_picture_get_numbers_of_their_own() -> None:
    clip, photo = picture("face", 0), picture("astronaut")[:360]
    both = np.hstack((clip, photo))
    faces, skipped = look(worker(), both)
    assert [face.track for face in faces] == [0, 1]
    assert skipped == {}
    assert iou(faces[0].box, CASES[0]["faces"][0]["box"]) > 0.5
    assert faces[1].box[0] > 640
    assert (faces[0].expression, faces[1].expression) == ("neutral", "happy")


def test_small_faces_are_skipped_and_counted_and_the_smaller_get_nulls() -> None:
    faces, skipped = look(worker(face_min_size=50), picture("portrait"))
    assert (len(faces), skipped) == (3, {"small": 1})
    faces, skipped = look(worker(face_most=2), picture("portrait"))
    assert (len(faces), skipped) == (2, {"many": 2})
    image = cv2.resize(picture("astronaut"), None, fx=0.36, fy=0.36, interpolation=cv2.INTER_AREA)
    (face,), skipped = look(worker(), image)
    assert 24 < face.box[2] - face.box[0] < LEAST_DETAIL
    assert skipped == {}
    assert face.expression == "happy"
    assert face.pose
    for name in ("landmarks", "pupils", "gaze", "smile", "eye_openness"):
        assert getattr(face, name) is None
    assert {face.missing[name] for name in ("landmarks", "gaze", "smile", "eye_openness")} == {TOO_SMALL}


def test_whatever_is_null_says_why() -> None:
    for faces in (film("face"), film("carphone"), still("portrait")):
        for face in faces:
            null = {name for name in Face.model_fields if getattr(face, name) is None}
            assert set(face.missing) == null


@pytest.mark.parametrize("part", PARTS)
def test_parts_that_are_not_asked_for_are_null(part: Any) -> None:
    (face,), _ = look(worker(face_parts=[part]), picture("astronaut"))
    asked = {"gaze": {"gaze", "pose", "landmarks"}}.get(part, {part})
    for name in PARTS:
        assert (getattr(face, name) is not None) == (name in asked)
        assert (face.missing.get(name) == UNASKED) == (name not in asked)


def test_a_batch_gives_what_its_frames_give_alone() -> None:
    model = worker()
    images = [picture("portrait"), picture("cat"), picture("astronaut")]
    together = model.infer([model.preprocess(image) for image in images])
    alone = [model.infer([model.preprocess(image)])[0] for image in images]
    assert [len(each.faces) for each in together] == [4, 0, 1]
    for one, other in zip(together, alone, strict=True):
        for a, b in zip(one.faces, other.faces, strict=True):
            assert a.box == b.box
            assert a.expressions == pytest.approx(b.expressions, abs=1e-5)


def test_a_frame_with_regions_has_its_faces_in_pixels_of_the_frame() -> None:
    model, image = worker(), picture("portrait")
    box = (230.0, 20.0, 380.0, 200.0)
    (output,) = model.infer([model.preprocess(image[20:200, 230:380])])
    asked = task(image, regions=[box])
    found = [placed(item, (180, 150), box, asked, 0) for item in model.postprocess(output, 180, 150)]
    (face,) = model.track(found, asked)
    assert isinstance(face, Face)
    assert iou(face.box, (253, 45, 354, 176)) > 0.5
    assert face.landmarks
    assert iou((*np.min(face.landmarks, 0), *np.max(face.landmarks, 0)), (253, 45, 354, 176)) > 0.4


# -- expression -------------------------------------------------------------------------------------


def _convolved(x: Floats, kernel: Floats, stride: int, same: bool) -> Floats:
    """NHWC and HWIO, as TensorFlow defines it."""
    size = kernel.shape[0]
    if same:
        x = _padded(x, size, stride, 0.0)
    steps = (x.shape[1] - size) // stride + 1
    out = np.zeros((x.shape[0], steps, steps, kernel.shape[3]))
    for i in range(size):
        for j in range(size):
            part = x[:, i : i + stride * steps : stride, j : j + stride * steps : stride]
            out += part @ kernel[i, j]
    return out


def _padded(x: Floats, size: int, stride: int, value: float) -> Floats:
    side = x.shape[1]
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    around = (total // 2, total - total // 2)
    return np.pad(x, ((0, 0), around, around, (0, 0)), constant_values=value)


def _pooled(x: Floats) -> Floats:
    x = _padded(x, 3, 2, -np.inf)
    steps = (x.shape[1] - 3) // 2 + 1
    parts = [x[:, i : i + 2 * steps : 2, j : j + 2 * steps : 2] for i in range(3) for j in range(3)]
    return np.asarray(np.max(parts, axis=0))


def keras_by_hand(path: Path, image: Floats) -> dict[str, Floats]:
    """The output of every layer of mini-Xception, from the same weights in plain NumPy."""
    found: dict[str, Floats] = {}
    with h5py.File(path) as file:

        def weights(name: str) -> list[Floats]:
            group = file["model_weights"][name]
            return [np.asarray(group[each], dtype=np.float64) for each in group.attrs["weight_names"]]

        for layer in json.loads(file.attrs["model_config"])["config"]["layers"]:
            name, config = layer["name"], layer["config"]
            sources = [found[node[0]] for nodes in layer["inbound_nodes"] for node in nodes] or [image]
            found[name] = _layer(layer["class_name"], config, sources, weights(name))
    return found


def _layer(kind: str, config: dict[str, Any], sources: list[Floats], weights: list[Floats]) -> Floats:
    x = sources[0]
    if kind == "Conv2D":
        out = _convolved(x, weights[0], config["strides"][0], config["padding"] == "same")
        return out + weights[1] if config["use_bias"] else out
    if kind == "SeparableConv2D":
        channels = x.shape[3]
        spread = np.zeros((3, 3, channels, channels))
        spread[:, :, range(channels), range(channels)] = weights[0][..., 0]
        return _convolved(_convolved(x, spread, 1, True), weights[1], 1, True)
    if kind == "BatchNormalization":
        gamma, beta, mean, variance = weights
        return np.asarray((x - mean) / np.sqrt(variance + config["epsilon"]) * gamma + beta)
    if kind == "Activation" and config["activation"] == "softmax":
        return np.asarray(np.exp(x) / np.exp(x).sum(axis=1, keepdims=True))
    by_kind: dict[str, Callable[[], Floats]] = {
        "InputLayer": lambda: x,
        "Activation": lambda: np.maximum(x, 0),
        "MaxPooling2D": lambda: _pooled(x),
        "Add": lambda: x + sources[1],
        "GlobalAveragePooling2D": lambda: x.mean(axis=(1, 2)),
    }
    return by_kind[kind]()


def test_every_layer_of_the_imported_network_gives_what_numpy_gives() -> None:
    path = need("mini-xception")
    model = onnx.load_from_string(convert(path, (64, 64, 1), 7))
    boxes = [face.box for face in yunet().detect(picture("portrait"))][:2]
    images = np.concatenate([expression.prepare(picture("portrait"), box) for box in boxes])
    expected = keras_by_hand(path, images.astype(np.float64))
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in expected)
    found = ort.InferenceSession(model.SerializeToString()).run(list(expected), {"image": images})
    assert len(expected) == 46
    for (name, values), given in zip(expected.items(), found, strict=True):
        other = given.transpose(0, 2, 3, 1) if given.ndim == 4 else given
        np.testing.assert_allclose(other, values, rtol=1e-3, atol=1e-3, err_msg=name)


def test_the_session_gives_what_numpy_gives() -> None:
    path = need("mini-xception")
    faces = [expression.prepare(image, one["box"]) for image, one in marked()]
    shares = ExpressionModel(path).shares(faces)
    expected = keras_by_hand(path, np.concatenate(faces).astype(np.float64))["predictions"]
    np.testing.assert_allclose(shares, expected, atol=1e-4)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)


def test_the_man_turns_from_neutral_to_happy_at_about_frame_20() -> None:
    raw = []
    model = ExpressionModel(need("mini-xception"))
    for (_, image), face in zip(frames("face"), film("face"), strict=True):
        raw.append(EXPRESSIONS[int(model.shares([expression.prepare(image, face.box)])[0].argmax())])
    first = raw.index("happy")
    assert abs(first - 20) <= 3
    smooth = [face.expression for face in film("face")]
    assert smooth == ["neutral"] * smooth.index("happy") + ["happy"] * (72 - smooth.index("happy"))
    assert 0 < smooth.index("happy") - first <= 10


def test_the_astronaut_is_happy_and_the_two_men_are_neutral() -> None:
    (astronaut,) = still("astronaut")
    assert astronaut.expressions
    assert astronaut.expressions["happy"] > 0.9
    assert [face.expression for face in still("portrait")[:2]] == ["neutral", "neutral"]


# -- pose -------------------------------------------------------------------------------------------


def poses(image: Image) -> list[tuple[Box, Any]]:
    found = [(face.box, pose_model().pose(image, face.box)) for face in yunet().detect(image)]
    return sorted(found, key=lambda each: each[0][0])


def test_yaw_and_roll_change_their_signs_in_the_mirror() -> None:
    for name, frame in (("portrait", None), ("face", 0), ("astronaut", None)):
        image = picture(name, frame)
        for (_, pose), (_, other) in zip(poses(image), reversed(poses(mirrored(image))), strict=True):
            assert other.yaw == pytest.approx(-pose.yaw, abs=4)
            assert other.roll == pytest.approx(-pose.roll, abs=4)
            assert other.pitch == pytest.approx(pose.pitch, abs=4)


def test_the_one_at_the_left_looks_to_the_left_and_down_and_the_next_to_the_right() -> None:
    left, next_one, *_ = (pose for _, pose in poses(picture("portrait")))
    assert left.yaw > 15
    assert left.pitch < -5
    assert next_one.yaw < -5


@pytest.mark.parametrize("degrees", [-25, -12, 12, 25])
def test_roll_follows_a_turned_picture(degrees: float) -> None:
    for name, frame in (("astronaut", None), ("face", 0)):
        image = picture(name, frame)
        ((box, pose),) = poses(image)
        x, y = centre(box)
        # OpenCV turns counter-clockwise, which takes the top of the head to the left.
        turn = cv2.getRotationMatrix2D((x, y), -degrees, 1)
        turned = cv2.warpAffine(image, turn, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        ((_, other),) = poses(turned)
        assert other.roll - pose.roll == pytest.approx(degrees, abs=6)


# -- landmarks, pupils, gaze ------------------------------------------------------------------------


def test_pupils_and_corners_of_the_mouth_are_where_a_person_marked_them() -> None:
    seen = 0
    for image, one in marked():
        box = nearest(image, one["box"]).box
        points = landmarks_model().landmarks(image, box).points
        eye = float(np.linalg.norm(points[39] - points[36]))
        if "pupils" in one:
            pupils = pupils_model().pupils(image, points)
            assert np.linalg.norm(pupils - one["pupils"], axis=1).max() < 0.2 * eye, one
            seen += 1
        if "mouth" in one:
            wide = np.linalg.norm(np.subtract(*one["mouth"]))
            assert np.linalg.norm(points[[48, 54]] - one["mouth"], axis=1).max() < 0.2 * wide, one
    assert seen == 4


def test_landmarks_agree_with_the_detector_s_points() -> None:
    for case in CASES:
        image = picture(case["picture"], case.get("frame"))
        for face in yunet().detect(image):
            points, confidence = landmarks_model().landmarks(image, face.box)
            groups = [points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]
            off = np.linalg.norm(np.array(groups) - face.points, axis=1)
            assert off.max() < 0.12 * (face.box[2] - face.box[0])
            assert confidence > 0.7


def test_landmarks_go_with_the_mirror() -> None:
    image = picture("face", 50)
    (face,), (other,) = yunet().detect(image), yunet().detect(mirrored(image))
    points = landmarks_model().landmarks(image, face.box).points
    back = landmarks_model().landmarks(mirrored(image), other.box).points
    back[:, 0] = image.shape[1] - back[:, 0]
    for one, twin in ((36, 45), (39, 42), (48, 54), (0, 16), (17, 26), (30, 30), (57, 57), (60, 62), (63, 65)):
        assert np.linalg.norm(points[one] - back[twin]) < 8, (one, twin)


def test_who_looks_into_the_camera_is_seen_to_do_so() -> None:
    (astronaut,) = still("astronaut")
    for face in (astronaut, *still("portrait")[:2]):
        assert face.gaze
        assert face.gaze.eye_contact


def test_who_looks_aside_is_seen_to_do_so_and_the_mirror_turns_it() -> None:
    aside = min(still("portrait"), key=lambda face: face.box[0])
    other = max(look(worker(), mirrored(picture("portrait")))[0], key=lambda face: face.box[0])
    assert aside.gaze
    assert other.gaze
    assert aside.gaze.yaw > 10
    assert other.gaze.yaw < -10
    assert not aside.gaze.eye_contact
    assert not other.gaze.eye_contact


def test_gaze_is_steady_while_the_man_looks_one_way() -> None:
    yaws = [face.gaze.yaw for face in film("face") if face.gaze]
    assert len(yaws) > 60
    assert np.std(yaws) < 2


def test_gaze_does_not_depend_on_the_tilt_of_the_picture() -> None:
    image = picture("astronaut")
    (face,) = still("astronaut")
    turn = cv2.getRotationMatrix2D(tuple(centre(face.box)), 15, 1)
    turned = cv2.warpAffine(image, turn, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    (other,), _ = look(worker(), turned)
    assert face.gaze
    assert other.gaze
    assert other.gaze.yaw == pytest.approx(face.gaze.yaw, abs=8)
    assert other.gaze.pitch == pytest.approx(face.gaze.pitch, abs=8)


# -- mouth, smile, blinks ---------------------------------------------------------------------------


def mean(values: list[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def test_mouth_and_smile_before_and_after_the_smile_begins() -> None:
    faces = film("face")
    before, after = faces[: SMILE_BEGINS - 1], faces[40:65]
    assert max(face.smile or 0 for face in before) < 0.05
    assert min(face.smile or 0 for face in after) > 0.8
    assert mean([face.mouth_openness for face in before]) < 0.05
    assert mean([face.mouth_openness for face in after]) > 0.2


def test_smiles_in_photos() -> None:
    (astronaut,) = still("astronaut")
    assert (astronaut.smile or 0) > 0.9
    assert max(face.smile or 0 for face in still("portrait")) < 0.3


BLINKS = {"face": [(26, 28)], "carphone": [(42, 42), (92, 93), (112, 113)]}
"""First and last frame with closed eyes of every blink, as a person sees them in the enlarged frames."""


@pytest.mark.parametrize("name", BLINKS)
def test_every_blink_is_seen_and_no_other(name: str) -> None:
    shut = [index for index, face in enumerate(film(name)) if face.eye_openness == 0]
    stretches = [index for index in shut if index - 1 not in shut]
    assert len(stretches) == len(BLINKS[name])
    for first, last in BLINKS[name]:
        assert set(range(first, last + 1)) <= set(shut)
    assert len(shut) <= sum(last - first + 3 for first, last in BLINKS[name])


def test_blinks_of_a_long_run_are_counted_per_minute() -> None:
    model = worker(face_parts=["landmarks"])
    clip = list(frames("carphone"))
    step, faces = clip[1][0] - clip[0][0], []
    for seq in range(3 * len(clip)):  # the man holds still between the rounds: to the eyes it is one run
        faces += look(model, clip[seq % len(clip)][1], seq, seq * step)[0]
    assert {face.track for face in faces} == {0}
    assert faces[0].blinks_per_minute is None
    assert faces[-1].blinks_per_minute == pytest.approx(9 / (len(faces) * step) * 60, rel=0.25)


# -- weights ----------------------------------------------------------------------------------------


def test_weights_of_another_model_are_refused() -> None:
    other = need("yolox-nano")
    for build in (
        YuNet,
        LandmarksModel,
        PupilsModel,
        ExpressionModel,
        lambda path: PoseModel([path]),
    ):
        with pytest.raises(FramemeshError) as error:
            build(other)
        assert str(other) in str(error.value)


def test_the_worker_says_what_runs() -> None:
    model, less = worker(), worker(face_parts=["pose"])
    assert model.model_name == less.model_name == "yunet"
    assert len(model.model_sha256) == len(less.model_sha256) == 64
    assert model.model_sha256 != less.model_sha256
    assert set(FaceInference.choices["yunet"]) <= set(assets.catalogue())


def test_points_of_faces_are_pairs() -> None:
    (face,) = still("astronaut")
    assert face.landmarks
    assert face.pupils
    pairs: list[Point] = [*face.points, *face.landmarks, *face.pupils]
    assert len(pairs) == 5 + 66 + 2
    assert all(0 <= x <= 512 and 0 <= y <= 512 for x, y in pairs)
