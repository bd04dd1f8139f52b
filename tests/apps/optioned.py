"""Tasks that say with Celery's own options how they are retried and acknowledged: guarded, adopted, and plain ones.

`GUARDED_SETTINGS` and `OPTIONED_CONF` are the guardrails settings and what is added to Celery's configuration.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any

from celery import Celery, Task

from celery_guardrails import GuardedTask, Policy
from tests.apps.guarded import ran

PREFIX = os.environ.get("GUARDED_PREFIX", "optioned")

app = Celery("optioned", task_cls=GuardedTask if os.environ.get("OPTIONED_TASK_CLS") else None)
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.tasks",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    guardrails={
        "dead_letter": {"queue": f"{PREFIX}.dead"},
        "store": {"url": os.environ.get("GUARDED_STORE", "sqlite:///guarded.sqlite3")},
        "guard": ["vendor.*"],
        **json.loads(os.environ.get("GUARDED_SETTINGS", "{}")),
    },
    **json.loads(os.environ.get("OPTIONED_CONF", "{}")),
)
task = functools.partial(app.task, shared=False)


class CardRefused(OSError):
    """What is not to be retried."""


def by_hand(self: Any, key: str, **asked: Any) -> None:
    ran(key, retries=self.request.retries, max_retries=self.max_retries, late=self.acks_late)
    raise self.retry(exc=OSError("blip"), **asked)


def fails(key: str, error: str) -> None:
    ran(key)
    raise {"refused": CardRefused, "os": OSError, "key": KeyError}[error]("no")


OPTIONS: dict[str, Any] = {"max_retries": 1, "default_retry_delay": 1}
AUTOMATIC: dict[str, Any] = {"autoretry_for": (OSError,), "dont_autoretry_for": (CardRefused,), **OPTIONS}

guarded = task(bind=True, base=GuardedTask, name="own.guarded", **OPTIONS)(by_hand)
seven = task(bind=True, base=GuardedTask, name="own.seven", max_retries=7)(by_hand)
bounded = task(bind=True, base=GuardedTask, name="own.bounded", policy=Policy(max_attempts=3), **OPTIONS)(by_hand)
plain = task(bind=True, base=Task, name="own.plain", **OPTIONS)(by_hand)
by_class = task(name="own.automatic", **AUTOMATIC)(fails)
adopted = task(base=Task, name="vendor.automatic", **AUTOMATIC)(fails)
adopted_by_hand = task(bind=True, base=Task, name="vendor.by_hand", **OPTIONS)(by_hand)


@task(base=GuardedTask, name="own.heard")
def heard(key: str = "heard") -> None:
    ran(key)
