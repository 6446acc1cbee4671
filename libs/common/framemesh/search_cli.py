"""``framemesh search``: looks for what was said and seen, from the terminal."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated

import typer

from framemesh.errors import FramemeshError
from framemesh.messages import (
    LONGEST_QUESTION,
    MOST_HITS,
    QUESTION_PATTERN,
    SearchHit,
    SearchKind,
    SearchReply,
    SearchRequest,
)
from framemesh.search import ASK_S, QUERY_S, request
from framemesh.subjects import SEARCH_ASK, SEARCH_QUERY
from framemesh.terminal import DataOption, clients, mesh_settings, out, run_until


def search(
    question: Annotated[str, typer.Argument(help="Words, a name, or a question.", show_default=False)],
    source: Annotated[str | None, typer.Option(help="Only of this camera or media source.")] = None,
    since: Annotated[float | None, typer.Option(min=0, help="Only of the last so many hours.")] = None,
    kind: Annotated[SearchKind | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_HITS, help="Most to show.")] = 10,
    ask: Annotated[
        bool, typer.Option("--ask", help="Answer from what is found, by the language model of the service.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    data: DataOption = None,
) -> None:
    """Look for what was said and seen: words and meaning, in transcripts, events and labels.

    It asks the search service, which `framemesh up --services ...,search` or `framemesh run search` starts. Events
    and labels come by themselves; transcripts come from media pipelines.

    Try: framemesh search "who spoke about bread prices", framemesh search "red car" --kind event --since 24
    """
    if not re.search(QUESTION_PATTERN, question) or len(question) > LONGEST_QUESTION:
        raise FramemeshError(f"QUESTION: want words to look for, {LONGEST_QUESTION} characters at most")
    begin = None if since is None else time.time() - since * 3600
    asked = SearchRequest(q=question, source=source, since=begin, kind=kind, limit=limit)
    reply = run_until(_asked(asked, ask, data))
    if reply.trouble:
        raise FramemeshError(reply.reason)
    if as_json:
        typer.echo(reply.model_dump_json())
    elif ask:
        out.print(_printable(reply.answer or "What was found does not tell."), markup=False)
        _show([(f"[{cited.number}]", cited) for cited in reply.citations])
    else:
        _show([(f"{hit.score:.2f}", hit) for hit in reply.hits])


async def _asked(asked: SearchRequest, ask: bool, data: Path | None) -> SearchReply:
    bus, registry = await clients(mesh_settings(data))
    try:
        subject, seconds = (SEARCH_ASK, ASK_S) if ask else (SEARCH_QUERY, QUERY_S)
        return await request(bus, subject, asked, seconds)
    finally:
        await registry.redis.aclose()
        await bus.close()


def _show(lines: list[tuple[str, SearchHit]]) -> None:
    for mark, hit in lines:
        about = f"{mark:>5}  {hit.kind:<10}  {hit.title or hit.source}  {_when(hit)}"
        out.print(_printable(f"{about}\n       {hit.snippet}"), markup=False)
    if not lines:
        out.print("Nothing was found.")


def _printable(text: str) -> str:
    """What others said, without what a terminal would obey."""
    return "".join(each if each.isprintable() or each == "\n" else " " for each in text)


def _when(hit: SearchHit) -> str:
    if hit.kind is SearchKind.TRANSCRIPT:
        minutes, seconds = divmod(int(hit.start), 60)
        return f"at {minutes}:{seconds:02}"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(hit.start))
