"""Schedules that there are from the first start on. What a user changes or removes stays so."""

from __future__ import annotations

import logging

from framemesh.bus import Bus
from framemesh.database.marks import Marks
from framemesh.images import task_plan
from framemesh.steps.schedules import Schedule, Schedules

log = logging.getLogger(__name__)

OWNER = "images"
TIMES = {
    "images-cleanup": ("cleanup_orphaned_files", "0 0 * * *"),
    "images-statistics": ("update_collection_stats", "0 * * * *"),
    "images-optimize": ("optimize_images", "0 6 * * *"),
}
"""By the schedule's name: what is done, and when (UTC)."""


async def make_schedules(bus: Bus, marks: Marks) -> None:
    """Make those that have never been made. Raises FramemeshError."""
    schedules = Schedules(bus)
    for name, (function, cron) in TIMES.items():
        mark = f"schedule/{name}"
        if await marks.get(mark):
            continue
        if await schedules.add(Schedule(name=name, cron=cron, plan=task_plan(function), owner=OWNER)):
            log.info("schedule %s: %s at %s UTC", name, function, cron)
        await marks.put(mark, "made")
