"""The live path against a bare loop, in one run: ``make bench``.

1. Bare: decode the clip and run yolox-nano, in as many processes as the mesh has detection workers.
2. The mesh on the same clip, as fast as it goes: frames/s, the ratio, CPU ms a frame and memory by process.
3. The mesh at the clip's own pace (10 frames/s, live delivery): latency from capture to result.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import time
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import psutil

from benchmarks.meshes import cpu_seconds, temporary_mesh
from framemesh import assets
from framemesh.demo import Demo, Plan, Progress
from framemesh.mesh import Mesh
from services.detection.decoders import build

MODEL, CLIP = "yolox-nano", "people"
MIB = 1 << 20


def bare_loop(clip: str, weights: str, ready: Barrier, frames: Any) -> None:
    """One process: decode, preprocess, infer, postprocess, frame by frame."""
    import av  # noqa: PLC0415 - in the child

    detector = build(MODEL, weights)
    ready.wait()
    count = 0
    with av.open(clip) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for picture in container.decode(video=0):
            image = picture.to_ndarray(format="bgr24")
            [raw] = detector.infer([detector.preprocess(image)])
            detector.postprocess(raw, image.shape[:2])
            count += 1
    with frames.get_lock():
        frames.value += count


def bare(clip: Path, weights: Path, workers: int) -> float:
    """Frames a second of all bare loops together, model loading left out."""
    context = multiprocessing.get_context("spawn")
    ready, frames = context.Barrier(workers + 1), context.Value("i", 0)
    loops = [
        context.Process(target=bare_loop, args=(str(clip), str(weights), ready, frames)) for _ in range(workers)
    ]
    for loop in loops:
        loop.start()
    ready.wait()
    begun = time.perf_counter()
    for loop in loops:
        loop.join()
    return float(frames.value) / (time.perf_counter() - begun)


@dataclass
class Usage:
    """CPU seconds and peak memory of each process, sampled while the mesh runs."""

    mesh: Mesh
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def __call__(self, progress: Progress) -> None:
        """Take a sample; what was spent before the first frame does not count."""
        for name, pid in self.mesh.pids().items():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                used = cpu_seconds(process)
                self.first.setdefault(name, 0.0 if name == "reader" else used)
                if progress.phase != "starting":
                    self.last[name] = used
                    self.memory[name] = max(self.memory.get(name, 0), process.memory_info().rss)

    def cpu_ms(self, frames: int) -> dict[str, float]:
        """CPU milliseconds a frame by process."""
        return {name: round((self.last[name] - self.first[name]) * 1000 / frames, 2) for name in sorted(self.last)}


async def run_mesh(plan: Plan) -> tuple[dict[str, Any], Usage]:
    """Run a plan on a mesh of its own."""
    async with temporary_mesh() as mesh:
        usage = Usage(mesh)
        return await Demo(mesh, plan, usage).run(), usage


def main() -> None:
    """Run the three parts and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="detection workers, and bare loops")
    parser.add_argument("--seconds", type=float, default=30, help="length of the latency part")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    arguments = parser.parse_args()
    clip, weights = assets.ensure(CLIP), assets.ensure(MODEL)

    def tell(text: str) -> None:
        if not arguments.json:
            print(text, flush=True)

    tell(f"bare: {arguments.workers} processes of decode + {MODEL} over {clip.name} ...")
    bare_fps = bare(clip, weights, arguments.workers)
    tell(f"  {bare_fps:.1f} frames/s")

    plan = Plan(str(clip), (MODEL,), ("person",), pace="fast", detection_workers=arguments.workers)
    tell(f"mesh: {arguments.workers} detection workers, as fast as it goes ...")
    fast, usage = asyncio.run(run_mesh(plan))
    report: dict[str, Any] = {
        "workers": arguments.workers,
        "bare_fps": round(bare_fps, 1),
        "mesh_fps": fast["fps"],
        "ratio": round(fast["fps"] / bare_fps, 3),
        "cpu_ms_a_frame": usage.cpu_ms(fast["frames_stored"]),
        "memory_mib": {name: round(size / MIB) for name, size in sorted(usage.memory.items())},
    }
    tell(f"  {fast['fps']:.1f} frames/s; mesh / bare = {report['ratio']:.2f}")

    plan = Plan(
        str(clip),
        (MODEL,),
        ("person",),
        arguments.seconds,
        pace="realtime",
        detection_workers=arguments.workers,
        delivery="live",
    )
    tell(f"mesh: real time, live delivery, {arguments.seconds:g} s ...")
    live, _ = asyncio.run(run_mesh(plan))
    report["latency_ms"] = live["latency_ms"]
    report["live_dropped"] = live["dropped"]
    tell(f"  capture to result: p50 {live['latency_ms']['p50']} ms, p99 {live['latency_ms']['p99']} ms")
    if arguments.json:
        print(json.dumps(report))
        return
    print(f"\n{'process':<16}{'CPU ms a frame':>16}{'memory MiB':>12}")
    for name, spent in report["cpu_ms_a_frame"].items():
        print(f"{name:<16}{spent:>16.2f}{report['memory_mib'][name]:>12}")
    print(
        f"{'together':<16}{sum(report['cpu_ms_a_frame'].values()):>16.2f}{sum(report['memory_mib'].values()):>12}"
    )


if __name__ == "__main__":
    main()
