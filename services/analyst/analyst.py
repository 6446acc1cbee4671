"""The analyst's service."""

from __future__ import annotations

import logging

from framemesh.bus import Bus
from framemesh.registry import Registry
from framemesh.steps.functions import Function, functions_of
from framemesh.steps.worker import StepWorker
from services.analyst.gpt import GptAnalysis
from services.analyst.settings import AnalystSettings

log = logging.getLogger(__name__)

GPT_TIMEOUT = 1800.0


class Analyst(StepWorker[AnalystSettings]):
    """Does ``gpt-analysis``, ``calculating-score`` and ``saving-results``."""

    kind = "Analyst"
    settings_type = AnalystSettings

    def __init__(self, settings: AnalystSettings, bus: Bus, registry: Registry) -> None:
        super().__init__(settings, bus, registry)
        self._gpt = GptAnalysis(settings)
        description = "Summary, topics, sentiment and quality of what was said, by a language model."
        self.functions = (
            Function("gpt-analysis", self._gpt.analyse, GPT_TIMEOUT, description=description),
            *functions_of("services.analyst.scoring"),
            *functions_of("services.analyst.report"),
        )

    async def prepare(self) -> None:
        """Say what is not set, and which functions there are."""
        if reason := self.settings.unset:
            log.info("%s; gpt-analysis will be skipped", reason)
        await super().prepare()

    async def finish(self) -> None:
        """Close the connections."""
        await self._gpt.close()
        await super().finish()
