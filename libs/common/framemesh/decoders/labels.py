"""Names of classes: COCO's, those of a list, and those of a file."""

from __future__ import annotations

from pathlib import Path

from framemesh.errors import FramemeshError

COCO: tuple[str, ...] = tuple(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow,
    elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee,
    skis, snowboard, sports ball, kite, baseball bat,
    baseball glove, skateboard, surfboard, tennis racket, bottle,
    wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
    dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
    toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
    """.replace("\n    ", " ")
    .strip()
    .split(", ")
)
"""The 80 object classes of COCO, in the order that detectors number them."""

UNUSED = "N/A"
_GAPS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_names = iter(COCO)
COCO_91: tuple[str, ...] = tuple(UNUSED if number in _GAPS else next(_names) for number in range(91))
"""The same by COCO's own numbers 0 to 90, as DETR, torchvision and TensorFlow number them; 11 are unused."""

NAMED = {"coco": COCO, "coco-91": COCO_91}
LONGEST = 256


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a name a line, or lines of 'index,name, synonym, …' of which the first name counts.

    Raises FramemeshError naming the file when it cannot be read or holds no names.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise FramemeshError(f"labels file {path} cannot be read as UTF-8 text: {error}") from error
    names = _indexed(lines) or tuple(lines)
    if not names or max(map(len, names)) > LONGEST:
        raise FramemeshError(f"labels file {path} must hold a name a line, each of {LONGEST} characters at most")
    return names


def _indexed(lines: list[str]) -> tuple[str, ...]:
    """Names by their index, or nothing where the lines are not numbered 0, 1, 2, …"""
    rows = [line.split(",") for line in lines]
    if not all(len(row) > 1 and row[0].strip().isdecimal() and row[1].strip() for row in rows):
        return ()
    names = {int(row[0]): row[1].strip() for row in rows}
    return tuple(names[index] for index in sorted(names)) if sorted(names) == list(range(len(lines))) else ()
