"""Settings of the analyst."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from framemesh.steps.worker import StepSettings
from framemesh.telemetry import redact


class AnalystSettings(StepSettings):
    """Which language model is asked, and what it may cost."""

    gpt_base_url: str = Field(
        "", description="Address of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1; empty for none"
    )
    gpt_api_key: SecretStr = Field(
        default_factory=lambda: SecretStr(""), description="Its key; any word for a server that asks for none"
    )
    gpt_model: str = Field("", description="Name of the model, as the server calls it")
    gpt_timeout: float = Field(
        120.0, ge=1, le=3600, description="Seconds without a word after which the server counts as stalled"
    )
    gpt_max_tokens: int = Field(4000, ge=256, le=1_000_000, description="Most tokens of one answer")
    gpt_chunk_tokens: int = Field(
        6000,
        ge=500,
        le=1_000_000,
        description="Most tokens of a transcript in one request; more are cut into parts",
    )
    gpt_price_input: float = Field(
        0.0, ge=0, description="Price of a million input tokens, in your currency; 0 where it is not known"
    )
    gpt_price_output: float = Field(
        0.0, ge=0, description="Price of a million output tokens, in your currency; 0 where it is not known"
    )

    @field_validator("gpt_base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        value = value.strip().rstrip("/")
        if not value:
            return ""
        if redact(value) != value:
            raise ValueError("leave user, password and keys out: gpt_api_key is for them")
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("want http:// or https://, a host and a path, e.g. http://127.0.0.1:8000/v1")
        return value

    @field_validator("gpt_api_key", mode="before")
    @classmethod
    def _no_blanks(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value  # a file that ends in a line break is common

    @property
    def unset(self) -> str:
        """Why no language model can be asked; empty when one can."""
        wanted = {
            "gpt_base_url": self.gpt_base_url,
            "gpt_api_key": self.gpt_api_key.get_secret_value(),
        }
        missing = [name for name, value in wanted.items() if not value]
        if not missing:
            return ""
        return (
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: no language model was asked"
        )
