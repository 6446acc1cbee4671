"""What somebody else's code raised becomes one line that says where in it."""

from __future__ import annotations

import json
import logging
import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from framemesh.blame import LONGEST, blaming, told
from framemesh.errors import FramemeshError
from framemesh.messages import Detection, Finding


def raised(folder: Path, code: str) -> str:
    """What is told of the error that a script of somebody's own ends with."""
    (folder / "own.py").write_text(code)
    with pytest.raises((Exception, SystemExit)) as error:
        runpy.run_path(str(folder / "own.py"))
    return told(error.value)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (
            "def load():\n    raise ValueError('no weights\\nat all')\nload()",
            ":2 in load: ValueError: no weights at all",
        ),
        ("import json\njson.loads('{')", ":2: JSONDecodeError: Expecting property name"),
        ("x = = 1", ":1: SyntaxError: invalid syntax"),
        ("import sys\n\nsys.exit(3)", ":3: SystemExit: 3"),
        ("raise ValueError", ":1: ValueError"),
        ("raise ValueError('long ' * 1000)", ":1: ValueError: long long"),
        (
            "from framemesh.messages import Detection\nDetection(label='a', confidence=7, box=(0, 0, 1, 1))",
            ":2: ValidationError: Detection: class_id: Field required; "
            "confidence: Input should be less than or equal to 1",
        ),
    ],
)
def test_an_error_is_one_line_that_says_where(tmp_path: Path, code: str, line: str) -> None:
    found = raised(tmp_path, code)
    assert found.startswith(f"own.py{line}")  # from the folder that the tests work in
    assert "\n" not in found
    assert len(found) < LONGEST + 200


def test_of_many_wrong_fields_some_are_named() -> None:
    with pytest.raises(ValueError, match="4 validation errors") as error:
        Detection.model_validate({"class_id": -1, "confidence": 7, "box": 0})
    assert told(error.value).endswith(" (and 1 more)")


def test_what_is_done_is_named_and_the_stack_is_for_those_who_ask(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        pytest.raises(FramemeshError, match=r"^it broke: .*test_blame\.py:\d+ in test_.*: KeyError: 'x'$"),
        blaming("it broke"),
    ):
        os.environ.pop("x")
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.exc_info


def test_what_a_user_can_mend_stays_as_it_is() -> None:
    with pytest.raises(FramemeshError, match=r"^mend it$"), blaming("it broke"):
        raise FramemeshError("mend it")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"score": np.float32(1)}, "numpy.float32 in data.score"),
        ({"a": [1, {"b": np.int64(3)}]}, "numpy.int64 in data.a.1.b"),
        ({"mask": np.zeros(3)}, "numpy.ndarray in data.mask"),
    ],
)
def test_data_that_cannot_travel_is_refused_where_it_is_made(data: dict[str, object], found: str) -> None:
    with pytest.raises(ValueError, match="JSON types only") as error:
        Finding(kind="own", data=data)
    assert f"data: JSON types only (int, float, str, list, dict), got {found}" in told(error.value)


def test_data_that_can_travel_is_taken() -> None:
    data = {"a": [1, 2.5, None, True, "x"], "b": {"c": (1, 2)}, "d": np.float64(1.5)}
    assert json.loads(Finding(kind="own", data=data).model_dump_json())["data"] == data | {"b": {"c": [1, 2]}}
