"""An application whose tasks are delayed: by `countdown`, by `eta` and by retries, through all kinds of queues."""

from __future__ import annotations

import functools
import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from celery_guardrails import Constant, GuardedTask, Policy

PREFIX = os.environ.get("DELAYS_PREFIX", "delays")
RUNS = Path(os.environ.get("DELAYS_RUNS", "."))
EVENTS = Exchange(f"{PREFIX}.events", "topic")
KIND = {"x-queue-type": os.environ["DELAYS_KIND"]} if os.environ.get("DELAYS_KIND") else None
# quorum queues have no priorities on RabbitMQ 3
RANKED = [Queue(f"{PREFIX}.ranked", routing_key=f"{PREFIX}.ranked", max_priority=9)]
if os.environ.get("DELAYS_KIND") == "quorum":
    RANKED = []

app = Celery("delays", set_as_current=False)
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.mail",
    task_queues=[
        Queue(f"{PREFIX}.mail", routing_key=f"{PREFIX}.mail", queue_arguments=KIND),
        Queue(f"billing.{PREFIX}.mail", routing_key=f"billing.{PREFIX}.mail", queue_arguments=KIND),
        Queue(f"{PREFIX}.topic", EVENTS, routing_key="mail.#", queue_arguments=KIND),
        Queue(f"{PREFIX}.audit", EVENTS, routing_key="mail.sent", queue_arguments=KIND),
        *RANKED,
    ],
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    task_send_sent_event=True,
    guardrails={"dead_letter": {"queue": f"{PREFIX}.dead", "spool_dir": os.environ.get("DELAYS_SPOOL", "spool")}},
    **json.loads(os.environ.get("DELAYS_SETTINGS", "{}")),
)
task = functools.partial(app.task, shared=False, base=GuardedTask, bind=True)


def ran(self: Any, key: str, **facts: Any) -> int:
    """Note a run of `key`, and return how many there were before it."""
    path = RUNS / key
    before = len(path.read_text().splitlines()) if path.exists() else 0
    request = self.request
    info = request.delivery_info or {}
    route = {"exchange": info.get("exchange"), "key": info.get("routing_key"), "priority": info.get("priority")}
    noted = {"at": time.time(), "retries": request.retries, "eta": request.eta, "headers": request.headers}
    with path.open("a") as log:
        log.write(json.dumps({**noted, **route, "worker": request.hostname, **facts}, default=str) + "\n")
    return before


@task(name="delays.note")
def note(self: Any, key: str, *more: Any, **named: Any) -> str:
    ran(self, key, more=more, named=named)
    return key


@task(name="delays.failing", policy=Policy(max_attempts=3, backoff=Constant("1s"), jitter="none"))
def failing(self: Any, key: str) -> None:
    ran(self, key)
    raise ConnectionError("down")


@task(name="delays.changing", policy=Policy(max_attempts=3, backoff=Constant("1s"), jitter="none"))
def changing(self: Any, key: str, step: int = 0) -> int:
    ran(self, key, step=step)
    if step < 2:
        raise self.retry(args=(key, step + 1), kwargs={}, countdown=1)
    return step


@task(name="delays.dropped", policy=Policy(on_expired="drop"))
def dropped(self: Any, key: str) -> None:
    ran(self, key)


@app.task(shared=False, bind=True, name="delays.plain")
def plain(self: Any, key: str) -> None:
    ran(self, key)


@task(name="delays.later", policy=Policy(max_attempts=2, backoff=Constant("12s"), jitter="none"))
def later(self: Any, key: str) -> None:
    if not ran(self, key):
        raise ConnectionError("down")
