"""``transcribing``: what is said in a whole sound, as a step of a job."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from framemesh import mediafile
from framemesh.audio import Cut, Samples, Windower
from framemesh.settings import load
from framemesh.steps.context import Context
from framemesh.steps.files import named_file
from framemesh.steps.functions import step
from services.transcribe.engine import Engine
from services.transcribe.transcript import Transcript
from services.transcribe.worker import TranscribeSettings, engine_of

LONGEST_S = 6 * 3600.0
PIECE_S = 30.0
"""What Whisper hears at once; a piece ends in a pause of its latter part."""
OVERLAP_S = 1.5


def _listening() -> dict[str, Any]:
    """What is heard depends on the model, and on what it is told."""
    settings = load(TranscribeSettings).model_dump()
    return {name: value for name, value in settings.items() if name.startswith("transcribe_")}


@step("transcribing", timeout=LONGEST_S, process=True, depends=_listening)
async def transcribing(ctx: Context, given: Any) -> Any:
    """Write down what is said in ``audio``, the address of a stored sound of any length.

    Gives a summary, and in ``transcript`` the address of all segments and words.
    """
    audio = await named_file(ctx, given, "audio")
    of = mediafile.seconds(audio) or 0.0
    await ctx.progress(0, "loading the model")
    engine = _engine()
    transcript = Transcript(engine.transcribe)
    for piece in pieces(mediafile.sound(audio)):
        transcript.add(piece)
        share = min(1.0, transcript.seconds / max(of, transcript.seconds, 1e-3))
        await ctx.progress(99 * share, f"{transcript.seconds:.0f} of {max(of, transcript.seconds):.0f} s")
    model = {"model": engine.name, "model_sha256": engine.sha256}
    kept = await ctx.put(json.dumps(transcript.whole() | model, ensure_ascii=False).encode(), "transcript.json")
    return transcript.summary() | model | {"transcript": kept}


@cache
def _engine() -> Engine:
    """The model of this process, which its next sound needs, too."""
    return engine_of(load(TranscribeSettings))


def pieces(sound: Iterable[Samples]) -> Iterator[Cut]:
    """The sound cut at silence, one piece in memory at a time."""
    windower = Windower(PIECE_S, OVERLAP_S)
    for samples in sound:
        yield from windower.add(samples)
    yield from windower.finish()
