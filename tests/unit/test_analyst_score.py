"""Scores: bounds, direction, weights, and what is missing."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.analyst import inputs as module
from services.analyst.answer import QUALITIES
from services.analyst.curves import Curve, curve
from services.analyst.measures import MEASURES, VERSION, WEIGHTS, Measure
from services.analyst.score import score

PAGE = Path(__file__).parents[2] / "docs" / "scores.md"

Inputs = dict[str, Any]


def whole() -> Inputs:
    """Inputs of somebody who speaks well, with nothing missing."""
    return {
        "face": {
            "frames": 400, "frames_with_face": 380, "eye_contact_share": 0.5, "smile_mean": 0.2,
            "expression_shares": {"neutral": 0.7, "happy": 0.3}, "blinks_per_minute": 17.0, "missing": {},
        },
        "voice": {
            "duration_s": 60.0, "speech_s": 45.0, "speech_share": 0.75, "pauses": 20, "pause_share": 0.2,
            "longest_pause_s": 2.0, "pitch_median_hz": 120.0, "pitch_range_semitones": 8.0, "loudness_lufs": -24.0,
            "loudness_deviation_db": 3.0, "words_per_minute": 150.0, "syllables_per_s": 4.2, "jitter_percent": 2.0,
            "shimmer_percent": 8.0, "missing": {},
        },
        "transcript": {
            "language": "en", "text": "and so", "confidence": 0.8, "words_per_minute": 150.0, "duration_s": 60.0,
        },
        "gpt": {
            "quality": [{"name": name, "score": 50 + 5 * at} for at, name in enumerate(QUALITIES)],
            "sentiment": {"value": 0.4, "label": "positive"},
        },
    }  # fmt: skip


PLACES: dict[str, list[tuple[str, ...]]] = {
    "recognition": [("transcript", "confidence")],
    "loudness": [("voice", "loudness_lufs")],
    "jitter": [("voice", "jitter_percent")],
    "shimmer": [("voice", "shimmer_percent")],
    "words_per_minute": [("voice", "words_per_minute"), ("transcript", "words_per_minute")],
    "syllables_per_s": [("voice", "syllables_per_s")],
    "pause_share": [("voice", "pause_share")],
    "longest_pause_s": [("voice", "longest_pause_s")],
    "pitch_range": [("voice", "pitch_range_semitones")],
    "loudness_deviation": [("voice", "loudness_deviation_db")],
    "animation": [("face", "expression_shares", "neutral")],
    "smile": [("face", "smile_mean")],
    "eye_contact_share": [("face", "eye_contact_share")],
    "sentiment": [("gpt", "sentiment", "value")],
}
"""Where each measure but the language model's lies."""
BOUNDS = {"recognition": 1, "pause_share": 1, "animation": 1, "smile": 1, "eye_contact_share": 1, "sentiment": 1,
          "syllables_per_s": 20, "loudness_deviation": 60}  # fmt: skip


def put(inputs: Inputs, path: tuple[str, ...], value: Any) -> None:
    *names, last = path
    for name in names:
        inputs = inputs[name]
    inputs[last] = value


def with_value(inputs: Inputs, name: str, value: Any) -> Inputs:
    made = copy.deepcopy(inputs)
    if name in QUALITIES:
        next(item for item in made["gpt"]["quality"] if item["name"] == name)["score"] = value
    for path in PLACES.get(name, []):
        put(made, path, value)
    return made


NAMES = [measure.name for measure in MEASURES]


def bounds(measure: Measure) -> tuple[float, float]:
    points = [value for value, _ in measure.curve.points]
    span = points[-1] - points[0]
    low = points[0] - span if measure.name in {"loudness", "sentiment"} else 0.0
    return max(low, -1.0) if measure.name == "sentiment" else low, BOUNDS.get(measure.name, points[-1])


@st.composite
def some(draw: st.DrawFn) -> Inputs:
    """Complete inputs with any values that can be."""
    made = whole()
    for measure in MEASURES:
        made = with_value(made, measure.name, draw(st.floats(*bounds(measure))))
    made["voice"]["speech_s"] = draw(st.floats(0, 100))
    made["transcript"]["duration_s"] = draw(st.floats(0, 100))
    made["face"]["frames_with_face"] = draw(st.integers(0, 400))
    return made


hidden = st.sets(st.sampled_from([*NAMES, *WEIGHTS, "face", "voice", "transcript", "gpt", "speech_s", "frames"]))


def without(inputs: Inputs, names: set[str]) -> Inputs:
    made = copy.deepcopy(inputs)
    for name in sorted(names & set(NAMES)):
        made = with_value(made, name, None)
    if "speech_s" in names:
        made["voice"]["speech_s"] = None
    if "frames" in names:
        del made["face"]["frames"]
    for part in names & set(module.PARTS):
        made[part] = None
    return made


def every(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [found["overall"], *found["scores"].values()]


# -- what always holds -----------------------------------------------------------------------------


def test_weights_sum_to_1() -> None:
    assert math.fsum(WEIGHTS.values()) == pytest.approx(1)
    for name in WEIGHTS:
        assert math.fsum(measure.weight for measure in MEASURES if measure.score == name) == pytest.approx(1), name


@given(some(), hidden)
def test_scores_are_bounded_and_made_of_what_is_known(full: Inputs, names: set[str]) -> None:
    found = score(without(full, names))
    for each in every(found):
        low, high = each["range"]
        assert 0 <= each["confidence"] <= 1
        assert 0 <= low <= high <= 100
        known = [item["score"] for item in each["inputs"]]
        if not known:
            assert each["score"] is None
            assert each["confidence"] == 0
            continue
        assert min(known) - 0.01 <= each["score"] <= max(known) + 0.01
        assert low - 0.01 <= each["score"] <= high + 0.01
        assert math.fsum(item["share"] for item in each["inputs"]) == pytest.approx(1, abs=1e-4)
        assert math.fsum(item["contribution"] for item in each["inputs"]) == pytest.approx(each["score"], abs=0.02)


@given(some(), hidden, hidden)
def test_less_input_is_less_confidence_and_a_wider_range(full: Inputs, some_of: set[str], more: set[str]) -> None:
    one, other = score(without(full, some_of)), score(without(full, some_of | more))
    for before, after in zip(every(one), every(other), strict=True):
        assert after["confidence"] <= before["confidence"]
        assert after["range"][0] <= before["range"][0] + 0.01
        assert after["range"][1] >= before["range"][1] - 0.01
        if before["score"] is not None:  # what is missing was between 0 and 100, so this is no surprise
            assert after["range"][0] - 0.01 <= before["score"] <= after["range"][1] + 0.01


@given(some(), hidden)
def test_each_input_counts_or_is_missing_with_a_reason(full: Inputs, names: set[str]) -> None:
    found = score(without(full, names))
    counted = [item["name"] for each in found["scores"].values() for item in each["inputs"]]
    missing = [each["input"] for each in found["missing"]]
    assert sorted(counted + missing) == sorted(NAMES)
    assert all(each["reason"] for each in found["missing"])


@given(some(), st.randoms(use_true_random=False))
def test_the_order_of_what_comes_in_does_not_matter(full: Inputs, chance: random.Random) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = [(key, shuffled(each)) for key, each in value.items()]
            chance.shuffle(items)
            return dict(items)
        if isinstance(value, list):
            return chance.sample(value, len(value))
        return value

    assert json.dumps(score(shuffled(full))) == json.dumps(score(full))


@given(some(), st.sampled_from(MEASURES), st.data())
def test_a_better_value_never_lowers_a_score(full: Inputs, measure: Measure, data: st.DataObject) -> None:
    """Up to the first of the best values a score rises, from the last of them on it falls."""
    points = measure.curve.points
    best = max(score for _, score in points)
    first = next(value for value, score in points if score == best)
    last = next(value for value, score in reversed(points) if score == best)
    low, high = bounds(measure)
    one, other = sorted(data.draw(st.tuples(st.floats(low, high), st.floats(low, high))))
    worse, better = (one, other) if other <= first else (other, one) if one >= last else (one, first)
    if one < first < last < other:
        worse, better = one, last
    before, after = (score(with_value(full, measure.name, value)) for value in (worse, better))
    assert after["scores"][measure.score]["score"] >= before["scores"][measure.score]["score"]
    assert after["overall"]["score"] >= before["overall"]["score"]
    assert after["overall"]["confidence"] == before["overall"]["confidence"]


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["voice", "quality", "name", "score", "missing", "pauses", "confidence", "frames", "sentiment", "value"]
    ), inner, max_size=5),
    max_leaves=10,
))  # fmt: skip
def test_nonsense_is_missing_not_an_error(value: Any) -> None:
    for part in module.PARTS:
        json.dumps(score({part: value}), allow_nan=False)


# -- curves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wanted"), [(-5, 0), (0, 0), (1, 50), (2, 100), (3, 100), (7, 62.5), (10, 25), (99, 25)]
)
def test_a_curve_goes_straight_from_point_to_point(value: float, wanted: float) -> None:
    assert curve((0, 0), (2, 100), (4, 100), (10, 25))(value) == wanted


def test_a_curve_whose_values_do_not_rise_is_refused() -> None:
    for points in (((1.0, 0.0), (1.0, 5.0)), ((2.0, 0.0), (1.0, 5.0)), ()):
        with pytest.raises(ValueError, match="must rise"):
            Curve(points)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_every_curve_has_one_best_stretch(measure: Measure) -> None:
    scores = [score for _, score in measure.curve.points]
    best = scores.index(max(scores))
    assert max(scores) == 100
    assert all(0 <= each <= 100 for each in scores)
    assert all(one <= other for one, other in pairwise(scores[: best + 1]))
    assert all(one >= other for one, other in pairwise(scores[best:]))


# -- single cases ----------------------------------------------------------------------------------


def test_a_whole_result_by_hand() -> None:
    found = score(whole())
    assert found["version"] == VERSION
    assert found["missing"] == []
    clarity = found["scores"]["clarity"]
    # 0.5·80 + 0.2·100 + 0.15·(100·3/3.96) + 0.15·(100·7/11.19)
    assert clarity["score"] == 80.75
    assert clarity["range"] == [80.75, 80.75]
    assert [(item["name"], item["contribution"]) for item in clarity["inputs"]] == [
        ("recognition", 40.0), ("loudness", 20.0), ("jitter", 11.3636), ("shimmer", 9.3834),
    ]  # fmt: skip
    assert clarity["inputs"][0] == {
        "name": "recognition", "value": 0.8, "unit": "share", "source": "transcript.confidence", "score": 80.0,
        "weight": 0.5, "share": 0.5, "contribution": 40.0, "confidence": 1.0,
    }  # fmt: skip
    assert found["scores"]["pace"]["score"] == 100
    assert found["scores"]["eye_contact"]["score"] == 80
    assert found["scores"]["content"]["score"] == 60
    assert found["scores"]["sentiment"]["score"] == 70
    assert found["overall"]["score"] == pytest.approx(
        math.fsum(WEIGHTS[name] * each["score"] for name, each in found["scores"].items()), abs=0.01
    )
    assert {item["name"]: item["weight"] for item in found["overall"]["inputs"]} == {
        name: weight for name, weight in WEIGHTS.items() if weight
    }
    assert found["overall"]["confidence"] == pytest.approx(
        0.25 + 0.3 + 0.15 * (0.7 + 0.3 * 0.95) + 0.15 * (0.95 + 0.8), abs=1e-4
    )


def test_without_anything_nothing_is_made_up() -> None:
    found = score({})
    assert found["overall"]["score"] is None
    assert found["overall"]["confidence"] == 0
    assert found["overall"]["range"] == [0, 100]
    assert len(found["missing"]) == len(MEASURES)
    assert {each["reason"] for each in found["missing"] if each["score"] == "content"} == {
        "no gpt: the step gpt-analysis gave nothing"
    }


def test_a_summary_says_itself_why_something_is_missing() -> None:
    given = whole()
    given["voice"]["jitter_percent"] = None
    given["voice"]["missing"] = {"jitter_percent": "too few periods"}
    assert score(given)["missing"] == [{"score": "clarity", "input": "jitter", "reason": "too few periods"}]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("face", "eye_contact_share"), 1.2, "face.eye_contact_share is 1.2, which cannot be"),
        (("face", "eye_contact_share"), "0.5", "face.eye_contact_share is no number"),
        (("face", "eye_contact_share"), True, "face.eye_contact_share is no number"),
        (("face", "eye_contact_share"), math.nan, "face.eye_contact_share is nan, which cannot be"),
        (("face", "eye_contact_share"), 10**400, "face.eye_contact_share is inf, which cannot be"),
        (("transcript", "language"), "fi", "the thresholds are of English, the language is fi"),
        (("transcript", "language"), "", "the thresholds are of English, the language is not known"),
        (("transcript", "language"), None, "the language is not known, and the thresholds are of English"),
        (("face", "expression_shares"), {"happy": 0.4}, "face.expression_shares has no neutral"),
        (("face", "expression_shares"), [0.4], "face.expression_shares is no object"),
        (("face", "expression_shares"), None, "face.expression_shares was not told"),
    ],
)
def test_what_cannot_be_does_not_count(path: tuple[str, ...], value: Any, reason: str) -> None:
    given = whole()
    put(given, path, value)
    assert [each["reason"] for each in score(given)["missing"]] == [reason]


def test_other_names_for_the_same_figures_are_understood() -> None:
    given = whole()
    voice = given["voice"]
    voice["pauses"] = {"count": 20, "share": voice.pop("pause_share"), "longest_s": voice.pop("longest_pause_s")}
    voice["jitter"], voice["shimmer"] = voice.pop("jitter_percent"), voice.pop("shimmer_percent")
    voice["syllables_per_second"] = voice.pop("syllables_per_s")
    voice["loudness_range_db"] = 2.93 * voice.pop("loudness_deviation_db")
    given["face"]["expressions"] = given["face"].pop("expression_shares")
    found, wanted = score(given), score(whole())
    assert found["missing"] == []
    assert found["overall"]["score"] == wanted["overall"]["score"]


def test_the_transcripts_rate_is_taken_where_the_voice_has_none() -> None:
    given = whole()
    given["voice"] = None
    (item,) = score(given)["scores"]["pace"]["inputs"]
    assert (item["name"], item["source"], item["share"]) == (
        "words_per_minute",
        "transcript.words_per_minute",
        1.0,
    )


def test_a_neutral_that_never_was_the_likeliest_is_none() -> None:
    given = whole()
    given["face"]["expression_shares"] = {"happy": 0.75, "sad": 0.25}
    animation = score(given)["scores"]["expressiveness"]["inputs"][2]
    assert (animation["name"], animation["value"], animation["source"]) == (
        "animation",
        1.0,
        "face.expression_shares",
    )


def test_little_speech_and_few_faces_are_little_evidence() -> None:
    given = whole()
    given["voice"]["speech_s"] = 15.0
    given["face"]["frames_with_face"] = 200
    found = score(given)["scores"]
    assert found["pauses"]["confidence"] == 0.5
    assert found["eye_contact"]["confidence"] == 0.5
    given["voice"]["speech_s"] = 0.1
    assert score(given)["scores"]["pauses"]["confidence"] == module.LEAST_EVIDENCE


# -- the page --------------------------------------------------------------------------------------


def rows(title: str) -> list[list[str]]:
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    assert found, title
    lines = [line for line in found[1].splitlines() if line.startswith("| `")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_has_every_weight_and_curve() -> None:
    assert f"Version {VERSION}." in PAGE.read_text()
    assert [row[:2] for row in rows("The overall score")] == [
        [name, f"{weight:g}"] for name, weight in WEIGHTS.items()
    ]
    wanted = [[m.score, m.name, m.unit, f"{m.weight:g}", str(m.curve)] for m in MEASURES]
    assert [row[:5] for row in rows("The inputs")] == wanted
