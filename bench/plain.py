"""What plain Celery runs: an application that has never heard of guardrails."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

app = Celery("bench-plain", broker=os.environ.get("PLAIN_URL", "memory://"), set_as_current=False)
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True)


def body(x: int, y: int) -> int:
    return x + y


@app.task(name="bench.works", shared=False)
def works(x: int, y: int) -> int:
    return body(x, y)


@app.task(name="bench.works_late", shared=False, acks_late=True)
def works_late(x: int, y: int) -> int:
    return body(x, y)


@app.task(name="bench.retries", shared=False, autoretry_for=(ConnectionError,), max_retries=2, default_retry_delay=0)
def retries(x: int, y: int) -> Any:
    raise ConnectionError("down")


@app.task(name="bench.fails", shared=False)
def fails(x: int, y: int) -> Any:
    raise ValueError("wrong")
