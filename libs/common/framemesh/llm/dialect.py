"""What a server understands of the protocol: not every one that is OpenAI-compatible takes all of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class Form(StrEnum):
    """How the answer's form is asked for, the strictest first."""

    SCHEMA = "json_schema"
    OBJECT = "json_object"
    TEXT = "text"


_WEAKER = {Form.SCHEMA: Form.OBJECT, Form.OBJECT: Form.TEXT}
_FORM = re.compile(r"response.?format|json.?(schema|object|mode)|structured.?output|grammar", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """Options that a server takes, as far as it has not refused them yet."""

    form: Form = Form.SCHEMA
    usage: bool = True
    temperature: bool = True
    limit: str = "max_tokens"

    def options(self, schema: dict[str, Any], most: int) -> dict[str, Any]:
        """What goes into the request beside the model and the messages."""
        found: dict[str, Any] = {self.limit: most}
        if self.form is Form.SCHEMA:
            form = {"name": "analysis", "schema": schema, "strict": True}
            found["response_format"] = {"type": "json_schema", "json_schema": form}
        elif self.form is Form.OBJECT:
            found["response_format"] = {"type": "json_object"}
        if self.usage:
            found["stream_options"] = {"include_usage": True}
        if self.temperature:
            found["temperature"] = 0
        return found

    def without(self, refusal: str) -> Dialect | None:
        """The dialect without what the server's words refuse; None when they speak of none of it."""
        if self.limit == "max_tokens" and "max_completion_tokens" in refusal:
            return replace(self, limit="max_completion_tokens")
        if self.usage and "stream_options" in refusal:
            return replace(self, usage=False)
        if self.temperature and "temperature" in refusal:
            return replace(self, temperature=False)
        if self.form in _WEAKER and _FORM.search(refusal):
            return replace(self, form=_WEAKER[self.form])
        return None
