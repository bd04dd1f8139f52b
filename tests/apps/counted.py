"""Tasks that end in each way that is counted, in an application whose log of attempts is JSON, one object a line.

What tasks did is noted as in `tests/apps/guarded.py`; the log is the file `attempts.json` there.
"""

import functools
import json
import logging
import os
import signal
import time
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

from celery_guardrails import Constant, GuardedTask, Policy
from tests.apps.ends import RUNS, ran

PREFIX = os.environ.get("GUARDED_PREFIX", "counted")

app = Celery("counted")
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.tasks",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    worker_lost_wait=1.0,
    guardrails={
        "environment": "test",
        "dead_letter": {"queue": f"{PREFIX}.dead", "spool_dir": str(RUNS / "spool")},
        **json.loads(os.environ.get("GUARDED_SETTINGS", "{}")),
    },
)

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JSONLines(logging.Formatter):
    """As JSON formatters do: the fields that a call has added to its record. It can show nothing but JSON's types."""

    def format(self, record: logging.LogRecord) -> str:
        added = {name: value for name, value in vars(record).items() if name not in _USUAL}
        return json.dumps({"level": record.levelname, "message": record.getMessage(), "pid": os.getpid(), **added})


def _log_attempts() -> None:
    handler = logging.FileHandler(RUNS / "attempts.json", delay=True)
    handler.setFormatter(JSONLines())
    attempts = logging.getLogger("celery_guardrails.attempt")
    attempts.handlers = [handler]
    attempts.setLevel(logging.INFO)


if os.environ.get("LOG_ATTEMPTS"):
    _log_attempts()

task = functools.partial(app.task, base=GuardedTask, shared=False)
QUICK: dict[str, Any] = {"backoff": Constant("100ms"), "jitter": "none"}


@task(name="counted.add")
def add(x: int, y: int) -> int:
    return x + y


@task(name="counted.flaky", policy=Policy(max_attempts=3, correlate=("key", "msg"), redact=("secret",), **QUICK))
def flaky(key: str, failures: int, secret: str = "", msg: str = "") -> None:
    """Fails so often; the third failure is its death."""
    if ran(key) < failures:
        raise ConnectionError(f"the error of {key}, which holds {secret}")


@task(name="counted.by_hand", bind=True, policy=Policy(max_attempts=2, **QUICK))
def by_hand(self: Any, key: str) -> None:
    if not ran(key):
        raise self.retry(exc=TimeoutError("once more"))


@task(name="counted.expected", throws=(LookupError,))
def expected() -> None:
    raise KeyError("expected")


@task(name="counted.parked", policy=Policy(max_attempts=1, on_exhausted="park", **QUICK))
def parked() -> None:
    raise ValueError("parked")


@task(name="counted.signals", bind=True)
def signals(self: Any, kind: str) -> None:
    if kind == "replace":
        raise self.replace(add.s(20, 3))
    raise Ignore() if kind == "ignore" else Reject("no", requeue=False)


@task(name="counted.killed", policy=Policy(max_attempts=3, max_crashes=2, **QUICK))
def killed(key: str) -> None:
    """Kills the process that runs it, each time."""
    ran(key)
    os.kill(os.getpid(), signal.SIGKILL)


@task(name="counted.too_slow", policy=Policy(max_attempts=1, **QUICK), time_limit=1)
def too_slow() -> None:
    time.sleep(60)


@task(name="counted.early", policy=Policy(max_attempts=2, acks="early", **QUICK))
def early(key: str, failures: int) -> None:
    if ran(key) < failures:
        raise ConnectionError(key)


@app.task(name="counted.plain", shared=False)
def plain() -> None:
    """Not under guard."""
