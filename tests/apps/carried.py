"""Tasks that `map`, `starmap` and `chunks` run for many items. Each item's run is noted below `GUARDED_RUNS`."""

import functools
import os
import signal
import time
from typing import Any

from celery.exceptions import Reject

from celery_guardrails import Constant, GuardedTask, Policy
from tests.apps.ends import RUNS, ran
from tests.apps.made import make

QUICK: dict[str, Any] = {"backoff": Constant("100ms"), "jitter": "none"}

app, heard = make("carried", guard=["adopted.*"], policies={"adopted.*": {"max_attempts": 2, **QUICK}})
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
