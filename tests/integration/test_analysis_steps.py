"""Whole videos and sounds through the analysis steps, served as users serve them: a process each."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from redis.asyncio import Redis

from benchmarks.material import talk
from framemesh import assets, audio, mediafile
from framemesh.audio import RATE, Cut, Samples
from framemesh.blobs import BlobStore
from framemesh.bus import Bus
from framemesh.messages import Face, Gaze, HeadPose, Segment, Voice, Word
from framemesh.steps import files
from framemesh.steps.client import Jobs
from framemesh.steps.job import Job, JobStatus, StepStatus
from framemesh.steps.plan import Plan
from services.face import summary as face_summary
from services.face.whole import Faces, FaceStepSettings, upright
from services.transcribe.transcript import LONGEST_TEXT, NO_WORDS, Transcript
from services.transcribe.whole import pieces
from services.voice.measure import DEFAULT, measure
from services.voice.speech import SpeechDetector, weights
from services.voice.summary import Summary as VoiceSummary
from services.voice.whole import windows
from tests.samples import PRESIDENT, until, word_errors

Need = Callable[[str], Path]
SERVICES = ("services.media", "services.transcribe.steps", "services.face.steps", "services.voice.steps")
TIMES = 3
"""How often the president speaks: more than one piece of the transcription."""

ANALYSIS = Plan.model_validate(
    {
        "name": "analysis",
        "steps": {
            "fetch": {"function": "downloading-video", "input": {"upload": "$input.upload"}},
            "sound": {
                "function": "extracting-audio", "after": ["fetch"], "input": {"video": "$steps.fetch.video"},
            },
            "text": {
                "function": "transcribing", "after": ["sound"], "input": {"audio": "$steps.sound.audio"},
                "optional": True,
            },
            "voice": {
                "function": "voice-analysis", "after": ["text"],
                "input": {"audio": "$steps.sound.audio", "words": "$steps.text.words?"}, "optional": True,
            },
            "face": {
                "function": "face-analysis", "after": ["fetch"], "input": {"video": "$steps.fetch.video"},
                "optional": True,
            },
        },
        "output": {name: f"$steps.{name}?" for name in ("fetch", "sound", "text", "voice", "face")},
    }
)  # fmt: skip

FACE = ANALYSIS.model_copy(
    update={
        "steps": {name: ANALYSIS.steps[name] for name in ("fetch", "face")},
        "output": {"face": "$steps.face?"},
    }
)


@asynccontextmanager
async def running(module: str, environment: Mapping[str, str]) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env={**os.environ, **{k.upper(): str(v) for k, v in environment.items()}}
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture
async def jobs(bus: Bus, redis: Redis, servers: Mapping[str, str]) -> AsyncIterator[Jobs]:
    """The mesh's jobs, with the four services that work the analysis off."""
    assets.ensure("yunet")
    made = Jobs(bus, redis)
    await made.store.declare()
    async with AsyncExitStack() as stack:
        for module in SERVICES:
            await stack.enter_async_context(running(module, servers))
        await until(lambda: _known(made), within=30)
        yield made


async def _known(jobs: Jobs) -> bool:
    return set(await jobs.functions.all()) >= ANALYSIS.functions()


async def analysed(jobs: Jobs, blobs: BlobStore, path: Path, plan: Plan = ANALYSIS) -> tuple[Job, list[Job]]:
    """The job when it is over, and how it stood in between."""
    job = await jobs.submit(plan, {"upload": await files.put_file(blobs, path)})
    seen = []
    async with asyncio.timeout(60):
        async for state in jobs.watch(job.id):
            seen.append(state)
    return seen[-1], seen


async def test_a_video_is_analysed_whole(jobs: Jobs, blobs: BlobStore, assets: Need, tmp_path: Path) -> None:
    spoken = np.tile(audio.decode(assets("jfk").read_bytes()), TIMES)
    talk(tmp_path / "speech.mkv", spoken)
    job, seen = await analysed(jobs, blobs, tmp_path / "speech.mkv")
    assert job.status is JobStatus.DONE, job
    assert {state.status for state in job.steps.values()} == {StepStatus.DONE}, job
    for name in ("text", "voice", "face"):
        told = [state.steps[name].progress for state in seen if state.steps[name].status is StepStatus.RUNNING]
        assert told == sorted(told)
    found = job.output
    assert found["fetch"]["duration_s"] == pytest.approx(33, abs=0.2)
    assert found["sound"]["duration_s"] == pytest.approx(33, abs=0.2)
    await check_text(found["text"], blobs)
    await check_voice(found["voice"], blobs)
    await check_face(found["face"], blobs)


async def check_text(text: dict[str, Any], blobs: BlobStore) -> None:
    said = PRESIDENT.split() * TIMES
    heard = re.findall(r"[a-z0-9']+", text["text"].lower())
    assert word_errors(said, heard) / len(said) <= 0.05, text["text"]
    assert (text["language"], text["text_cut"], text["missing"]) == ("en", False, {})
    assert text["words_per_minute"] == pytest.approx(60 * 66 / 32.5, rel=0.05)
    assert 0.7 < text["confidence"] <= 1
    whole = json.loads(await files.get(blobs, text["transcript"]))
    assert len(whole["segments"]) == text["segments"]
    words = [word for segment in whole["segments"] for word in segment["words"]]
    assert len(words) == text["words"]
    starts = [word["start"] for word in words]
    assert starts == sorted(starts)
    # The third "ask" is the first one, 11 s later.
    asks = [word["end"] for word in words if word["text"].strip(",.").lower() == "ask"]
    assert asks[2] - asks[0] == pytest.approx(11, abs=0.3)


async def check_voice(voice: dict[str, Any], blobs: BlobStore) -> None:
    assert voice["label"] == "speech"
    assert voice["speech_s"] == pytest.approx(TIMES * 7.05, rel=0.07)
    assert voice["speech_share"] == pytest.approx(voice["speech_s"] / voice["duration_s"], abs=0.001)
    assert voice["pauses"] == pytest.approx(TIMES * 4 + TIMES - 1, abs=2)
    assert 1.0 < voice["longest_pause_s"] < 1.6  # of three times the same one; the detector differs
    assert 120 < voice["pitch_low_hz"] < voice["pitch_median_hz"] < voice["pitch_high_hz"] < 400
    assert voice["pitch_range_semitones"] == pytest.approx(8.8, abs=1.5)
    assert -25 < voice["loudness_lufs"] < -10
    assert voice["peak_dbfs"] <= 0.1
    assert 2.5 < voice["syllables_per_s"] < 5
    assert voice["words_per_minute"] == pytest.approx(60 * 66 / 32.5, rel=0.05)
    assert 0 < voice["jitter_percent"] < 6
    assert 0 < voice["shimmer_percent"] < 20
    assert voice["missing"] == {}
    timeline = json.loads(await files.get(blobs, voice["timeline"]))
    assert len(timeline["windows"]) == voice["windows"] >= 3
    assert sum(end - begin for begin, end in timeline["speech"]) == pytest.approx(voice["speech_s"], abs=0.5)


async def check_face(face: dict[str, Any], blobs: BlobStore) -> None:
    assert face["frames"] == pytest.approx(33 * 5, abs=3)
    assert face["frames_with_face"] >= 0.98 * face["frames"]
    assert face["faces_at_once"] == 1
    assert face["faces"] <= 2
    assert face["expressions"]["happy"] > 0.3
    assert face["expressions"]["neutral"] > 0.2
    assert face["expression"] == max(face["expressions"], key=face["expressions"].get)
    assert sum(face["expressions_mean"].values()) == pytest.approx(1, abs=0.01)
    assert {part["expression"] for part in face["expressions_over_time"]} <= {"happy", "neutral"}
    assert face["expressions_over_time"][-1]["end"] == pytest.approx(33, abs=0.3)
    assert 0.2 < face["smile_mean"] < 0.9
    assert 0 <= face["eye_contact_share"] <= 1
    assert face["blinks_per_minute"] is None  # five frames a second are too few, and it says so
    assert face["missing"] == {"blinks_per_minute": "fewer than 8 frames a second: blinks would be missed"}
    timeline = json.loads(await files.get(blobs, face["timeline"]))
    assert len(timeline["frames"]) == face["frames"]
    assert timeline["frames"][10]["faces"][0]["expressions"]


async def test_what_there_is_nothing_of_is_skipped_or_missing(
    jobs: Jobs, blobs: BlobStore, assets: Need, tmp_path: Path
) -> None:
    (dumb, _), (song, _) = await asyncio.gather(
        analysed(jobs, blobs, assets("no-face"), FACE), analysed(jobs, blobs, assets("hotwords"), FACE)
    )
    assert dumb.status is song.status is JobStatus.DONE
    face = dumb.output["face"]
    assert (face["frames_with_face"], face["faces"], face["expression"]) == (0, 0, None)
    assert set(face["missing"].values()) == {"no face in any frame"}
    assert (song.steps["face"].status, song.steps["face"].error) == (
        StepStatus.SKIPPED, "the video has no pictures",
    )  # fmt: skip


# -- without servers ----------------------------------------------------------------------------------


def cut(samples: Samples, begin: float = 0.0) -> Cut:
    return Cut(round(begin * RATE), samples, 0.0, 0.0)


def voiced(samples: Samples) -> VoiceSummary:
    """Measured in windows, as the step does."""
    detector, found = SpeechDetector(weights()), VoiceSummary(DEFAULT)
    for each in windows(iter([samples])):
        found.add(each, _measured(each, detector))
    return found


def _measured(each: Cut, detector: SpeechDetector) -> Voice:
    probabilities = detector.probabilities(each.samples)
    return measure(
        each.samples,
        start=each.begin / RATE,
        probabilities=probabilities,
        overlap=each.overlap_s,
        tail=each.tail_s,
    )


def test_windows_measure_as_the_whole_does(assets: Need) -> None:
    spoken = np.tile(audio.decode(assets("jfk").read_bytes()), 2)
    parts = voiced(spoken)
    whole = VoiceSummary(DEFAULT)
    whole.add(cut(spoken), _measured(cut(spoken), SpeechDetector(weights())))
    found, expected = parts.summary(44), whole.summary(44)
    assert found["windows"] == 2
    assert expected["windows"] == 1
    for name in ("speech_s", "pitch_median_hz", "loudness_lufs", "loudness_deviation_db", "words_per_minute"):
        assert found[name] == pytest.approx(expected[name], rel=0.03), name
    for name in ("syllables_per_s", "jitter_percent", "shimmer_percent", "pause_share", "mean_pause_s"):
        assert found[name] == pytest.approx(expected[name], rel=0.1), name
    assert found["pauses"] == expected["pauses"]


@pytest.mark.parametrize(
    ("samples", "label", "why"),
    [
        (np.zeros(3 * RATE, np.float32), "silence", "silence"),
        (np.random.default_rng(1).normal(0, 0.1, 40 * RATE).astype(np.float32), "no speech", "no speech"),
    ],
)
def test_a_sound_without_speech_has_reasons(samples: Samples, label: str, why: str) -> None:
    found = voiced(samples).summary()
    assert (found["label"], found["speech_s"], found["confidence"]) == (label, 0, None)
    assert found["pitch_median_hz"] is found["jitter_percent"] is None
    assert found["missing"]["pitch_median_hz"] == found["missing"]["syllables_per_s"] == why
    assert found["missing"]["pauses"] == "no speech"


def test_pieces_hold_one_piece_in_memory_and_lose_nothing() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 200 * RATE).astype(np.float32)
    found = list(pieces(noise[at : at + RATE] for at in range(0, len(noise), RATE)))
    assert max(len(each.samples) for each in found) <= 30 * RATE
    assert found[-1].begin + len(found[-1].samples) == len(noise)
    assert all(each.overlap_s == 1.5 for each in found[1:])


def segment(text: str, start: float, each: float = 0.5, language: str = "en") -> Segment:
    words = [
        Word(text=word, start=start + each * n, end=start + each * (n + 1), confidence=0.5)
        for n, word in enumerate(text.split())
    ]
    return Segment(confidence=0.9, text=text, start=start, end=words[-1].end, language=language, words=words)


def test_a_transcript_comes_to_its_sum() -> None:
    said = iter([[segment("one two three four", 1)], [], [segment("cinq", 0.5, language="fr")]])
    transcript = Transcript(lambda samples: next(said))
    for number in range(3):
        transcript.add(cut(np.zeros(10 * RATE, np.float32), 10.0 * number))
    found = transcript.summary()
    assert (found["text"], found["language"], found["words"]) == ("one two three four cinq", "en", 5)
    assert (found["duration_s"], found["confidence"]) == (30, 0.5)
    assert found["words_per_minute"] == pytest.approx(60 * 5 / 20, abs=0.1)
    assert transcript.whole()["segments"][1]["start"] == 20.5


def test_a_transcript_of_nothing_says_so_and_a_long_one_is_cut() -> None:
    empty = Transcript(lambda samples: [])
    empty.add(cut(np.zeros(RATE, np.float32)))
    assert empty.summary()["missing"] == {"words_per_minute": NO_WORDS, "confidence": NO_WORDS}
    long = Transcript(lambda samples: [segment("\N{SNOWMAN}" * 50 + " x" * 50, 0.0, 0.001)])
    for number in range(200):
        long.add(cut(np.zeros(RATE, np.float32), float(number)))
    found = long.summary()
    assert (len(found["text"]), found["text_cut"]) == (LONGEST_TEXT, True)
    assert len(json.dumps(found)) < 60_000


def face(**more: Any) -> Face:
    points = [(1.0, 1.0)] * 5
    return Face(confidence=0.9, box=(0, 0, 50, 50), points=points, track=more.pop("track", 1), **more)


def test_a_face_that_comes_and_goes() -> None:
    found = face_summary.Summary()
    looks, away = Gaze(yaw=0, pitch=0, eye_contact=True), Gaze(yaw=40, pitch=0, eye_contact=False)
    for at in range(5):
        smiles = face(
            expression="happy", expressions={"happy": 0.8, "sad": 0.2}, smile=0.5, blinks_per_minute=12,
            gaze=looks if at else away, pose=HeadPose(yaw=10.0 * (at % 2), pitch=0, roll=0),
            missing={} if at else {"eye_openness": "the landmarks are not sure"},
        )  # fmt: skip
        found.add(float(at), [smiles, face(track=2, expression="sad", expressions={"happy": 0, "sad": 1})])
    found.add(5.0, [])
    found.add(6.0, [face(track=3, missing={"expression": "face_parts leaves it out"})])
    said = found.summary(7.0)
    assert (said["frames"], said["frames_with_face"], said["faces"], said["faces_at_once"]) == (7, 6, 3, 2)
    assert said["expressions"]["happy"] == 1
    assert said["expressions"]["neutral"] == 0
    assert (said["eye_contact_share"], said["blinks_per_minute"], said["smile_mean"]) == (0.8, 12, 0.5)
    assert (said["yaw_mean"], said["yaw_deviation"]) == (4, pytest.approx(4.899, abs=0.001))
    assert said["missing"]["eye_openness_mean"] == "the landmarks are not sure"
    assert said["missing"]["mouth_openness_mean"] == "no face in any frame"
    assert said["told_frames"]["smile_mean"] == 5
    assert said["missing_frames"]["expression"] == {"face_parts leaves it out": 1}
    assert [part["expression"] for part in said["expressions_over_time"]] == ["happy"] * 5 + [None] * 2
    assert [len(json.loads(line)["faces"]) for line in found.timeline] == [2, 2, 2, 2, 2, 0, 1]


def test_blinks_are_counted_at_a_rate_that_shows_them(assets: Need) -> None:
    faces = Faces(FaceStepSettings(face_parts=["landmarks"]))
    with mediafile.opened(assets("face")) as container:
        stream = mediafile.pictures_of(container)
        assert stream
        first = next(mediafile.pictures(container, stream, 10))[1]
    image = upright(first, faces.least_side)
    for number in range(101):
        faces.look(number / 9, image)
    assert faces.summary.summary(11)["blinks_per_minute"] == 0


def test_a_large_frame_is_scaled_down_and_turned() -> None:
    frame = av.VideoFrame(1920, 1080, "yuv420p")
    assert upright(frame, 720).shape == (720, 1280, 3)
    assert upright(frame, 2000).shape == (1080, 1920, 3)
