"""An application whose messages travel in unusual ways: compressed, pickled, with priorities, by a topic exchange."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from celery_guardrails import Constant, GuardedTask, Policy

PREFIX = os.environ.get("COURIER_PREFIX", "courier")
EVENTS = Exchange(f"{PREFIX}.events", "topic")

app = Celery("courier", broker=os.environ.get("BROKER_URL", "memory://"), set_as_current=False)
app.conf.update(
    task_ignore_result=True,
    task_default_queue=f"{PREFIX}.default",
    task_queues=[
        Queue(f"{PREFIX}.default", routing_key=f"{PREFIX}.default"),
        Queue(f"{PREFIX}.mail", EVENTS, routing_key="mail.#", max_priority=9),
        Queue(f"{PREFIX}.orders", EVENTS, routing_key="order.*"),
    ],
    accept_content=["json", "pickle"],
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    guardrails={"dead_letter": {"queue": f"{PREFIX}.dead"}},
    **json.loads(os.environ.get("COURIER_SETTINGS", "{}")),
)


@functools.partial(app.task, shared=False)(
    base=GuardedTask, name="courier.deliver", bind=True,
    policy=Policy(max_attempts=2, backoff=Constant("50ms"), jitter="none"),
)  # fmt: skip
def deliver(self: Any, key: str, what: Any = None) -> None:
    folder = Path(os.environ["COURIER_RUNS"])
    with (folder / key).open("a") as log:
        info = self.request.delivery_info
        log.write(json.dumps({"what": repr(what), "priority": info.get("priority"), "key": info["routing_key"]}) + "\n")
    if not (folder / "repaired").exists():
        raise ConnectionError("down")
