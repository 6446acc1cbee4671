"""Search at 500 and at 20,000 passages: ``python -m benchmarks.search``.

The written set of the tests, and beside it passages of its words in other orders. Each question is new to the
service, so that its vector is made, too.
"""

from __future__ import annotations

import asyncio
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from statistics import median

import numpy as np

from framemesh.messages import SearchKind, SearchRequest
from services.search.edge import EdgeLibrary
from services.search.embedder import MiniLm
from services.search.finder import Finder
from services.search.passages import Passage, Point
from services.search.shelf import Shelf
from tests.searching import fill, passages, questions, recall

MANY = 20_000
ROUNDS = 5


async def main() -> None:
    """Print the figures."""
    embedder = MiniLm(1)
    with tempfile.TemporaryDirectory() as folder:
        library = EdgeLibrary(folder, "english")
        shelf, _ = await library.open(f"bench-{embedder.size}-english", embedder.size)
        known = passages()
        await fill(shelf, embedder, known)
        shares = ", ".join(
            f"{name} {share:.3f}" for name, share in (await recall(Finder(shelf, embedder))).items()
        )
        print(f"recall@5 of {len(questions())} questions over {len(known)} passages: {shares}")
        await _report(shelf, embedder)
        begun = time.perf_counter()
        await _more(shelf, known, MANY - len(known))
        print(f"{MANY - len(known)} more passages laid down in {time.perf_counter() - begun:.1f} s")
        await _report(shelf, embedder)
        await shelf.close()
        await library.close()


async def _report(shelf: Shelf, embedder: MiniLm) -> None:
    for name, more in (("all", {}), ("filtered", {"kind": SearchKind.TRANSCRIPT, "since": 1.0})):
        times = []
        for _ in range(ROUNDS):
            finder = Finder(shelf, embedder)
            for question in questions():
                begun = time.perf_counter()
                await finder.find(SearchRequest(q=question.q, **more))
                times.append(1000 * (time.perf_counter() - begun))
        worst = sorted(times)[int(0.95 * len(times))]
        print(f"{await shelf.count():>6} passages, {name:<8}: p50 {median(times):.1f} ms, p95 {worst:.1f} ms")
    print(f"       memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


async def _more(shelf: Shelf, known: Sequence[Passage], count: int) -> None:
    """Passages that no model was asked about: their vectors point anywhere, which is as much work to search."""
    chance, anywhere = random.Random(1), np.random.default_rng(1)
    words = [word for passage in known for word in passage.text.split()]
    for begin in range(0, count, 500):
        texts = [" ".join(chance.choices(words, k=60)) for _ in range(min(500, count - begin))]
        await shelf.put([_point(text, begin + at, anywhere) for at, text in enumerate(texts)])
    await shelf.flush()


def _point(text: str, number: int, anywhere: np.random.Generator) -> Point:
    passage = Passage(
        kind=SearchKind.TRANSCRIPT, text=text, start=float(number), end=number + 20.0, time=float(number),
        media=f"m{number // 100}", source=f"s{number % 50}",
    )  # fmt: skip
    vector = anywhere.standard_normal(MiniLm.size).astype(np.float32)
    return Point(passage, vector / np.linalg.norm(vector))


if __name__ == "__main__":
    asyncio.run(main())
