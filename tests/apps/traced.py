"""Tasks of an application that has OpenTelemetry; the variable `TRACED` says in which processes."""

import functools
import json
import os
import time
from typing import Any

from celery import Celery
from opentelemetry import trace

from celery_guardrails import Constant, GuardedTask, Policy
from tests.apps import tracing
from tests.apps.ends import RUNS, end, ran

PREFIX = os.environ.get("GUARDED_PREFIX", "traced")

if os.environ.get("TRACED") == "yes":
    tracing.set_up()
elif os.environ.get("TRACED") == "raising":
    tracing.set_up_what_raises()

app = Celery("traced")
task = functools.partial(app.task, base=GuardedTask, shared=False)
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.tasks",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    worker_lost_wait=1.0,
    guardrails={
        "environment": "test",
        "dead_letter": {"queue": f"{PREFIX}.dead", "spool_dir": os.environ.get("GUARDED_RUNS", ".") + "/spool"},
        "store": {"url": os.environ.get("GUARDED_STORE", "sqlite:///traced.sqlite3")},
        **json.loads(os.environ.get("GUARDED_SETTINGS", "{}")),
    },
)

QUICK: dict[str, Any] = {"backoff": Constant("100ms"), "jitter": "none"}


@task(name="traced.flaky", bind=True, policy=Policy(max_attempts=5, **QUICK))
def flaky(self: Any, key: str, failures: int) -> None:
    """Fails so often."""
    if ran(key) < failures:
        raise ConnectionError("down")


@task(name="traced.by_hand", bind=True, policy=Policy(max_attempts=5, **QUICK))
def by_hand(self: Any, key: str, failures: int) -> None:
    """Retries by hand so often, from within a span of its own."""
    with trace.get_tracer("traced").start_as_current_span("inner"):
        if ran(key) < failures:
            raise self.retry(exc=ConnectionError("down"))


@task(name="traced.mail", policy=Policy(max_attempts=2, redact=("address",), **QUICK))
def mail(key: str, address: str = "") -> None:
    """Fails while the test says so."""
    ran(key)
    if (RUNS / f"{key}.broken").exists():
        raise ConnectionError(f"no way to {address}")


@task(name="traced.ends", bind=True, policy=Policy(max_attempts=2, max_crashes=3, **QUICK), time_limit=1)
def ends(self: Any, key: str, how: str) -> None:
    """Ends as its argument says, at its first run; the second is done."""
    if not ran(key):
        end(how)


@task(name="traced.held", policy=Policy(max_attempts=2, **QUICK))
def held(key: str) -> None:
    """Runs until the test says go."""
    ran(key)
    while not (RUNS / "go").exists():
        time.sleep(0.05)


@task(name="traced.held_early", policy=Policy(acks="early", **QUICK))
def held_early(key: str) -> None:
    """Runs until its worker is killed."""
    ran(key)
    time.sleep(60)


@task(name="traced.heard")
def heard(key: str = "heard") -> None:
    ran(key)
