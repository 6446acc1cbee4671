"""A hundred users submit a video at once, and everybody gets what is right, in turn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.rush import HANDS, MIB, USERS, Rush, rush
from benchmarks.users import Sight
from framemesh.analysis import AnalysisStatus, analysis_plan, legal
from tests.e2e.mesh import mesh_of

SERVICE_MIB = 400
"""Of a service or server: code and libraries are 80 to 180 MiB, SeaweedFS 270; a hundred videos add little."""
STEP_MIB = 700
"""Of a step's process: libraries and models are 230 to 350 MiB, and it does about thirty videos here."""


async def test_a_hundred_videos_at_once(tmp_path: Path) -> None:
    assert sum(hands * functions for hands, functions in zip(HANDS.values(), (2, 1, 1, 1, 3), strict=True)) == 30
    async with mesh_of(tmp_path / "mesh", {}) as (mesh, _):
        found = await rush(mesh)
        restarts = {name: service.restarts for name, service in mesh.services.items()}
    print(f"taken in {found.submitted:.1f} s, done in {found.seconds:.1f} s; {found.step_seconds()}")
    assert not any(restarts.values()), restarts
    assert sorted(found.places) == list(range(1, USERS + 1))
    for sight in (*found.polled, *found.heard):
        check_sight(sight)
    for document in found.documents:
        check(document)
    check_queues(found)
    check_memory(found)


def check_sight(sight: Sight) -> None:
    assert all(legal(before, after) for before, after in pairwise(sight.statuses)), sight
    assert sight.statuses[-1] is AnalysisStatus.DONE
    assert sight.positions == sorted(sight.positions, reverse=True), sight
    assert sight.positions[-1] == 0


def check(document: dict[str, Any]) -> None:
    """One of them is right, in all that can be known of it."""
    result, steps = document["result"], {step["name"]: step for step in document["steps"]}
    assert {name: step["status"] for name, step in steps.items()} == dict.fromkeys(steps, "done") | {
        "gpt-analysis": "skipped"
    }, document
    assert {step["attempt"] for step in steps.values()} == {1}, document
    for name, step in analysis_plan().steps.items():
        began = steps[name]["started"] or steps[name]["ended"]  # a step that is skipped never started
        assert all(steps[before]["ended"] <= began for before in step.after)
    text, voice, face = result["transcript"], result["voice"], result["face"]
    assert text["text"].lower().startswith("and so, my fellow americans"), text
    assert (voice["label"], voice["missing"]) == ("speech", {"words_per_minute": "no transcript"})
    assert 150 < voice["pitch_median_hz"] < 320
    assert (face["frames"], face["frames_with_face"], face["faces"]) == (18, 18, 1)
    assert face["expressions"]["neutral"] + face["expressions"]["happy"] > 0.9
    assert result["report"]


def check_queues(found: Rush) -> None:
    counts = [each["jobs"] for each in found.queues]
    assert all(0 <= sum(each.values()) <= USERS for each in counts)
    running = [sum(each["running"] for each in queues["functions"]) for queues in found.queues]
    assert 0 < max(running) <= 30
    assert max(each["queued"] for each in counts) == USERS


def check_memory(found: Rush) -> None:
    sizes = {name: size // MIB for name, size in found.memory.services.items()}
    assert max(sizes.values()) < SERVICE_MIB, sizes
    steps = {name: size // MIB for name, size in found.memory.steps.items()}
    assert max(steps.values()) < STEP_MIB, steps
