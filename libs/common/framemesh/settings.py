"""Settings from the environment and ``.env``, with errors that name the field and the fix."""

from __future__ import annotations

import difflib
import os
import re
import socket
from pathlib import Path
from typing import Any, TypeVar

from dotenv import dotenv_values
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from framemesh.errors import FramemeshError
from framemesh.telemetry import redact

S = TypeVar("S", bound="Settings")

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_MISSPELT = 0.88
"""Likeness from which an unknown name in .env or the environment is taken for a slip of the pen."""


def ttl_seconds(ttl: str) -> float:
    """Seconds of a SeaweedFS time to live: ``3m``, ``4h``, ``5d``, ``6w``. Raises ValueError."""
    match = re.fullmatch(r"([1-9][0-9]{0,2})([mhdw])", ttl)
    if not match or int(match[1]) > 255:  # noqa: PLR2004 - SeaweedFS counts in one byte
        raise ValueError("want a number up to 255 and one of m, h, d, w, e.g. 15m")
    return float(match[1]) * _UNITS[match[2]]


def node_name() -> str:
    """This machine's name as one subject token."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname()) or "node"


class Settings(BaseSettings):
    """What every service needs to know. A service adds its own fields."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", validate_default=True)

    nats_host: str = Field("nats://127.0.0.1:4222", description="Address of NATS")
    redis_host: str = Field("127.0.0.1", description="Host of Redis or Valkey")
    redis_port: int = Field(6379, ge=1, le=65535, description="Its port")
    master_url: str = Field("http://127.0.0.1:9333", description="Address of the SeaweedFS master")
    volume_url: str = Field("", description="Address of the volume server, where it is not what the master says")
    s3_url: str = Field("http://127.0.0.1:8333", description="Address of the SeaweedFS S3 gateway")
    s3_access_key: str = Field("", description="S3 access key; empty for a gateway without accounts")
    s3_secret_key: str = Field("", description="S3 secret key")
    ttl_bucket: str = Field("15m", description="How long frames are kept: 15m, 2h, 3d, 1w")
    topic_stream: str = Field(
        "frames-stream", pattern=r"^[A-Za-z0-9_-]+$", description="First token of the claim checks' subjects"
    )
    routing_ttl: float = Field(
        10.0, ge=1, le=3600, description="Seconds after which a silent service counts as dead"
    )
    node: str = Field(
        default_factory=node_name, pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Name of this machine"
    )
    instance: str = Field("", description="Name of this process; made up when empty")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    health_port: int = Field(0, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics; 0 for none")
    connect_patience: float = Field(30.0, ge=0, description="Seconds to wait for the servers at the start")

    @field_validator("ttl_bucket")
    @classmethod
    def _ttl(cls, value: str) -> str:
        ttl_seconds(value)
        return value

    @field_validator("master_url", "volume_url", "s3_url")
    @classmethod
    def _no_secrets(cls, value: str) -> str:
        # They become part of every frame's and event's address.
        if redact(value) != value:
            raise ValueError("leave user and password out")
        return value

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("want DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @property
    def frame_ttl(self) -> float:
        """Seconds that frames are kept."""
        return ttl_seconds(self.ttl_bucket)


def load(settings: type[S], **values: Any) -> S:
    """Read settings; a wrong or misspelt one is a FramemeshError that names it and the fix."""
    _refuse_misspelt(settings)
    try:
        return settings(**values)
    except SettingsError as error:
        found = re.search(r'field "([^"]+)"', str(error))
        name = found[1] if found else "?"
        described = settings.model_fields[name].description if name in settings.model_fields else ""
        raise FramemeshError(f"setting {name}: not valid JSON (it is {given(name)!r}). {described}") from None
    except ValidationError as error:
        raise FramemeshError(
            "; ".join(_explain(settings, item) for item in error.errors(include_url=False))
        ) from None


def given(name: str) -> str:
    """What ``.env`` or the environment says of a setting, without passwords; empty where neither does."""
    in_file = dotenv_values(".env", interpolate=False) if Path(".env").is_file() else {}
    said = {key.lower(): value for key, value in in_file.items()} | {k.lower(): v for k, v in os.environ.items()}
    return redact(said.get(name) or "")


def _explain(settings: type[Settings], item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    field = settings.model_fields.get(str(item["loc"][0]))
    reason = str(item["msg"]).removeprefix("Value error, ")
    given = "" if item["type"] == "missing" else f" (it is {redact(str(item['input']))!r})"
    hint = f". {field.description}" if field and field.description else ""
    return f"setting {name}: {reason}{given}{hint}"


def _refuse_misspelt(settings: type[Settings]) -> None:
    known = list(settings.model_fields)
    for name, where in given_names():
        lower = name.lower()
        if lower in known:
            continue
        if near := difflib.get_close_matches(lower, known, n=1, cutoff=_MISSPELT):
            raise FramemeshError(f"setting {name} ({where}) is not known; did you mean {near[0]}?")


def given_names() -> list[tuple[str, str]]:
    """Every name that ``.env`` and the environment set, and which of the two it is."""
    in_file = dotenv_values(".env", interpolate=False) if Path(".env").is_file() else {}
    return [(name, ".env") for name in in_file] + [(name, "environment") for name in os.environ]
