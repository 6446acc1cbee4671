"""What a whole video says of a face, from the faces of its frames.

The figures are about the largest face of each frame, whatever number its track has: a cut in a video begins a new
track, but not a new person.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean, pstdev
from typing import Any, NamedTuple

from framemesh.messages import Face
from services.face.expression import EXPRESSIONS

MOST_PARTS = 12
"""Parts of the video whose expression a summary tells; the timeline has all of it."""
NO_FACE = "no face in any frame"
LEAST_FRAMES = 5
"""From fewer, nothing is said of a whole video."""
TOO_FEW = f"told by fewer than {LEAST_FRAMES} frames"
TOLD = ("expression", "smile", "mouth_openness", "eye_openness", "blinks_per_minute", "pose", "gaze")
"""What may be missing of a face."""
_LEFT_OUT = {"kind", "label", "points", "landmarks", "pupils"}
"""Of no use without the picture, and many."""

Get = Callable[[Face], float | None]

FIGURES: dict[str, tuple[str, Get]] = {
    "eye_contact_share": ("gaze", lambda face: float(face.gaze.eye_contact) if face.gaze else None),
    "blinks_per_minute": ("blinks_per_minute", lambda face: face.blinks_per_minute),
    "smile_mean": ("smile", lambda face: face.smile),
    "mouth_openness_mean": ("mouth_openness", lambda face: face.mouth_openness),
    "eye_openness_mean": ("eye_openness", lambda face: face.eye_openness),
    "yaw_mean": ("pose", lambda face: face.pose.yaw if face.pose else None),
    "pitch_mean": ("pose", lambda face: face.pose.pitch if face.pose else None),
}
"""What is told of a whole video as the mean over its frames, and the field of a face that it is made of."""
DEVIATIONS = {"yaw_deviation": "yaw_mean", "pitch_deviation": "pitch_mean", "smile_deviation": "smile_mean"}
"""How much those move: the standard deviation over the frames."""


class _Row(NamedTuple):
    """What counts of the largest face of a frame."""

    at: float
    expression: str | None
    shares: dict[str, float] | None
    values: dict[str, float]
    missing: dict[str, str]


class Summary:
    """Takes frame after frame, and keeps of each what the whole needs: a video may be hours long."""

    def __init__(self) -> None:
        self.timeline: list[str] = []
        """A JSON object for each frame."""
        self.skipped: Counter[str] = Counter()
        """Faces that were not looked at, by reason."""
        self._rows: list[_Row] = []
        self._tracks: set[int] = set()
        self._most = 0

    def add(self, at: float, faces: Sequence[Face]) -> None:
        """Take the faces of the frame at a time in seconds, the largest first."""
        told = [face.model_dump_json(exclude=_LEFT_OUT, exclude_none=True) for face in faces]
        self.timeline.append(f'{{"at":{at:.3f},"faces":[{",".join(told)}]}}')
        self._tracks |= {face.track for face in faces if face.track is not None}
        self._most = max(self._most, len(faces))
        if faces:
            self._rows.append(_row(at, faces[0]))

    def summary(self, duration_s: float) -> dict[str, Any]:
        """The figures of the whole; what cannot be told is null, and ``missing`` says why."""
        figures: dict[str, Any] = {"expressions": self._expressions(), "expressions_mean": self._shares()}
        figures |= {name: self._mean(name) for name in FIGURES}
        figures |= {name: self._deviation(of) for name, of in DEVIATIONS.items()}
        missing = {name: value for name, value in figures.items() if isinstance(value, str)}
        told = figures | dict.fromkeys(missing)
        frames, looked = len(self.timeline), len(self._rows)
        return {
            "duration_s": round(duration_s, 3),
            "frames": frames,
            "frames_with_face": looked,
            "face_share": round(looked / frames, 4) if frames else 0.0,
            "faces": len(self._tracks),
            "faces_at_once": self._most,
            "expression": next(iter(told["expressions"] or ()), None),
            **told,
            "expressions_over_time": self._over_time(duration_s),
            "skipped": dict(self.skipped),
            "missing": missing,
            "told_frames": {name: len(self._values(name)) for name in FIGURES},
            "missing_frames": self._missing_frames(),
        }

    def _expressions(self) -> dict[str, float] | str:
        """Share of the frames in which each expression was the likeliest, the most frequent first."""
        counts = Counter(row.expression for row in self._rows if row.expression)
        if counts.total() < LEAST_FRAMES:
            return TOO_FEW if counts else self._why("expression")
        total = counts.total()
        counts.update(dict.fromkeys(EXPRESSIONS, 0))
        return {str(name): round(n / total, 4) for name, n in counts.most_common()}

    def _shares(self) -> dict[str, float] | str:
        """Mean of the model's shares, which shows an expression, too, that is never the likeliest."""
        told = [row.shares for row in self._rows if row.shares]
        if len(told) < LEAST_FRAMES:
            return TOO_FEW if told else self._why("expressions")
        return {name: round(fmean(each[name] for each in told), 4) for name in told[0]}

    def _over_time(self, duration_s: float) -> list[dict[str, Any]]:
        """The most frequent expression in equal parts of the video, with its share; nothing without a face."""
        if not self._rows:
            return []
        parts = min(MOST_PARTS, len(self.timeline))
        length = max(duration_s, self._rows[-1].at, 1e-3) / parts
        counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
        for row in self._rows:
            if row.expression:
                counts[min(parts - 1, int(row.at / length))][row.expression] += 1
        return [
            {"begin": round(part * length, 3), "end": round((part + 1) * length, 3)} | _first(counts[part])
            for part in range(parts)
        ]

    def _mean(self, name: str) -> float | str:
        return self._of(name, fmean)

    def _deviation(self, name: str) -> float | str:
        return self._of(name, pstdev)

    def _of(self, name: str, measure: Callable[[Sequence[float]], float]) -> float | str:
        found = self._values(name)
        if len(found) < LEAST_FRAMES:
            return TOO_FEW if found else self._why(FIGURES[name][0])
        return round(measure(found), 4)

    def _values(self, name: str) -> list[float]:
        return [row.values[name] for row in self._rows if name in row.values]

    def _why(self, field: str) -> str:
        """The most frequent reason."""
        reasons = Counter(row.missing[field] for row in self._rows if field in row.missing)
        return reasons.most_common(1)[0][0] if reasons else NO_FACE

    def _missing_frames(self) -> dict[str, dict[str, int]]:
        """In how many frames something could not be told, by reason."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for row in self._rows:
            for name in TOLD:
                if name in row.missing:
                    counts[name][row.missing[name]] += 1
        return {name: dict(reasons) for name, reasons in counts.items()}


def _row(at: float, face: Face) -> _Row:
    told = {name: get(face) for name, (_, get) in FIGURES.items()}
    values = {name: value for name, value in told.items() if value is not None}
    return _Row(at, face.expression, face.expressions, values, face.missing)


def _first(counts: Counter[str]) -> dict[str, Any]:
    if not counts:
        return {"expression": None, "share": 0.0}
    name, count = counts.most_common(1)[0]
    return {"expression": name, "share": round(count / counts.total(), 4)}
