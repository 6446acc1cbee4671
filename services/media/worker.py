"""The media service."""

from __future__ import annotations

from framemesh.steps.functions import functions_of
from framemesh.steps.worker import StepWorker
from services.media.settings import MediaSettings


class Media(StepWorker[MediaSettings]):
    """Fetches videos, and takes the sound out of them."""

    kind = "Media"
    settings_type = MediaSettings
    functions = tuple(functions_of("services.media.functions"))
