"""Labels: what people call things. A label is never a path, and never looks like one.

What is stored under a label lies elsewhere under an id, so a label cannot lead anywhere. One that looks like a
path is refused all the same: whoever saves the thing under its label later may not know that.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

from framemesh.errors import FramemeshError

LONGEST = 200
"""Characters."""
_MOST_DECODING = 5
_SLASHES = "/\u2044\u2215\u29f8\u2571\u27cb\u1735\u2041\u2afb\u2afd\U0001d23a"
_BACKSLASHES = "\\\u2216\u29f5\u29f9\u2572\u27cd\U0001d20f\U0001d23b"
_SEPARATORS = frozenset(_SLASHES + _BACKSLASHES)
"""Slashes, backslashes, and what looks like one without being made of one (NFKC finds the others)."""
_DRIVE = "[A-Za-z][:\u2236\ua789]"
"""A drive's letter with a colon, or with what looks like one."""
_HIDDEN = {"Cc": "control characters", "Cs": "lone surrogates", "Zl": "line ends", "Zp": "line ends"}
_JOINERS = "\u200c\u200d"
"""Parts of words and emoji; other format characters turn or hide what follows."""


def checked_label(text: str, field: str) -> str:
    """The label in one form (NFC). Raises FramemeshError that names the field.

    It is looked at as it is, as it looks (NFKC), and as it would be after each decoding of percent signs.
    """
    label = unicodedata.normalize("NFC", text)
    if wrong := _wrong(label):
        raise FramemeshError(f"{field}: {wrong}: give a name such as holiday.jpg")
    return label


def _wrong(label: str) -> str:
    if not 1 <= len(label) <= LONGEST:
        return f"a name has 1 to {LONGEST} characters, not {len(label)}"
    if label != label.strip():
        return "a name neither begins nor ends with a space"
    for _ in range(_MOST_DECODING):
        if wrong := _looks_wrong(label) or _looks_wrong(unicodedata.normalize("NFKC", label)):
            return wrong
        decoded = unquote(label)
        if decoded == label:
            return ""
        label = decoded
    return "percent signs in percent signs"


def _looks_wrong(label: str) -> str:
    if _SEPARATORS & set(label):
        return "a name is no path: it has no slash or backslash, and nothing that looks like one"
    if label.strip() in {".", ".."}:
        return "a name is no path: . and .. are none"
    if re.match(_DRIVE, label):
        return "a name is no path: it does not begin with a drive's letter"
    for char in label:
        kind = unicodedata.category(char)
        if kind in _HIDDEN:
            return f"a name has no {_HIDDEN[kind]}"
        if kind == "Cf" and char not in _JOINERS:
            return f"a name has no characters that cannot be seen (U+{ord(char):04X})"
    return "a name has no percent signs that are no UTF-8" if "\ufffd" in label else ""
