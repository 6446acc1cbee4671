"""Real models by their YAML against the code of the services, and such a worker on a real queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg

from framemesh import subjects
from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.decoders.files import read_spec
from framemesh.decoders.model import SpecModel
from framemesh.messages import Detection, Result
from framemesh.registry import Registry
from services.classification.decoder import Classifier
from services.detection.decoders import build
from tests.samples import task, until

EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURES = ("astronaut", "cat", "coffee", "street")
Need = Callable[[str], Path]
Image = npt.NDArray[Any]


def opened(name: str) -> SpecModel:
    path = EXAMPLES / f"{name}.yaml"
    return SpecModel(read_spec(path), path)


def picture(path: Path) -> Image:
    """A photo, or a video's picture of 60 s with a person in it."""
    if path.suffix != ".mp4":
        image = cv2.imread(str(path))
        assert image is not None
        return image
    with av.open(str(path)) as container:
        pictures = (found.to_ndarray(format="bgr24") for found in container.decode(video=0))
        return next(islice(pictures, 600, None))


def look(model: Any, image: Image) -> list[Any]:
    height, width = image.shape[:2]
    (raw,) = model.infer([model.preprocess(image)])
    return list(model.postprocess(raw, (height, width)))


@pytest.mark.parametrize("name", [*PICTURES, "people"])
def test_yolox_by_its_yaml_is_the_detection_service(name: str, assets: Need) -> None:
    """The same tensor, labels, confidences and boxes."""
    image = picture(assets(name))
    generic, service = opened("yolox"), build("yolox-nano", assets("yolox-nano"))
    assert (generic.preprocess(image) == service.preprocess(image)).all()
    found, expected = look(generic, image), look(service, image)
    assert found
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.model_copy(update={"box": other.box}) == other
        assert one.box == pytest.approx(other.box)


@pytest.mark.parametrize("name", PICTURES)
def test_squeezenet_by_its_yaml_is_the_classification_service(name: str, assets: Need) -> None:
    image = picture(assets(name))
    generic = opened("squeezenet")
    service = Classifier(assets("squeezenet"), assets("squeezenet-labels"))
    assert (generic.preprocess(image) == service.preprocess(image)).all()
    assert look(generic, image) == look(service, image)
    assert (generic.min_size, generic.name) == (256, "squeezenet")


# ── on a queue ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def worker(
    tmp_path: Path, servers: Mapping[str, str], model: str, assets: Need
) -> Iterator[subprocess.Popen[bytes]]:
    """yolox-nano by a YAML of the test's own, as a process."""
    weights = assets("yolox-nano")
    path = tmp_path / "people.yaml"
    path.write_text(f"{{kind: {model}, model: {weights}, decoder: yolox, labels: coco}}", "utf-8")
    environment = dict(os.environ) | dict(servers) | {"MODEL_FILE": str(path), "routing_ttl": "2"}
    process = subprocess.Popen([sys.executable, "-m", "framemesh.onnx_worker"], env=environment)
    yield process
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM


@pytest.mark.usefixtures("worker")
async def test_a_worker_by_its_yaml_works_off_its_queue(
    assets: Need, bus: Bus, blobs: BlobStore, registry: Registry, source: str, model: str
) -> None:
    image = np.ascontiguousarray(picture(assets("astronaut")))
    url = await blobs.put(simplejpeg.encode_jpeg(image, quality=95, colorspace="BGR"))
    await bus.declare(*subjects.task_streams(model), subjects.RESULTS)
    asked = task(source, model).model_copy(update={"url": url, "width": 512, "height": 512})
    await bus.publish(subjects.tasks(model, source, lossless=False), asked, msg_id=asked.task_key)

    async def results() -> list[Result]:
        read = bus.read("RESULTS", subjects.results(model, source), 1, Result)
        return [stored.message async for stored in read]

    (found,) = await until(results, within=20)
    assert (found.model, found.model_name, len(found.model_sha256)) == (model, "people", 64)
    (person,) = found.result
    assert isinstance(person, Detection)
    assert (person.label, person.class_id) == ("person", 0)
    (alive,) = await registry.alive(model)
    assert (alive.model, alive.detail["provider"]) == ("people", "cpu")
