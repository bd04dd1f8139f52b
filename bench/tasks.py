"""The tasks that are measured: the same bodies, plain and guarded, in one application."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from celery_guardrails import Constant, GuardedTask, Policy

app = Celery("bench", broker=os.environ.get("BROKER_URL", "memory://"))
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
    guardrails={"environment": "bench", "dead_letter": {"queue": "bench.dead"}},
)


def body(x: int, y: int) -> int:
    return x + y


@app.task(name="bench.plain")
def plain(x: int, y: int) -> int:
    return body(x, y)


@app.task(name="bench.plain_late", acks_late=True)
def plain_late(x: int, y: int) -> int:
    return body(x, y)


@app.task(name="bench.guarded", base=GuardedTask)
def guarded(x: int, y: int) -> int:
    return body(x, y)


@app.task(name="bench.autoretry", autoretry_for=(ConnectionError,), max_retries=2, default_retry_delay=0)
def autoretry(x: int, y: int) -> Any:
    raise ConnectionError("down")


@app.task(
    name="bench.guarded_failing",
    base=GuardedTask,
    policy=Policy(max_attempts=3, backoff=Constant(0), jitter="none"),
)
def guarded_failing(x: int, y: int) -> Any:
    raise ConnectionError("down")
