"""Tickets: addresses that a player can open by itself, for one medium and some hours.

A ticket is part of the path, so that what a playlist names lies under it as well. It is signed with the hash of
the token that asked for it, which nobody but the gateways and the token's holder know: no secret is kept for it,
and it is good no more when the token is not.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from dataclasses import replace

from framemesh.database.tokens import TokenTable
from framemesh.tokens import Scope, Token

TICKET_PATTERN = r"^[A-Za-z0-9_-]{1,64}\.[0-9]{1,12}\.[A-Za-z0-9_-]{43}$"


async def make(tokens: TokenTable, token: Token, media: str, seconds: float) -> tuple[str, float]:
    """A ticket, and when it ends, seconds since the epoch; not later than the token."""
    found = await tokens.named(token.name)
    if found is None:
        raise LookupError(token.name)
    expires = int(min(time.time() + seconds, token.expires or float("inf")))
    return f"{token.name}.{expires}.{_signature(found[1], token.name, media, expires)}", float(expires)


async def admitted(tokens: TokenTable, ticket: str, media: str) -> Token | None:
    """Whose ticket it is, to look only; None for one that is not good for this medium (any more)."""
    if not re.fullmatch(TICKET_PATTERN.strip("^$"), ticket):
        return None
    name, expires, signature = ticket.split(".")
    found = await tokens.named(name)
    if found is None or int(expires) < time.time():
        return None
    token, known_hash = found
    if not hmac.compare_digest(signature, _signature(known_hash, name, media, int(expires))):
        return None
    return replace(token, scope=Scope.VIEWER if token.scope is not Scope.ADMIN else Scope.ADMIN)


def _signature(secret: str, name: str, media: str, expires: int) -> str:
    signed = hmac.digest(secret.encode(), f"{name}\n{media}\n{expires}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(signed).decode().rstrip("=")
