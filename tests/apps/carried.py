"""Tasks that `map`, `starmap` and `chunks` run for many items. Each item's run is noted below `GUARDED_RUNS`."""

import functools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Reject

from celery_guardrails import Constant, GuardedTask, Policy
from tests.apps.ends import ran

PREFIX = os.environ.get("GUARDED_PREFIX", "guarded")
RUNS = Path(os.environ.get("GUARDED_RUNS", "."))
QUICK: dict[str, Any] = {"backoff": Constant("100ms"), "jitter": "none"}

app = Celery("carried")
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.tasks",
    broker_connection_retry_on_startup=True,
    guardrails={
        "dead_letter": {"queue": f"{PREFIX}.dead"},
        "store": {"url": os.environ.get("GUARDED_STORE", "sqlite:///guarded.sqlite3")},
        "guard": ["adopted.*"],
        "policies": {"adopted.*": {"max_attempts": 2, **QUICK}},
        **json.loads(os.environ.get("GUARDED_SETTINGS", "{}")),
    },
)
task: Any = functools.partial(app.task, shared=False)
CHARGED = Policy(retry_on=(ConnectionError,), max_attempts=3, affected_by=("customer",), redact=("note",), **QUICK)


@task(base=GuardedTask, name="shop.charge", policy=CHARGED)
def charge(key: str, customer: int, note: str = "") -> int:
    ran(key, customer=customer)
    if (RUNS / f"{key}.broken").exists() and customer == 2:
        raise ConnectionError("provider is away")
    return customer


@task(base=GuardedTask, name="shop.end", policy=Policy(max_crashes=1, acks="late"))
def end(key: str, how: str) -> None:
    ran(key)
    if how == "hang":
        time.sleep(60)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "reject":
        raise Reject("not for me", requeue=False)


@task(base=GuardedTask, name="shop.again", bind=True, policy=Policy(max_attempts=3, **QUICK))
def again(self: Any, key: str) -> int:
    if ran(key) < 2:
        raise self.retry(exc=ValueError("asked for by hand"))
    return ran(key)


@task(name="adopted.fail")
def fail(key: str) -> None:
    ran(key)
    raise ConnectionError("away")


@task(name="plain.fail")
def plain(key: str) -> None:
    ran(key)
    raise ConnectionError("away")


@task(base=GuardedTask, name="heard")
def heard(key: str) -> None:
    ran(key)
