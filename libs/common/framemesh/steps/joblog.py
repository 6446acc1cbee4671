"""What a step's logger says, kept with the job on ``joblogs.<id>.<step>``, some lines at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

from pydantic import Field

from framemesh import subjects
from framemesh.bus import Bus, BusError
from framemesh.messages import Message
from framemesh.steps.job import StepTask, place
from framemesh.steps.text import LONGEST_LINE, line

log = logging.getLogger(__name__)

FLUSH_S = 0.5
AT_ONCE = 32
"""Lines in one message, which has a MiB at most: JSON may write a byte as six."""
MOST_LINES = 1000
"""That wait to be kept; what comes faster is left out, and counted."""


class LogLine(Message):
    """One line."""

    time: float
    level: str
    text: str = Field(max_length=LONGEST_LINE)


class LogLines(Message):
    """Some lines of one try of a step (``joblogs.<id>.<step>``)."""

    job: str
    step: str
    item: int | None = None
    attempt: int
    lines: list[LogLine]


class JobLog(logging.Logger):
    """The logger that one try of a step is given. It collects lines itself: a handler costs more than a step."""

    def __init__(self, bus: Bus, task: StepTask) -> None:
        super().__init__(task.key, logging.INFO)
        self._bus, self._task = bus, task
        self._lines: deque[LogLine] = deque()
        self._left_out = 0

    def handle(self, record: logging.LogRecord) -> None:
        """Take one line. Any thread may log."""
        if len(self._lines) >= MOST_LINES:
            self._left_out += 1
            return
        self._lines.append(LogLine(time=record.created, level=record.levelname, text=line(record)))

    async def keep(self) -> None:
        """Send the lines on now and again, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush_lines()

    async def flush_lines(self) -> None:
        """Send on what there is."""
        if self._left_out:
            text = f"{self._left_out} lines left out: they came too fast"
            self._lines.append(LogLine(time=time.time(), level="WARNING", text=text))
            self._left_out = 0
        while self._lines:
            await self._send([self._lines.popleft() for _ in range(min(AT_ONCE, len(self._lines)))])

    async def _send(self, lines: list[LogLine]) -> None:
        task = self._task
        message = LogLines(job=task.job, step=task.step, item=task.item, attempt=task.attempt, lines=lines)
        subject = subjects.job_log(task.job, place(task.step, task.item))
        try:
            await self._bus.publish_raw(subject, message.model_dump_json().encode(), {}, patience=5)
        except BusError as error:
            log.warning("%s: %d lines of its log are lost: %s", task.key, len(lines), error)
