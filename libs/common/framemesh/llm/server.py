"""A server that speaks the protocol of OpenAI, as the settings name it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from openai import AsyncOpenAI, Timeout
from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo

from framemesh.errors import FramemeshError
from framemesh.telemetry import redact

CONNECT_S = 15.0
_TALKATIVE = ("openai", "httpx2", "httpcore2", "httpx", "httpcore")


def _address(value: str, info: ValidationInfo) -> str:
    value = value.strip().rstrip("/")
    if not value:
        return ""
    if redact(value) != value:
        key = (info.field_name or "").replace("base_url", "api_key")
        raise ValueError(f"leave user, password and keys out: {key} is for them")
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("want http:// or https://, a host and a path, e.g. http://127.0.0.1:8000/v1")
    return value


def _no_blanks(value: object) -> object:
    return value.strip() if isinstance(value, str) else value  # a file that ends in a line break is common


Address = Annotated[str, AfterValidator(_address)]
Key = Annotated[SecretStr, BeforeValidator(_no_blanks)]


@dataclass(frozen=True)
class Server:
    """Where a model is asked. ``kind`` begins the names of its settings: ``gpt`` of ``gpt_base_url``."""

    kind: str
    url: str
    key: SecretStr
    model: str
    timeout: float
    too_long: str = "the request does not fit into the model's context"
    """What to do when a request is longer than the model takes."""

    def client(self) -> AsyncOpenAI:
        """A connection to it. Raises FramemeshError where no request can be made with these settings."""
        for name in _TALKATIVE:  # at DEBUG they write whole requests, transcripts and all
            logging.getLogger(name).setLevel(logging.WARNING)
        made = AsyncOpenAI(
            api_key=self._checked_key(),
            base_url=self.url,
            max_retries=0,  # the job's plan says when, and other jobs may go on meanwhile
            timeout=Timeout(self.timeout, connect=CONNECT_S),
        )
        # The client takes them from the environment, and they are none of another server's business.
        made.organization = made.project = None
        return made

    def _checked_key(self) -> str:
        key = self.key.get_secret_value()
        if not (key.isascii() and key.isprintable()):
            raise FramemeshError(
                f"setting {self.kind}_api_key: has characters that no HTTP header can carry: copy it again"
            )
        if not self.model:
            raise FramemeshError(
                f"setting {self.kind}_model: not set: name a model of the server at {self.kind}_base_url"
            )
        return key


def unset(base_url: str, key: SecretStr, kind: str) -> str:
    """Which of the two settings that a server needs are not set; empty when both are."""
    wanted = {f"{kind}_base_url": base_url, f"{kind}_api_key": key.get_secret_value()}
    missing = [name for name, value in wanted.items() if not value]
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set" if missing else ""
