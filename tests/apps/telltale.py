"""The application whose tasks are given secrets of every kind, and tell them in every way that a task can."""

import functools
import json
import os
import sys
import time
from typing import Any

from celery import Celery

from celery_guardrails import Constant, GuardedTask, PermanentError, Policy, TransientError
from tests.secret import PRIVATE

PREFIX = os.environ.get("GUARDED_PREFIX", "telltale")
SEPARATOR = "\x1e"
"""Begins each record of a process's log, before its logger's name."""

app = Celery("telltale")
task = functools.partial(app.task, shared=False)
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.tasks",
    broker_connection_retry_on_startup=True,
    accept_content=["json", "pickle"],
    beat_schedule={"nightly": {"task": "telltale.fail", "schedule": 86_400}},
    worker_log_format=f"{SEPARATOR}%(name)s: %(message)s",
    worker_task_log_format=f"{SEPARATOR}%(name)s: %(message)s",
    guardrails={
        "environment": "test",
        "dead_letter": {"queue": f"{PREFIX}.dead"},
        "store": {"url": os.environ.get("GUARDED_STORE", "sqlite:///guarded.sqlite3")},
        "redact_patterns": [r"needlePattern\d+"],
        **json.loads(os.environ.get("GUARDED_SETTINGS", "{}")),
    },
)

if os.environ.get("SENTRY_DSN"):
    import sentry_sdk

    sentry_sdk.init(
        dsn=os.environ["SENTRY_DSN"], default_integrations=True, traces_sample_rate=0.0, send_default_pii=True
    )

if os.environ.get("TRACED"):
    from tests.apps import tracing

    tracing.set_up()

SHOWN: dict[str, Any] = {
    "affected_by": ("customer", "secret.value", "password"),
    "correlate": ("order_id", "note", "account.number"),
    "redact": ("address", "account"),
    "runbook": f"https://ops:{PRIVATE['runbook']}@wiki.example/telltale",
    "owner": "growth",
}


@task(base=GuardedTask, name="telltale.fail", policy=Policy(max_attempts=1, **SHOWN))
def fail(
    order_id: int,
    password: str = "",
    customer: Any = None,
    note: str = "",
    said: str = "",
    address: str = "",
    secret: Any = None,
    account: Any = None,
) -> None:
    try:
        raise KeyError(said)
    except KeyError as exc:
        raise ValueError(said) from exc


@task(
    base=GuardedTask,
    name="telltale.again",
    policy=Policy(max_attempts=2, backoff=Constant("100ms"), jitter="none", **SHOWN),
)
def again(order_id: int, said: str = "") -> None:
    raise TransientError(said)


@task(base=GuardedTask, name="telltale.wait", policy=Policy(deadline="24h", backoff=Constant("1h"), **SHOWN))
def wait(order_id: int, said: str = "", password: str = "") -> None:
    raise TransientError(said)


@task(base=GuardedTask, name="telltale.park", policy=Policy(max_attempts=1, on_exhausted="park", **SHOWN))
def park(order_id: int, said: str = "", password: str = "") -> None:
    raise PermanentError(said)


@task(base=GuardedTask, name="telltale.leave", policy=Policy(max_attempts=1, **SHOWN))
def leave(order_id: int, said: str = "") -> None:
    sys.exit(said)


@task(base=GuardedTask, name="telltale.stuck", time_limit=1, policy=Policy(max_attempts=1, **SHOWN))
def stuck(order_id: int, password: str = "", customer: Any = None) -> None:
    time.sleep(60)


@task(base=GuardedTask, name="telltale.unstorable", policy=Policy(max_attempts=1, **SHOWN))
def unstorable(order_id: int, said: str = "") -> Any:
    class Local:
        def __repr__(self) -> str:
            return said

    return Local()
