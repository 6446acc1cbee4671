"""The same for Celery: ``celery -A benchmarks.celery_noop worker``."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

app = Celery("noop", broker=os.environ.get("CELERY_REDIS", ""), backend=os.environ.get("CELERY_REDIS", ""))
app.conf.update(task_acks_late=True, broker_connection_retry_on_startup=True)


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop(given: Any) -> Any:
    """Gives back what it is given."""
    return given
