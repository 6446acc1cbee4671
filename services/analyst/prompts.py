"""The prompts: files of one version, which never change once they are used; a new text is a new version."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TypedDict

VERSION = "v1"

_FOLDER = Path(__file__).parent / "prompts"


class Version(TypedDict):
    """Which prompts were used, for the output."""

    version: str
    sha256: str


@cache
def text(name: str) -> str:
    """A prompt, by the name of its file."""
    return (_FOLDER / VERSION / f"{name}.md").read_text("utf-8")


def fill(prompt: str, **values: object) -> str:
    """A prompt with its places filled. What is put in may have braces of its own."""
    made = text(prompt)
    # The pieces between the places first, so that nothing is looked for in what was put in.
    for name in values:
        made = made.replace(f"{{{name}}}", f"\0{name}\0")
    return "".join(str(values[piece]) if at % 2 else piece for at, piece in enumerate(made.split("\0")))


@cache
def version() -> Version:
    """The version, and the SHA-256 of all its files, each with its name."""
    digest = hashlib.sha256()
    for path in sorted((_FOLDER / VERSION).glob("*.md")):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return {"version": VERSION, "sha256": digest.hexdigest()}
