"""What the language model is asked for, and how its answer is read."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from framemesh.llm import reading

QUALITIES = ("structure", "clarity", "relevance", "evidence", "engagement")

_FAR = 0.2
"""How far a value may lie on the wrong side of its label."""


def _at_most(length: int) -> BeforeValidator:
    """Cut what is too long: it is no reason to ask, and pay, again. An output has room for so much."""

    def cut(value: Any) -> Any:
        if isinstance(value, str) and len(value) > length:
            return value[: length - 1].rstrip() + "…"
        return value[:length] if isinstance(value, list) else value

    return BeforeValidator(cut)


class _Part(BaseModel):
    """A part of the answer. Its schema is as strict servers want it; what else an answer has is left out."""

    model_config = ConfigDict(
        extra="ignore", allow_inf_nan=False, json_schema_extra={"additionalProperties": False}
    )


class Sentiment(_Part):
    """The tone of what was said."""

    value: float = Field(
        ge=-1, le=1, description="-1 is as negative as can be, 0 neutral, 1 as positive as can be"
    )
    label: Literal["negative", "neutral", "positive", "mixed"]
    reason: Annotated[str, _at_most(300)] = Field(description="One sentence")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if (self.label == "positive" and self.value < -_FAR) or (self.label == "negative" and self.value > _FAR):
            raise ValueError(f"label {self.label} contradicts the value {self.value:g}")
        return self


class Quality(_Part):
    """How good the content is in one respect."""

    score: int = Field(ge=0, le=100, description="0 is as bad as can be, 100 as good as can be")
    reason: Annotated[str, _at_most(400)] = Field(description="One or two sentences")
    quotes: Annotated[list[Annotated[str, _at_most(200)]], _at_most(2)] = Field(
        description="At most 2 short passages that show it, word for word as in the transcript"
    )


class Qualities(_Part):
    """How good the content is, respect by respect."""

    structure: Quality = Field(description="Is there a thread, an opening, an order, an end?")
    clarity: Quality = Field(description="Are the sentences and the words easy to understand?")
    relevance: Quality = Field(description="Does it stay with its subject?")
    evidence: Quality = Field(description="Are claims borne out by examples, figures, reasons?")
    engagement: Quality = Field(description="Does it address the audience and keep its interest?")


class Answer(_Part):
    """The whole answer."""

    summary: Annotated[str, _at_most(2000)] = Field(min_length=1, description="What was said, in 2 to 6 sentences")
    topics: Annotated[list[Annotated[str, _at_most(60)]], _at_most(12)] = Field(
        description="Up to 12 topics, the most important first"
    )
    sentiment: Sentiment
    quality: Qualities
    strengths: Annotated[list[Annotated[str, _at_most(200)]], _at_most(5)] = Field(
        description="Up to 5 things that are good, one sentence each"
    )
    improvements: Annotated[list[Annotated[str, _at_most(200)]], _at_most(5)] = Field(
        description="Up to 5 things to do better, one sentence each"
    )


def schema() -> dict[str, Any]:
    """JSON Schema of the answer."""
    return Answer.model_json_schema()


def parse(text: str) -> Answer:
    """The answer in what a model wrote. Raises ValueError."""
    return reading.parse(text, Answer)
