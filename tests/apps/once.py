"""An application whose work takes effect once. What each run does is noted in `runs/`."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

from celery_guardrails import Constant, GuardedTask, Idempotency, Policy

PREFIX = os.environ.get("GUARDED_PREFIX", "once")
RUNS = Path(os.environ.get("GUARDED_RUNS", "runs"))

app = Celery("once")
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND") or None,
    task_default_queue=f"{PREFIX}.tasks",
    broker_connection_retry_on_startup=True,
    guardrails={
        "environment": "test",
        "dead_letter": {"queue": f"{PREFIX}.dead"},
        "store": {"url": os.environ.get("GUARDED_STORE", "sqlite:///guarded.sqlite3")},
        **json.loads(os.environ.get("GUARDED_SETTINGS", "{}")),
    },
)
QUICK: dict[str, Any] = {"backoff": Constant("500ms"), "jitter": "none", "max_attempts": 2}
ONCE = Idempotency(key=("key",), lease="3s")


def ran(key: str, **facts: Any) -> int:
    """Note a run of `key`, and return how many there were before it."""
    path = RUNS / key
    before = len(path.read_text().splitlines()) if path.exists() else 0
    with path.open("a") as log:
        log.write(json.dumps({"at": time.time(), "pid": os.getpid(), **facts}) + "\n")
    return before


def until(name: str) -> None:
    """Wait until the test lets it go on."""
    while not (RUNS / name).exists():
        time.sleep(0.02)


@app.task(base=GuardedTask, bind=True, name="once.charge", policy=Policy(idempotency=ONCE, **QUICK), shared=False)
def charge(self: Any, key: str, end: str = "success") -> Any:
    before = ran(key, fence=self.idempotency.fence, id=self.request.id)
    if end == "wait":
        until(f"{key}.go")
    elif end == "fail" or (end == "retry" and not before):
        raise ConnectionError("the bank does not answer")
    elif end == "by_hand" and not before:
        raise self.retry(countdown=0.5)
    elif end == "bug":
        raise KeyError("bug")
    elif end == "kill" and not before:
        os.kill(os.getpid(), signal.SIGKILL)
    elif end == "reject":
        raise Reject("no", requeue=False)
    elif end == "ignore":
        raise Ignore
    elif end == "large":
        return "x" * 100_000
    elif end == "unserialisable":
        return object()
    return {"key": key, "run": before + 1}


@app.task(
    base=GuardedTask,
    bind=True,
    name="once.slow",
    time_limit=1,
    policy=Policy(idempotency=ONCE, max_attempts=1),
    shared=False,
)
def slow(self: Any, key: str) -> None:
    ran(key)
    time.sleep(60)


@app.task(
    base=GuardedTask,
    name="once.ignored",
    policy=Policy(idempotency=Idempotency(key=("key",), on_duplicate="ignore")),
    shared=False,
)
def ignored(key: str) -> int:
    return ran(key)


@app.task(
    base=GuardedTask,
    name="once.dropped",
    policy=Policy(idempotency=Idempotency(key=("key",), while_running="drop")),
    shared=False,
)
def dropped(key: str) -> str:
    ran(key)
    until(f"{key}.go")
    return "done"


@app.task(base=GuardedTask, name="once.plain", shared=False)
def plain(key: str) -> int:
    return ran(key)


@app.task(base=GuardedTask, name="once.soft", soft_time_limit=3, policy=Policy(idempotency=ONCE, **QUICK), shared=False)
def soft(key: str) -> str:
    ran(key)
    until(f"{key}.go")
    return "done"


BRIEF = Policy(idempotency=ONCE, deadline="4s", max_attempts=1)


@app.task(base=GuardedTask, name="once.brief", policy=BRIEF, shared=False)
def brief(key: str) -> None:
    ran(key)
    until(f"{key}.go")


@app.task(base=GuardedTask, name="once.add", shared=False)
def add(result: Any, more: str) -> str:
    return f"{result['key'] if isinstance(result, dict) else result}+{more}"


@app.task(base=GuardedTask, name="once.total", shared=False)
def total(results: list[Any]) -> int:
    return len([each for each in results if each])


@app.task(base=GuardedTask, name="once.heard", shared=False)
def heard(key: str) -> None:
    ran(key)


def failing_key(args: Any, kwargs: Any) -> str:
    raise ValueError("no key")


@app.task(base=GuardedTask, name="once.keyless", policy=Policy(idempotency=Idempotency(key=failing_key)), shared=False)
def keyless(key: str) -> None:
    ran(key)


@app.task(base=GuardedTask, name="once.early", policy=Policy(idempotency=ONCE, acks="early", **QUICK), shared=False)
def early(key: str, end: str = "success") -> str:
    ran(key)
    if end == "wait":
        until(f"{key}.go")
    return "done"


@app.task(
    base=GuardedTask,
    name="once.open",
    policy=Policy(idempotency=Idempotency(key=("key",), lease="3s", when_ledger_is_down="run")),
    shared=False,
)
def open_(key: str) -> int:
    return ran(key)
