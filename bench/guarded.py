"""The same bodies under guard."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from celery import Celery

from bench.plain import body
from celery_guardrails import Constant, GuardedTask, Idempotency, Policy

QUEUE = "bench.dead"

app = Celery("bench-guarded", broker=os.environ.get("GUARDED_URL", "memory://"), set_as_current=False)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
    guardrails={
        "environment": "bench",
        "idempotency": {"url": os.environ.get("GUARDED_LEDGER") or None},
        "dead_letter": {
            "queue": QUEUE,
            "spool_dir": os.path.join(tempfile.gettempdir(), "guardrails-bench.spool"),
            "journal": os.environ.get("GUARDED_JOURNAL", "on") == "on",
        },
    },
)


@app.task(name="bench.works", shared=False, base=GuardedTask)
def works(x: int, y: int) -> int:
    return body(x, y)


@app.task(name="bench.works_early", shared=False, base=GuardedTask, policy=Policy(acks="early"))
def works_early(x: int, y: int) -> int:
    return body(x, y)


@app.task(
    name="bench.works_once",
    shared=False,
    base=GuardedTask,
    policy=Policy(idempotency=Idempotency(key=("x", "y"))),
)
def works_once(x: int, y: int) -> int:
    return body(x, y)


@app.task(
    name="bench.retries",
    shared=False,
    base=GuardedTask,
    policy=Policy(max_attempts=3, backoff=Constant(0), jitter="none"),
)
def retries(x: int, y: int) -> Any:
    raise ConnectionError("down")


@app.task(name="bench.fails", shared=False, base=GuardedTask)
def fails(x: int, y: int) -> Any:
    raise ValueError("wrong")
