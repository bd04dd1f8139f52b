"""A plain application for tests of the harness itself: its tasks say in which process they ran."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("plain", broker=os.environ["BROKER_URL"], backend=os.environ.get("RESULT_BACKEND"))


@app.task(name="plain.pid")
def pid() -> int:
    """The pid of the process that runs tasks; imports a part of the package there, and only there."""
    from celery_guardrails.clock import parse_duration

    parse_duration("5m")
    return os.getpid()
