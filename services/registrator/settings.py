"""Settings of the registrator."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pydantic import Field, field_validator

from framemesh.settings import Settings
from services.registrator.rules import Rule


class RegistratorSettings(Settings):
    """What makes an event, and where its evidence goes."""

    tmp_path: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / "framemesh-evidence",
        description="Folder of the evidence on this node (TMP_PATH)",
    )
    event_rules: list[Rule] = Field(
        [Rule()],
        min_length=1,
        description='JSON, e.g. [{"name": "intruder", "labels": ["person"], "confidence": 0.5, "hits": 3}]',
    )
    evidence_bucket: str = Field(
        "evidence", pattern=r"^[a-z0-9.-]{3,63}$", description="S3 bucket of the evidence"
    )
    video_encoder: str = Field(
        "", description="H.264 encoder of FFmpeg; empty: libopenh264 where there is one, else libx264"
    )

    blur_faces: bool = Field(False, description="Hide faces in the evidence; frames in SeaweedFS stay as they are")
    blur_model: str = Field("yunet", description="Weights of the face detector that finds them, by name or path")

    @field_validator("event_rules")
    @classmethod
    def _names_differ(cls, rules: list[Rule]) -> list[Rule]:
        names = [rule.name for rule in rules]
        if len(set(names)) < len(names):
            raise ValueError("give every rule a name of its own: events are told apart by it")
        return rules
