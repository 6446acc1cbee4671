"""The same faces over the frames of a run: numbers that stay, smooth values, and blinks. No input, no output."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from framemesh.messages import Box, Face, Gaze, HeadPose, Point
from services.face.blinks import Blinks
from services.face.gaze import Direction
from services.face.sighting import Sighting

LEAST_IOU = 0.15
FARTHEST = 0.6
"""Centres of the same face are at most this far apart, in sides of the face."""
LARGEST_GROWTH = 1.8
MOST_TRACKS = 256
MOST_RUNS = 256

LATE = "the frame came after a later one"
EYES_CLOSED = "the eyes are closed"
EYES_UNSEEN = "the eyes were not looked at"


@dataclass(frozen=True, slots=True)
class Times:
    """How slowly things follow, seconds: after that long, 63% of a change is through."""

    expression: float = 0.4
    pose: float = 0.15
    forget: float = 2.0
    """A face that was not seen for longer gets a new number."""


@dataclass
class Smooth:
    """Values that follow exponentially, by time and not by frames."""

    values: tuple[float, ...] = ()
    at: float = -math.inf

    def follow(self, values: Sequence[float], at: float, seconds: float) -> tuple[float, ...]:
        """Take new values; times rise."""
        if len(values) != len(self.values) or seconds <= 0:
            self.values = tuple(values)
        else:
            share = -math.expm1(-(at - self.at) / seconds)
            self.values = tuple(old + (new - old) * share for old, new in zip(self.values, values, strict=True))
        self.at = at
        return self.values


@dataclass
class Track:
    """One face of a run."""

    number: int
    box: Box
    seen: float
    expression: Smooth = field(default_factory=Smooth)
    smile: Smooth = field(default_factory=Smooth)
    pose: Smooth = field(default_factory=Smooth)
    gaze: Smooth = field(default_factory=Smooth)
    blinks: Blinks = field(default_factory=Blinks)


@dataclass
class Run:
    """The faces of one run."""

    tracks: list[Track] = field(default_factory=list)
    latest: float = -math.inf
    number: int = 0


class Tracks:
    """Follows the faces of many runs; those not heard of for longest are forgotten."""

    def __init__(self, times: Times | None = None, eye_contact_degrees: float = 10.0) -> None:
        self._times = times or Times()
        self._tolerance = eye_contact_degrees
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def follow(self, key: str, at: float, faces: Sequence[Sighting]) -> list[Face]:
        """Give the faces of one frame, in order, with their track's number and smooth values.

        ``key`` names the run, ``at`` is the time of the frame. A frame that is not later than one before it gets
        numbers, but changes nothing.
        """
        run = self._runs.setdefault(key, Run())
        self._runs.move_to_end(key)
        if len(self._runs) > MOST_RUNS:
            self._runs.popitem(last=False)
        late = at <= run.latest
        if not late:
            run.latest = at
            run.tracks = [track for track in run.tracks if at - track.seen <= self._times.forget]
        pairs = matched(run.tracks, [face.box for face in faces])
        if late:
            return [self._late(face, pairs.get(index)) for index, face in enumerate(faces)]
        return [self._followed(run, face, pairs.get(index), at) for index, face in enumerate(faces)]

    def _late(self, face: Sighting, track: Track | None) -> Face:
        missing = face.missing | {"blinks_per_minute": LATE} | ({} if track else {"track": LATE})
        return finished(face, track=track.number if track else None, missing=missing)

    def _followed(self, run: Run, face: Sighting, track: Track | None, at: float) -> Face:
        if track is None:
            track = _begin(run, face, at)
        track.box, track.seen = face.box, at
        missing = dict(face.missing)
        blinks = self._blinks(track, face, at, missing)
        more = self._expression(track, face, at) | self._pose(track, face, at) | blinks
        more |= self._gaze(track, face, at, missing)
        return finished(face, track=track.number, missing=missing, **more)

    def _expression(self, track: Track, face: Sighting, at: float) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if face.expressions:
            values = track.expression.follow(tuple(face.expressions.values()), at, self._times.expression)
            shares = dict(zip(face.expressions, values, strict=True))
            found |= {"expressions": shares, "expression": max(shares, key=shares.__getitem__)}
        if face.smile is not None:
            found["smile"] = track.smile.follow((face.smile,), at, self._times.expression)[0]
        return found

    def _pose(self, track: Track, face: Sighting, at: float) -> dict[str, Any]:
        if face.pose is None:
            return {}
        angles = (face.pose.yaw, face.pose.pitch, face.pose.roll)
        yaw, pitch, roll = track.pose.follow(angles, at, self._times.pose)
        return {"pose": HeadPose(yaw=yaw, pitch=pitch, roll=roll)}

    def _gaze(self, track: Track, face: Sighting, at: float, missing: dict[str, str]) -> dict[str, Any]:
        if face.gaze is None:
            return {}
        if track.blinks.closed and face.edges is not None:  # there is no pupil to be seen
            missing["gaze"] = missing["pupils"] = EYES_CLOSED
            return {"gaze": None, "pupils": None}
        yaw, pitch = track.gaze.follow((face.gaze.yaw, face.gaze.pitch), at, self._times.pose)
        contact = Direction(yaw, pitch).off_camera <= self._tolerance
        return {"gaze": Gaze(yaw=yaw, pitch=pitch, eye_contact=contact)}

    def _blinks(self, track: Track, face: Sighting, at: float, missing: dict[str, str]) -> dict[str, Any]:
        if face.edges is None:
            missing.setdefault("blinks_per_minute", EYES_UNSEEN)
            return {}
        track.blinks.feed(at, face.edges)
        closed = {"eye_openness": 0.0} if track.blinks.closed else {}
        rate = track.blinks.per_minute(at)
        if isinstance(rate, str):
            missing["blinks_per_minute"] = rate
            return closed
        return closed | {"blinks_per_minute": rate}


def matched(tracks: Sequence[Track], boxes: Sequence[Box]) -> dict[int, Track]:
    """The track of each box, by its index: the likest pairs first, each track and each box once."""
    likes = [
        (likeness(track.box, box), index, place)
        for place, track in enumerate(tracks)
        for index, box in enumerate(boxes)
    ]
    pairs: dict[int, Track] = {}
    taken: set[int] = set()
    for like, index, place in sorted(likes, key=lambda each: (-each[0], each[1], each[2])):
        if like > 0 and index not in pairs and place not in taken:
            pairs[index] = tracks[place]
            taken.add(place)
    return pairs


def likeness(a: Box, b: Box) -> float:
    """How likely two boxes are the same face, 0 (cannot be) to 2: intersection over union, plus nearness.

    Nearness keeps a face whose box shares little with the one before, as in a slow source.
    """
    growth = _side(b) / max(_side(a), 1e-6)
    if not 1 / LARGEST_GROWTH <= growth <= LARGEST_GROWTH:
        return 0.0
    side = max((_side(a) + _side(b)) / 2, 1e-6)
    distance = math.dist(_centre(a), _centre(b)) / side
    shared = _iou(a, b)
    if shared < LEAST_IOU and distance > FARTHEST:
        return 0.0
    return shared + max(0.0, 1 - distance) + 1e-6


def finished(face: Sighting, **update: Any) -> Face:
    """The message: without what never travels, and without digits that mean nothing."""
    values = {name: getattr(face, name) for name in Face.model_fields} | update
    for name in ("points", "landmarks", "pupils"):
        values[name] = values[name] and [_rounded(point) for point in values[name]]
    for name in ("eye_openness", "blinks_per_minute", "mouth_openness", "smile"):
        values[name] = None if values[name] is None else round(values[name], 3)
    values["box"] = tuple(round(side, 2) for side in values["box"])
    if values["expressions"]:
        values["expressions"] = {name: min(1.0, round(v, 4)) for name, v in values["expressions"].items()}
    for name, kind in (("pose", HeadPose), ("gaze", Gaze)):
        if values[name]:
            fields = values[name].model_dump()
            values[name] = kind(**{k: v if isinstance(v, bool) else round(v, 2) for k, v in fields.items()})
    return Face(**values)


def _begin(run: Run, face: Sighting, at: float) -> Track:
    track = Track(run.number, face.box, at)
    run.number += 1
    run.tracks.append(track)
    if len(run.tracks) > MOST_TRACKS:
        run.tracks.remove(min(run.tracks, key=lambda each: each.seen))
    return track


def _rounded(point: Point) -> Point:
    return round(point[0], 2), round(point[1], 2)


def _side(box: Box) -> float:
    return math.sqrt(max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0))


def _centre(box: Box) -> Point:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / max(_side(a) ** 2 + _side(b) ** 2 - shared, 1e-9)
