"""Settings of the search service."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from framemesh.llm.server import Address, Key, Server
from framemesh.llm.settings import GptSettings
from framemesh.settings import ttl_seconds
from framemesh.steps.worker import StepSettings

BUILT_IN = "minilm"


class SearchSettings(StepSettings, GptSettings):
    """Where the vectors lie, how they are made, and how long what is found is kept."""

    search_path: str = Field("search", description="Folder of the index; one search service at a time has it")
    search_url: Address = Field("", description="Address of a Qdrant server, instead of search_path")
    search_api_key: Key = Field(
        default_factory=lambda: SecretStr(""), description="Its key, where it asks for one"
    )
    search_language: str = Field(
        "english", description="Language whose endings and little words keywords do without, e.g. german"
    )
    search_kept: str = Field("90d", description="How long events are found: 12h, 90d, 52w; empty: for ever")
    search_labels_kept: str = Field("7d", description="How long labels are found")
    search_span: int = Field(60, ge=10, le=3600, description="Seconds of a source whose labels are one passage")
    search_confidence: float = Field(0.5, ge=0, le=1, description="Least confidence of a label that is found")
    chunk_words: int = Field(80, ge=10, le=200, description="Most words of one passage of a transcript")
    chunk_overlap: int = Field(
        20, ge=0, le=100, description="Most words that two passages share, in whole sentences; half of chunk_words"
    )
    embed_base_url: Address = Field(
        "", description="Address of OpenAI-compatible embeddings; empty: the built-in model"
    )
    embed_api_key: Key = Field(
        default_factory=lambda: SecretStr(""), description="Its key; any word for a server that asks for none"
    )
    embed_model: str = Field(BUILT_IN, description="Name of the embedding model, as that server calls it")
    embed_timeout: float = Field(30.0, ge=1, le=600, description="Seconds after which that server is stalled")
    embed_threads: int = Field(1, ge=1, le=64, description="Threads of the built-in model")

    @field_validator("search_kept", "search_labels_kept")
    @classmethod
    def _ttl(cls, value: str) -> str:
        if value:
            ttl_seconds(value)
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.chunk_overlap > self.chunk_words / 2:
            raise ValueError(
                f"chunk_overlap {self.chunk_overlap} is more than half of chunk_words {self.chunk_words}: lower it"
            )
        if self.embed_base_url and self.embed_model == BUILT_IN:
            raise ValueError("embed_model: name a model of the server at embed_base_url")
        return self

    @property
    def kept_s(self) -> float:
        """Seconds that events are found; 0 for ever."""
        return ttl_seconds(self.search_kept) if self.search_kept else 0.0

    @property
    def labels_kept_s(self) -> float:
        """Seconds that labels are found; 0 for ever."""
        return ttl_seconds(self.search_labels_kept) if self.search_labels_kept else 0.0

    @property
    def embeddings(self) -> Server:
        """Where embeddings are asked for."""
        key = self.embed_api_key if self.embed_api_key.get_secret_value() else SecretStr("none")
        return Server(
            "embed", self.embed_base_url, key, self.embed_model, self.embed_timeout,
            "setting chunk_words: a passage is too long for embed_model: lower it",
        )  # fmt: skip
