"""What asyncio lacks in Python 3.11."""

from __future__ import annotations

import asyncio


def heed_cancellation() -> None:
    """Raise CancelledError where this task was cancelled and did not hear of it.

    ``asyncio.wait_for``, which the NATS client uses, swallows a cancellation that comes together with its result
    (gh-86296, mended in 3.12): a loop that goes on then would do so for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
