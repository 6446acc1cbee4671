"""The analyst's prompts."""

from __future__ import annotations

from pathlib import Path

from framemesh.llm.prompts import Prompts

PROMPTS = Prompts(Path(__file__).parent / "prompts", "v1")
