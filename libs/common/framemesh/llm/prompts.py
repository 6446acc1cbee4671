"""Prompts: files of one version, which never change once they are used; a new text is a new version."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TypedDict


class Version(TypedDict):
    """Which prompts were used, for the output."""

    version: str
    sha256: str


class Prompts:
    """The prompts of one version, in a folder of that name."""

    def __init__(self, folder: Path, version: str) -> None:
        self._name, self._folder = version, folder / version

    def text(self, name: str) -> str:
        """A prompt, by the name of its file."""
        return self._texts[name]

    def fill(self, prompt: str, **values: object) -> str:
        """A prompt with its places filled. What is put in may have braces of its own."""
        made = self.text(prompt)
        # The pieces between the places first, so that nothing is looked for in what was put in.
        for name in values:
            made = made.replace(f"{{{name}}}", f"\0{name}\0")
        return "".join(str(values[piece]) if at % 2 else piece for at, piece in enumerate(made.split("\0")))

    def version(self) -> Version:
        """The version, and the SHA-256 of all its files, each with its name."""
        digest = hashlib.sha256()
        for name, text in self._texts.items():
            digest.update(f"{name}.md\n{text}".encode())
        return {"version": self._name, "sha256": digest.hexdigest()}

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {path.stem: path.read_text("utf-8") for path in sorted(self._folder.glob("*.md"))}
