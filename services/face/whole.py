"""``face-analysis``: what the faces of a whole video show, as a step of a job."""

from __future__ import annotations

from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import cv2
from pydantic import Field

from framemesh import mediafile
from framemesh.inference import Skipped
from framemesh.messages import Face, Task
from framemesh.pictures import Image
from framemesh.settings import load
from framemesh.steps.context import Context
from framemesh.steps.files import named_file
from framemesh.steps.functions import Skip, step
from framemesh.steps.worker import StepSettings
from services.face.summary import Summary
from services.face.worker import FaceInference, FaceSettings

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

LONGEST_S = 6 * 3600.0
_UPRIGHT = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    -90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    -180: cv2.ROTATE_180,
}


class FaceStepSettings(StepSettings, FaceSettings):
    """Settings of the face's steps."""

    step_concurrency: int = Field(
        2, ge=1, le=1000, description="Most videos at a time; each has a process and models of its own"
    )
    face_rate: float = Field(
        5, gt=0, le=60, description="Frames a second that are looked at; blinks are counted from 8 on"
    )


@step("face-analysis", timeout=LONGEST_S, process=True)
async def face_analysis(ctx: Context, given: Any) -> Any:
    """Tell what the faces in ``video``, the address of a stored video of any length, show.

    Gives figures of the whole, and in ``timeline`` the address of the faces of each frame that was looked at.
    """
    video = await named_file(ctx, given, "video")
    await ctx.progress(0, "loading the models")
    faces = _models()
    rate = faces.begin()
    with mediafile.opened(video) as container:
        pictures = mediafile.pictures_of(container)
        if pictures is None:
            raise Skip("the video has no pictures")
        of = mediafile.duration(container) or 0.0
        at = 0.0
        for at, frame in mediafile.pictures(container, pictures, rate):
            faces.look(at, upright(frame, faces.least_side))
            await ctx.progress(min(99.0, 99 * at / max(of, at, 1e-3)), f"{at:.0f} of {max(of, at):.0f} s")
    if not faces.summary.timeline:
        raise Skip("no picture of the video can be decoded")
    frames = ",\n".join(faces.summary.timeline)
    kept = await ctx.put(f'{{"rate":{rate},"frames":[{frames}]}}'.encode(), "face.json")
    return faces.summary.summary(max(of, at)) | faces.model | {"timeline": kept}


@cache
def _models() -> Faces:
    """Those of this process, which its next video needs, too."""
    return Faces(load(FaceStepSettings))


class Faces:
    """The worker's models and tracks, without its mesh, on the frames of one video after the other."""

    def __init__(self, settings: FaceStepSettings) -> None:
        nothing = cast("Any", None)
        self._worker = FaceInference(settings, nothing, nothing)
        self._worker.load_checked()
        self.least_side = self._worker.min_size
        self.model = {"model": self._worker.model_name, "model_sha256": self._worker.model_sha256}
        self._rate, self._videos = settings.face_rate, count()
        self.begin()

    def begin(self) -> float:
        """Look at another video: nothing of the one before counts. How many of its frames a second to look at."""
        self._run = f"video-{next(self._videos)}"
        self.summary = Summary()
        return self._rate

    def look(self, at: float, image: Image) -> None:
        """Look at the frame of a time; times rise."""
        worker, (height, width) = self._worker, image.shape[:2]
        output = worker.infer([worker.preprocess(image)])[0]
        task = _task(self._run, len(self.summary.timeline), at, height, width)
        found = worker.track(list(worker.postprocess(output, height, width)), task)
        self.summary.add(at, [item for item in found if isinstance(item, Face)])
        for item in found:
            if isinstance(item, Skipped):
                self.summary.skipped[item.reason] += item.count


def upright(frame: VideoFrame, least_side: int) -> Image:
    """The frame as BGR, upright, scaled down as far as its shorter side keeps ``least_side`` pixels."""
    scale = min(1.0, least_side / min(frame.width, frame.height))
    size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    image = frame.to_ndarray(format="bgr24", width=size[0], height=size[1], interpolation="AREA")
    turn = _UPRIGHT.get(frame.rotation)
    return cast("Image", image if turn is None else cv2.rotate(image, turn))


def _task(run: str, seq: int, at: float, height: int, width: int) -> Task:
    return Task(
        source="video", run=run, seq=seq, frame_id=f"frame_{seq:06d}", url="", timestamp=at,
        width=width, height=height, bytes=0, captured_at=at, model=FaceInference.kind,
    )  # fmt: skip
