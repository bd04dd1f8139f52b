"""Tasks that are lost under plain Celery: each ends in a way that its worker, its child or its body does not see.

What they did is noted as in `tests/apps/guarded.py`. Their plain twins are in `tests/apps/plainly.py`.
"""

import functools
import json
import os
import time
from typing import Any

from billiard.exceptions import TimeLimitExceeded
from celery import Celery
from celery.exceptions import Reject, Retry
from celery.signals import task_failure

from celery_guardrails import Constant, GuardedTask, Policy
from tests.apps.ends import RUNS, end, ran

PREFIX = os.environ.get("GUARDED_PREFIX", "losing")

app = Celery("losing")
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.tasks",
    broker_connection_retry_on_startup=True,
    broker_heartbeat=int(os.environ.get("HEARTBEAT", "120")),
    worker_hijack_root_logger=False,
    worker_lost_wait=1.0,
    worker_pool_start_method=os.environ.get("POOL_START", "fork"),
    worker_cancel_long_running_tasks_on_connection_loss=bool(os.environ.get("CANCEL_ON_LOSS")),
    task_track_started=bool(os.environ.get("TRACK_STARTED")),
    redis_retry_on_timeout=False,
    result_backend_transport_options={"retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0}},
    broker_transport_options={"visibility_timeout": float(os.environ.get("VISIBILITY_TIMEOUT", "3600"))},
    guardrails={
        "environment": "test",
        "dead_letter": {"queue": f"{PREFIX}.dead", "spool_dir": os.environ.get("GUARDED_RUNS", ".") + "/spool"},
        **json.loads(os.environ.get("GUARDED_SETTINGS", "{}")),
    },
)

QUICK: dict[str, Any] = {"backoff": Constant("100ms"), "jitter": "none", "max_attempts": 5}


TWO: dict[str, Any] = {**QUICK, "max_attempts": 2}


def _body(self: Any, key: str, how: str, padding: str = "") -> Any:
    ran(key, retries=self.request.retries)
    return end(how)


class RaisingHooks:
    def on_failure(self, *args: Any) -> None:
        ran(f"{args[2][0]}.on_failure")
        raise RuntimeError("on_failure itself fails")


class GuardedRaising(RaisingHooks, GuardedTask):
    abstract = True


class RefusingStart(GuardedTask):
    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        if ran(f"{args[0]}.before_start") < int(args[2]):
            raise ConnectionError("no database yet")


def ending(name: str, policy: Policy, **options: Any) -> Any:
    """A task that ends as its argument says."""
    options.setdefault("base", GuardedTask)
    return app.task(name=f"guarded.{name}", bind=True, policy=policy, shared=False, **options)(_body)


late = ending("late", Policy(**QUICK))
early = ending("early", Policy(acks="early", **QUICK))
twice = ending("twice", Policy(retry_on=(SystemExit, MemoryError, TimeLimitExceeded), **TWO))
limited = ending("limited", Policy(**QUICK), time_limit=1)
limited_twice = ending("limited_twice", Policy(retry_on=(TimeLimitExceeded,), **TWO), time_limit=1)
looping = ending("looping", Policy(**QUICK), time_limit=1, acks_on_failure_or_timeout=False)
parked = ending("parked", Policy(on_exhausted="park", max_crashes=1, **QUICK), time_limit=1)
expected = ending("expected", Policy(**QUICK), throws=(SystemExit,))
raising = ending("raising", Policy(**QUICK), base=GuardedRaising)
raising_limited = ending("raising_limited", Policy(**QUICK), base=GuardedRaising, time_limit=1)
stubborn = ending("stubborn", Policy(**QUICK), reject_on_worker_lost=True)
again = ending("again", Policy(**QUICK), retry_on_worker_lost=True)
told = ending("told", Policy(**QUICK), time_limit=1)
dropped = ending("dropped", Policy(on_expired="drop", **QUICK))
fragile = ending("fragile", Policy(max_crashes=1, **QUICK))


@app.task(base=RefusingStart, name="guarded.refusing", policy=Policy(**{**QUICK, "max_attempts": 3}), shared=False)
def refusing(key: str, how: str, times: int) -> str:
    ran(key)
    return "done"


@app.task(base=GuardedTask, name="guarded.slow", policy=Policy(**QUICK), shared=False)
def slow(key: str, seconds: float) -> str:
    ran(key)
    time.sleep(seconds)
    ran(f"{key}.done")
    return "done"


@app.task(base=GuardedTask, name="guarded.slow_early", policy=Policy(acks="early", **QUICK), shared=False)
def slow_early(key: str, seconds: float) -> str:
    ran(key)
    time.sleep(seconds)
    ran(f"{key}.done")
    return "done"


@app.task(base=GuardedTask, name="guarded.until_go", policy=Policy(acks="early", **QUICK), shared=False)
def until_go(key: str) -> None:
    """Runs until the test says go."""
    ran(key)
    while not (RUNS / "go").exists():
        time.sleep(0.05)


@app.task(base=GuardedTask, name="guarded.failing_early", policy=Policy(acks="early", **QUICK), shared=False)
def failing_early(key: str) -> None:
    """Runs until the test says go, then fails for good."""
    ran(key)
    while not (RUNS / "go").exists():
        time.sleep(0.05)
    raise KeyError("missing")


@task_failure.connect(sender=told)
def told_of_failure(args: Any, **_: Any) -> None:
    ran(f"{args[0]}.task_failure")


def _held(self: Any, key: str, how: str) -> str:
    """Runs until the test says go, then ends as its argument says; the next attempt is done."""
    before = ran(key, retries=self.request.retries)
    while not (RUNS / "go").exists():
        time.sleep(0.05)
    if how == "reject" and not before:
        raise Reject("another worker, please", requeue=True)
    if how == "retry" and not self.request.retries:
        raise self.retry(exc=ConnectionError("not yet"), countdown=0)
    if how == "fail" and not self.request.retries:
        raise ConnectionError("not yet")
    return end(how) if how == "bug" or (how == "kill_child" and not before) else "done"


hold: Any = functools.partial(app.task, base=GuardedTask, bind=True, shared=False)
held = hold(name="guarded.held", policy=Policy(**QUICK))(_held)
held_silent = hold(name="guarded.held_silent", policy=Policy(**QUICK), ignore_result=True)(_held)
held_early = hold(name="guarded.held_early", policy=Policy(acks="early", **QUICK))(_held)


@app.task(base=GuardedTask, name="guarded.choosy", bind=True, policy=Policy(max_crashes=1, **QUICK), shared=False)
def choosy(self: Any, key: str, times: int, failures: int = 0) -> str:
    """Fails so often, then puts its message back so often."""
    run = ran(key, retries=self.request.retries, redelivered=self.request.delivery_info["redelivered"])
    if run < failures:
        raise ConnectionError("not yet")
    if run < failures + times:
        raise Reject("another worker, please", requeue=True)
    return "done"


@app.task(base=GuardedTask, name="guarded.raw_retry", bind=True, policy=Policy(**TWO), shared=False)
def raw_retry(self: Any, key: str, how: str) -> None:
    """Raises Celery's Retry itself, which nobody publishes."""
    ran(key, retries=self.request.retries)
    raise {"bare": Retry(), "exc": Retry(exc=KeyError("not yet")), "when": Retry("soon", when=0.2)}[how]


@app.task(base=GuardedTask, name="guarded.heard", shared=False)
def heard(*args: Any, key: str = "heard") -> str:
    ran(key, args=[str(arg)[:200] for arg in args])
    return "heard"


@app.task(base=GuardedTask, name="guarded.errback", shared=False)
def errback(request: Any, exc: Any, traceback: Any, key: str = "errback") -> None:
    ran(key, error=type(exc).__name__)


@app.on_after_finalize.connect
def keep_the_old_name(sender: Any, **_: Any) -> None:
    """A task that was renamed keeps its old name as an alias."""
    sender.tasks["guarded.renamed"] = sender.tasks["guarded.late"]
