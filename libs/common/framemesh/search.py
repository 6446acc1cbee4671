"""Asks the search service: for the gateway and the command line."""

from __future__ import annotations

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from pydantic import ValidationError

from framemesh.bus import Bus
from framemesh.errors import FramemeshError
from framemesh.messages import SearchReply, SearchRequest

QUERY_S = 10.0
ASK_S = 150.0
"""Seconds that are waited for a language model: longer than the search service itself waits."""


class NoSearch(FramemeshError):
    """No search service answers."""


async def request(bus: Bus, subject: str, asked: SearchRequest, seconds: float) -> SearchReply:
    """The reply. Raises NoSearch."""
    try:
        message = await bus.client.request(subject, asked.model_dump_json().encode(), timeout=seconds)
    except NoRespondersError:
        raise NoSearch("no search service answers: start one with `framemesh run search`") from None
    except (TimeoutError, NatsError) as error:
        raise NoSearch(f"the search service did not answer within {seconds:g} s: try again later") from error
    try:
        return SearchReply.model_validate_json(message.data)
    except ValidationError as error:
        raise NoSearch("the search service speaks another version: run the same everywhere") from error
