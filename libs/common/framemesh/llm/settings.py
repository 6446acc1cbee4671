"""Settings of every service that asks a language model."""

from __future__ import annotations

from pydantic import Field, SecretStr

from framemesh.llm.server import Address, Key, Server, unset
from framemesh.settings import Settings


class GptSettings(Settings):
    """Which language model is asked."""

    gpt_base_url: Address = Field(
        "", description="Address of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1; empty for none"
    )
    gpt_api_key: Key = Field(
        default_factory=lambda: SecretStr(""), description="Its key; any word for a server that asks for none"
    )
    gpt_model: str = Field("", description="Name of the model, as the server calls it")
    gpt_timeout: float = Field(
        120.0, ge=1, le=3600, description="Seconds without a word after which the server counts as stalled"
    )
    gpt_max_tokens: int = Field(4000, ge=256, le=1_000_000, description="Most tokens of one answer")

    @property
    def unset(self) -> str:
        """Why no language model can be asked; empty when one can."""
        missing = unset(self.gpt_base_url, self.gpt_api_key, "gpt")
        return f"{missing}: no language model was asked" if missing else ""

    @property
    def too_long(self) -> str:
        """What to do when a request is longer than the model takes."""
        return f"setting gpt_max_tokens: {self.gpt_max_tokens} for the answer leave no room for the question"

    @property
    def server(self) -> Server:
        """Where it is asked."""
        return Server("gpt", self.gpt_base_url, self.gpt_api_key, self.gpt_model, self.gpt_timeout, self.too_long)
