"""An application whose RabbitMQ user may declare nothing: its queue is declared by an administrator."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from celery_guardrails import Constant, GuardedTask, Policy

RUNS = Path(os.environ.get("LIMITED_RUNS", "."))

app = Celery("limited", set_as_current=False)
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue="work",
    task_queues=[Queue("work", routing_key="work")]
    if "LIMITED_DECLARES" in os.environ
    else [Queue("work", Exchange("work", no_declare=True), routing_key="work", no_declare=True)],
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    guardrails={
        "dead_letter": {"queue": "limited.dead", "spool_dir": str(RUNS / "spool"), "publish_timeout": "20s"},
        "store": {"url": f"sqlite:///{RUNS / 'archive.sqlite3'}"},
        **json.loads(os.environ.get("LIMITED_SETTINGS", "{}")),
    },
)


def ran(key: str) -> int:
    """Note a run of `key`, and return how many there were before it."""
    path = RUNS / key
    before = len(path.read_text().splitlines()) if path.exists() else 0
    with path.open("a") as log:
        log.write(f"{time.time()}\n")
    return before


@app.task(
    shared=False, base=GuardedTask, name="limited.work",
    policy=Policy(max_attempts=3, backoff=Constant("1s"), jitter="none"),
)  # fmt: skip
def work(key: str, failures: int = 0) -> Any:
    if ran(key) < failures:
        raise ConnectionError("down")
    return key
