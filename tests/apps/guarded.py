"""The application that the integration tests run in real workers.

Everything that differs between tests comes from environment variables; what tasks did is written to files below
`GUARDED_RUNS`, one line a run, so that a test can count across processes.
"""

import functools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from pydantic import BaseModel

from celery_guardrails import Constant, Exponential, GuardedTask, PermanentError, Policy, TransientError
from tests.apps import vendor  # noqa: F401 registers a shared task

PREFIX = os.environ.get("GUARDED_PREFIX", "guarded")
RUNS = Path(os.environ.get("GUARDED_RUNS", "."))

app = Celery("guarded")
# not shared with other applications: a test process makes several, one after the other
task = functools.partial(app.task, shared=False)
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.tasks",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    task_publish_retry_policy={"max_retries": 3},
    beat_schedule=json.loads(os.environ.get("BEAT_SCHEDULE", "{}")),
    guardrails={
        "environment": "test",
        "dead_letter": {"queue": f"{PREFIX}.dead"},
        "store": {"url": os.environ.get("GUARDED_STORE", "sqlite:///guarded.sqlite3")},
        "guard": ["vendor.*"],
        "policies": {"vendor.*": {"max_attempts": 2, "backoff": Constant("100ms")}},
        **json.loads(os.environ.get("GUARDED_SETTINGS", "{}")),
    },
)

QUICK: dict[str, Any] = {"backoff": Constant("100ms"), "jitter": "none"}

if os.environ.get("SENTRY_DSN"):
    import sentry_sdk

    sentry_sdk.init(dsn=os.environ["SENTRY_DSN"], default_integrations=True, traces_sample_rate=0.0)


def ran(key: str, **facts: Any) -> int:
    """Note a run of `key`, and return how many there were before it."""
    path = RUNS / key
    before = len(path.read_text().splitlines()) if path.exists() else 0
    with path.open("a") as log:
        log.write(json.dumps({"at": time.time(), "pid": os.getpid(), **facts}) + "\n")
    return before


def broken(key: str) -> bool:
    """Whether the test has broken what `key` depends on."""
    return (RUNS / f"{key}.broken").exists()


@task(base=GuardedTask, name="guarded.add")
def add(x: int, y: int) -> int:
    return x + y


@task(base=GuardedTask, name="guarded.flaky", bind=True, policy=Policy(max_attempts=5, **QUICK))
def flaky(self: Any, key: str, failures: int) -> str:
    before = ran(key, retries=self.request.retries)
    if before < failures:
        raise ConnectionError(f"run {before + 1} of {key}")
    return f"done after {before + 1}"


@task(
    base=GuardedTask,
    name="guarded.mail",
    policy=Policy(
        max_attempts=3, owner="growth", runbook="https://runbooks.example/mail", affected_by=("customer",),
        correlate=("order_id",), redact=("address",), **QUICK,
    ),
)  # fmt: skip
def mail(order_id: int, customer: str = "c", address: str = "", password: str = "") -> str:
    ran(f"mail-{order_id}", address=address)
    if broken("mail"):
        raise TimeoutError("smtp did not answer")
    return "sent"


SOON: dict[str, Any] = {"backoff": Constant("2s"), "jitter": "none", "deadline": "15s"}


@task(base=GuardedTask, name="guarded.soon", bind=True, policy=Policy(max_attempts=99, **SOON))
def soon(self: Any, key: str, failures: int) -> None:
    if ran(key, retries=self.request.retries) < failures:
        raise ConnectionError("a blip")


@task(base=GuardedTask, name="guarded.by_hand_soon", bind=True, policy=Policy(max_attempts=99, **SOON))
def by_hand_soon(self: Any, key: str, failures: int) -> None:
    if ran(key, retries=self.request.retries) < failures:
        raise self.retry(exc=ConnectionError("a blip"), countdown=2)


SEEN: dict[str, Any] = {"max_attempts": 2, "affected_by": ("user", "maiden_name")}


@task(base=GuardedTask, name="guarded.sign_in", policy=Policy(**SEEN, **QUICK))
def sign_in(user: str, maiden_name: str) -> None:
    raise ConnectionError("the bank says no")


@task(base=GuardedTask, name="guarded.signs_in_again", bind=True, policy=Policy(max_attempts=2, **QUICK))
def signs_in_again(self: Any, user: str, maiden_name: str) -> None:
    changed = "changed" in (self.request.headers or {})
    new: dict[str, Any] = {"args": (user, maiden_name.upper()), "kwargs": {}} if changed else {}
    raise self.retry(exc=ConnectionError("the bank says no"), time_limit=60, **new)


@task(base=GuardedTask, name="guarded.bug", policy=Policy(**QUICK))
def bug(key: str) -> None:
    ran(key)
    raise KeyError("missing")


@task(base=GuardedTask, name="guarded.own_words")
def own_words(key: str, kind: str) -> None:
    ran(key)
    if kind == "permanent":
        raise PermanentError("the account is closed")
    raise TransientError("busy", retry_after=3 * 3600)


@task(base=GuardedTask, name="guarded.by_hand", bind=True, policy=Policy(max_attempts=3, **QUICK))
def by_hand(self: Any, key: str, countdown: float | None = None, changed: bool = False) -> None:
    ran(key, retries=self.request.retries, countdown=countdown)
    try:
        raise ValueError("not yet")
    except ValueError as exc:
        extra = {"kwargs": {"key": key, "countdown": 0.05, "changed": True}} if changed else {}
        raise self.retry(exc=exc, countdown=countdown, **extra) from exc


@task(base=GuardedTask, name="guarded.handled", bind=True, policy=Policy(max_attempts=2, **QUICK))
def handled(self: Any, key: str) -> str:
    ran(key)
    try:
        raise self.retry()
    except self.MaxRetriesExceededError:
        return "handled it myself"


@task(base=GuardedTask, name="guarded.telling", bind=True, policy=Policy(max_attempts=2, **QUICK))
def telling(self: Any, key: str, way: str, text: str = "") -> None:
    """Fails with this text: as an error, by `self.retry(exc=...)`, or by a bare `self.retry()`."""
    if ran(key):
        return
    if way == "bare":
        raise self.retry()
    if way == "changed":
        raise self.retry(exc=TimeoutError(text), kwargs={"key": key, "way": way})
    if way == "exc":
        raise self.retry(exc=TimeoutError(text))
    raise TimeoutError(text)


@task(base=GuardedTask, name="guarded.parked", policy=Policy(max_attempts=2, on_exhausted="park", **QUICK))
def parked(key: str) -> str:
    ran(key)
    if broken(key):
        raise ConnectionError("down")
    return key


@task(base=GuardedTask, name="guarded.expected", throws=(LookupError,))
def expected(key: str) -> None:
    ran(key)
    raise KeyError("expected")


@task(base=GuardedTask, name="guarded.silent", ignore_result=True, policy=Policy(max_attempts=2, **QUICK))
def silent(key: str) -> None:
    ran(key)
    raise ConnectionError("down")


@task(base=GuardedTask, name="guarded.signals", bind=True)
def signals(self: Any, key: str, kind: str) -> None:
    ran(key)
    raise Ignore() if kind == "ignore" else Reject("no", requeue=False)


class Order(BaseModel):
    id: int


@task(base=GuardedTask, name="guarded.typed", pydantic=True, policy=Policy(max_attempts=2, **QUICK))
def typed(order: Order, key: str) -> int:
    ran(key)
    if broken(key):
        raise ConnectionError("down")
    return order.id


@task(base=GuardedTask, name="guarded.heard")
def heard(*args: Any, key: str = "heard") -> str:
    ran(key, args=[str(arg)[:200] for arg in args])
    return "heard"


@task(base=GuardedTask, name="guarded.errback")
def errback(request: Any, exc: Any, traceback: Any, key: str = "errback") -> None:
    ran(key)


@task(base=GuardedTask, name="guarded.handing_on", bind=True, policy=Policy(max_attempts=2, **QUICK))
def handing_on(self: Any, key: str) -> None:
    """Hands its own headers on to another task, as people do to trace requests."""
    ran(key)
    if self.request.retries:
        heard.apply_async(kwargs={"key": f"{key}.child"}, headers=dict(self.request.headers or {}))
        failing_child.apply_async((f"{key}.failing",), headers=dict(self.request.headers or {}))
    raise ConnectionError("down")


@task(base=GuardedTask, name="guarded.stuck", policy=Policy(max_attempts=2, owner="growth", **QUICK), time_limit=1)
def stuck(key: str) -> None:
    ran(key)
    time.sleep(60)


@task(base=GuardedTask, name="guarded.traced", policy=Policy(max_attempts=3, **QUICK), bind=True)
def traced(self: Any, key: str) -> None:
    trace = ""
    if os.environ.get("SENTRY_DSN"):
        import sentry_sdk

        trace = str(sentry_sdk.get_traceparent()).split("-")[0]
    ran(key, trace=trace, mine=(self.request.headers or {}).get("mine"))
    raise ConnectionError("down")


@task(base=GuardedTask, name="guarded.failing_child", policy=Policy(max_attempts=2, **QUICK))
def failing_child(key: str) -> None:
    ran(key)
    raise ConnectionError("down")


@task(base=GuardedTask, name="guarded.replacing", bind=True)
def replacing(self: Any) -> None:
    raise self.replace(add.s(20, 3))


@task(base=GuardedTask, name="guarded.slow", policy=Policy(max_attempts=2, **QUICK), soft_time_limit=1)
def slow(key: str) -> None:
    ran(key)
    time.sleep(10)


@task(
    base=GuardedTask, name="guarded.growing",
    policy=Policy(max_attempts=4, backoff=Exponential("100ms", factor=3, cap="2s"), jitter=0.25),
)  # fmt: skip
def growing(key: str) -> None:
    ran(key)
    raise ConnectionError("down")


def _held(key: str, fatal: bool) -> str:
    """Fail when the test says go: for good, or so that the next attempt succeeds."""
    before = ran(key)
    while not (RUNS / "go").exists():
        time.sleep(0.05)
    if fatal:
        raise KeyError(key)
    if not before:
        raise ConnectionError("down")
    return "done"


@task(base=GuardedTask, name="guarded.held_late", policy=Policy(max_attempts=3, **QUICK))
def held_late(key: str, fatal: bool) -> str:
    return _held(key, fatal)


@task(base=GuardedTask, name="guarded.held_early", policy=Policy(max_attempts=3, acks="early", **QUICK))
def held_early(key: str, fatal: bool) -> str:
    return _held(key, fatal)


class ContextTask(GuardedTask):
    """As Flask's documentation has it: a `__call__` of its own that does not call `super()`."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ran("context")
        if broken("context"):
            raise ConnectionError("no application context")
        return self.run(*args, **kwargs)


@task(base=ContextTask, name="guarded.in_context", policy=Policy(max_attempts=2, **QUICK))
def in_context(key: str) -> None:
    ran(key)
    raise ConnectionError("down")


@task(name="vendor.plain", max_retries=7)
def vendor_plain(key: str) -> None:
    ran(key)
    raise ConnectionError("down")


class VendorTask(Task):
    name = "vendor.by_class"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ran("vendor-context")
        return self.run(*args, **kwargs)

    def run(self, key: str) -> None:
        ran(key)
        raise ConnectionError("down")


app.register_task(VendorTask())


@task(name="outside.plain")
def outside(key: str) -> None:
    ran(key)
    raise ConnectionError("down")


@task(base=GuardedTask, name="guarded.hostile", policy=Policy(affected_by=("text",), correlate=("text",), **QUICK))
def hostile(text: str) -> None:
    """Fails with an error whose type and message somebody else has chosen."""
    raise type(text, (Exception,), {"__module__": "evil"})(text)


@task(base=GuardedTask, name="guarded.suicide", policy=Policy(max_crashes=1, owner="growth", **QUICK))
def suicide(key: str) -> None:
    ran(key)
    os.kill(os.getpid(), signal.SIGKILL)
