"""The application that the fuzzing runs: tasks that take any arguments, and note on disk which message they ran for."""

import os
from pathlib import Path
from typing import Any

from celery import Celery

from celery_guardrails import Constant, GuardedTask, Policy

PREFIX = os.environ.get("FUZZ_PREFIX", "fuzz")
RUNS = Path(os.environ.get("FUZZ_RUNS", "."))
QUICK: dict[str, Any] = {"backoff": Constant(0), "jitter": "none", "correlate": ("b",), "affected_by": ("b.a",)}

app = Celery("fuzzed")
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.tasks",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    result_expires=60,
    guardrails={
        "environment": "fuzz",
        "dead_letter": {"queue": f"{PREFIX}.dead", "spool_dir": str(RUNS / "spool")},
        "store": {"url": os.environ.get("FUZZ_STORE", "sqlite:///fuzz.sqlite3")},
    },
)


def note(request: Any) -> None:
    """One line for each message that was processed, with the number that it carries."""
    nested = request.get("headers")
    number = request.get("fuzz") or (nested.get("fuzz") if isinstance(nested, dict) else None)
    with (RUNS / "processed").open("a") as lines:
        lines.write(f"{number}\n")


@app.task(base=GuardedTask, name="fuzz.succeeds", bind=True, shared=False, policy=Policy(**QUICK))
def succeeds(self: Any, /, *args: Any, **kwargs: Any) -> None:
    note(self.request)


@app.task(name="fuzz.plain", bind=True, shared=False)
def plain(self: Any, /, *args: Any, **kwargs: Any) -> None:
    note(self.request)


@app.task(base=GuardedTask, name="fuzz.fails", bind=True, shared=False, policy=Policy(max_attempts=1, **QUICK))
def fails(self: Any, /, *args: Any, **kwargs: Any) -> None:
    raise ConnectionError("down")


@app.task(base=GuardedTask, name="fuzz.retries", bind=True, shared=False, policy=Policy(max_attempts=2, **QUICK))
def retries(self: Any, /, *args: Any, **kwargs: Any) -> None:
    raise ConnectionError("down")
