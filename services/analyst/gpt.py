"""The step ``gpt-analysis``: what was said and how well, by a language model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from framemesh.blobs import BlobMissing
from framemesh.errors import FramemeshError
from framemesh.llm import reading
from framemesh.llm.chat import Chat, Turn
from framemesh.llm.reading import explain
from framemesh.llm.tokens import estimate
from framemesh.llm.usage import total
from framemesh.memo import Memo
from framemesh.steps.context import Context
from framemesh.steps.functions import Skip
from services.analyst import answer, transcript
from services.analyst.answer import QUALITIES, Answer
from services.analyst.prompts import PROMPTS
from services.analyst.quotes import Spoken
from services.analyst.settings import AnalystSettings
from services.analyst.transcript import Segment, Transcript

OUTPUT_VERSION = 1
_LONGEST_METADATA = 2000
_MOST_KEPT = 512
_EXPECTED_CHARS = 3000
"""Of an answer: only for the progress."""


class Given(BaseModel):
    """The step's input."""

    model_config = ConfigDict(extra="ignore")

    transcript: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None


Read = reading.Read[Answer]


class GptAnalysis:
    """Asks the language model that the settings name."""

    def __init__(self, settings: AnalystSettings) -> None:
        self._settings = settings
        self._chat = None if settings.unset else Chat(settings.server, settings.gpt_max_tokens, PROMPTS)
        self._memo: Memo[Read] = Memo(_MOST_KEPT)

    async def close(self) -> None:
        """Close the connections."""
        if self._chat:
            await self._chat.close()

    async def analyse(self, ctx: Context, given: Any) -> dict[str, Any]:
        """Summary, topics, sentiment and quality of what was said, with reasons, quotes, tokens and cost."""
        if self._chat is None:
            raise Skip(self._settings.unset)
        asked = _input(given)
        spoken = await _transcript(ctx, asked)
        most = self._settings.gpt_chunk_tokens
        cut = transcript.parts(spoken.segments, most)
        if not cut:
            raise Skip("nothing was said: the transcript has no words")
        run = _Run(ctx, self._chat, self._memo, _About.of(spoken, asked), most)
        last = await run.whole(cut)
        await ctx.progress(100, "analysed")
        ctx.log.info("%s analysed %d segments in %d parts", last.said.model, len(spoken.segments), len(cut))
        return self._output(last, run.reads, spoken, len(cut))

    def _output(self, last: Read, reads: Sequence[Read], spoken: Transcript, count: int) -> dict[str, Any]:
        settings = self._settings
        usage = total(each.said.usage for each in reads)
        cost = usage.cost(settings.gpt_price_input, settings.gpt_price_output)
        missing = {"cost": "gpt_price_input and gpt_price_output are not set"} if cost is None else {}
        return {
            "version": OUTPUT_VERSION,
            **_findings(last.answer, Spoken(spoken.segments)),
            "language": spoken.language or None,
            "parts": count,
            "model": last.said.model[:200],
            "form": last.said.form.value,
            "repairs": sum(each.repairs for each in reads),
            "prompt": PROMPTS.version(),
            "usage": usage.told(),
            "cost": cost,
            "prices": {"input": settings.gpt_price_input, "output": settings.gpt_price_output},
            "missing": missing,
        }


@dataclass(frozen=True)
class _About:
    """What every prompt says of the recording."""

    language: str
    metadata: str

    @classmethod
    def of(cls, spoken: Transcript, given: Given) -> _About:
        metadata = json.dumps(given.metadata or {}, ensure_ascii=False, sort_keys=True, default=str)
        return cls(spoken.language or "not known", metadata[:_LONGEST_METADATA])


@dataclass
class _Run:
    """One analysis: the questions that it needs, one after the other."""

    ctx: Context
    chat: Chat
    memo: Memo[Read]
    about: _About
    most: int
    expected: int = 1
    reads: list[Read] = field(default_factory=list)

    async def whole(self, cut: Sequence[Sequence[Segment]]) -> Read:
        """The answer about the whole; all others that it took are in ``reads``, with their tokens."""
        if len(cut) == 1:
            return await self._ask("analysis", "analysing", transcript=_lines(cut[0]))
        self.expected = len(cut) + 1
        layer = [
            await self._ask(
                "part", f"part {number} of {len(cut)}", transcript=_lines(part), number=number, count=len(cut)
            )
            for number, part in enumerate(cut, 1)
        ]
        while len(layer) > 1:
            layer = [await self._merge(group) for group in _groups(layer, self.most)]
        return layer[0]

    async def _merge(self, group: Sequence[Read]) -> Read:
        if len(group) == 1:
            return group[0]
        analyses = "\n".join(_json(each) for each in group)
        return await self._ask(
            "merge", f"putting {len(group)} parts together", analyses=analyses, count=len(group)
        )

    async def _ask(self, prompt: str, doing: str, **values: object) -> Read:
        filled = PROMPTS.fill(prompt, language=self.about.language, metadata=self.about.metadata, **values)
        turns: list[Turn] = [
            {"role": "system", "content": PROMPTS.text("system")},
            {"role": "user", "content": filled},
        ]
        # By the step's key: another job pays for itself, so that the cost of each is true.
        key = hashlib.sha256(f"{self.ctx.key}\n{filled}".encode()).hexdigest()
        read = self.memo.get(key)
        if read is None:
            read = await self._valid(turns, doing)
            self.memo.keep(key, read)
        self.reads.append(read)
        return read

    async def _valid(self, turns: list[Turn], doing: str) -> Read:
        """An answer that fits, also after one request to mend it. Raises StepFailed."""

        async def heard(length: int) -> None:
            share = len(self.reads) + min(0.95, length / _EXPECTED_CHARS)
            await self.ctx.progress(min(99.0, 100 * share / self.expected), doing)

        def warn(problem: str) -> None:
            self.ctx.log.warning("the answer does not fit, asking once more: %s", problem)

        await heard(0)
        return await reading.ask(self.chat, turns, answer.schema(), heard, answer.parse, PROMPTS, warn)


def _lines(segments: Sequence[Segment]) -> str:
    return "\n".join(segment.line for segment in segments)


def _json(read: Read) -> str:
    return read.answer.model_dump_json()


def _groups(layer: Sequence[Read], most: int) -> list[list[Read]]:
    """Answers in order, as many together as ``most`` tokens hold, but two at least: so they become fewer."""
    groups: list[list[Read]] = []
    size = 0
    for read in layer:
        tokens = estimate(_json(read))
        if not groups or (len(groups[-1]) > 1 and size + tokens > most):
            groups.append([])
            size = 0
        groups[-1].append(read)
        size += tokens
    return groups


def _input(given: Any) -> Given:
    try:
        return Given.model_validate(given)
    except ValidationError as error:
        raise FramemeshError(f"input of gpt-analysis: {explain(error)}") from None


async def _transcript(ctx: Context, given: Given) -> Transcript:
    """The transcript of the blob; the text, where there is none."""
    found = Transcript()
    if given.transcript:
        await ctx.progress(0, "reading the transcript")
        try:
            found = transcript.parse(await ctx.get(given.transcript))
        except BlobMissing as error:
            raise FramemeshError(f"input transcript: {error}: run the step transcribing again") from None
    if not any(segment.text.strip() for segment in found.segments) and given.text:
        found = found.model_copy(update={"segments": [Segment(text=given.text)]})
    return found


def _findings(found: Answer, spoken: Spoken) -> dict[str, Any]:
    """The answer for the output: of its quotes only those that were really said."""
    dropped = 0
    quality = []
    for name in QUALITIES:
        item = getattr(found.quality, name)
        quotes = [{"text": text, "start": spoken.find(text)} for text in item.quotes]
        kept = [quote for quote in quotes if quote["start"] is not None]
        dropped += len(quotes) - len(kept)
        quality.append({"name": name, "score": item.score, "reason": item.reason, "quotes": kept})
    return {
        "summary": found.summary,
        "topics": found.topics,
        "sentiment": found.sentiment.model_dump(),
        "quality": quality,
        "strengths": found.strengths,
        "improvements": found.improvements,
        "dropped_quotes": dropped,
    }
