"""Names are never paths, however they are written."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PureWindowsPath
from urllib.parse import quote, unquote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from framemesh.errors import FramemeshError
from framemesh.labels import LONGEST, checked_label


@pytest.mark.parametrize(
    "text",
    [
        "holiday.jpg", "Käse & Brot (2).png", "写真.webp", "a..b.jpg", "100%.jpg", "50%25.jpg", ".hidden",
        "…and more.gif",
        "👩‍👩‍👧.jpg", "می‌خواهم.jpg", "ab:c.jpg", "x" * LONGEST,
    ],
)  # fmt: skip
def test_what_people_call_pictures_is_taken(text: str) -> None:
    assert checked_label(text, "name") == unicodedata.normalize("NFC", text)


TRAVERSALS = [
    "../x.jpg", "..", ".", "a/../../x", "/etc/passwd", "a/b.jpg", "..\\x.jpg", "\\\\host\\share", "C:\\x.jpg",
    "c:x.jpg",
    "%2e%2e%2fx.jpg", "%2E%2E%5Cx.jpg", "..%2fx", "%252e%252e%252fx", "%25252525252fx", "%2e%2e", "%00.jpg",
    "a\0.jpg", "a%0a.jpg", "a\nb", "\u2025", "\uff0e\uff0e", "\u2024\u2024", "\uff0e\uff0e\uff0fx", "..\u2215x",
    "..\u2044x", "..\u29f8x", "..\uff3cx", "..\u2216x", "..\ufe68x", "\uff23:x.jpg", "C\uff1ax.jpg",
    "a\u202egpj.exe",
    "..\u2afdx", "..\U0001d23ax", "..\U0001d20fx", "C\u2236x.jpg", "c\ua789x.jpg",
    "\ud800.jpg", "a\u200b.jpg", "%c0%af..", " a.jpg", "a.jpg ", "", "x" * (LONGEST + 1), "%ef%bc%8fetc",
]  # fmt: skip


@pytest.mark.parametrize("text", TRAVERSALS, ids=ascii)
def test_what_looks_like_a_path_is_refused(text: str) -> None:
    with pytest.raises(FramemeshError, match=r"^file name: .*: give a name such as holiday.jpg$"):
        checked_label(text, "file name")


@given(st.text(max_size=30) | st.text("./\\%2eFfcC:\0\u2025\uff0f\u2215", max_size=12))
@example("%2e%2e%2f")
def test_what_is_taken_stays_where_it_is_saved_however_it_is_read(text: str) -> None:
    try:
        label = checked_label(text, "name")
    except FramemeshError:
        return
    for read in (label, unicodedata.normalize("NFKC", label), unquote(label), unquote(unquote(label))):
        assert Path("/folder", read).parent == Path("/folder")
        assert ".." not in Path(read).parts
        windows = PureWindowsPath("D:/folder") / read
        assert windows.parent == PureWindowsPath("D:/folder")
        assert read.isprintable() or not any(unicodedata.category(char) == "Cc" for char in read)


@given(st.text(max_size=40))
def test_a_label_is_the_same_when_it_is_checked_again_or_was_composed_otherwise(text: str) -> None:
    try:
        label = checked_label(text, "name")
    except FramemeshError:
        assume(False)
    assert checked_label(label, "name") == label
    assert checked_label(unicodedata.normalize("NFD", text), "name") == label


@given(st.text(max_size=20), st.integers(1, 3))
def test_quoting_hides_nothing(text: str, times: int) -> None:
    quoted = f"../{text}"
    try:
        for _ in range(times):
            quoted = quote(quoted, safe="")
    except UnicodeEncodeError:
        assume(False)
    with pytest.raises(FramemeshError):
        checked_label(quoted, "name")
