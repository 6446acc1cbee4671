"""Settings of the analyst."""

from __future__ import annotations

from pydantic import Field

from framemesh.llm.settings import GptSettings
from framemesh.steps.worker import StepSettings


class AnalystSettings(StepSettings, GptSettings):
    """Which language model is asked, and what it may cost."""

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

    @property
    def too_long(self) -> str:
        """What to do when a request is longer than the model takes."""
        return (
            f"setting gpt_chunk_tokens: {self.gpt_chunk_tokens} and gpt_max_tokens for the answer do not fit "
            "into the model's context: lower one"
        )
