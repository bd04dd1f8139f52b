"""The application that the chaos suite breaks: guarded tasks that note each run of their body in the ledger.

What differs between runs comes from environment variables. The bodies know nothing of faults.
"""

import functools
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import task_received, task_revoked
from kombu import Queue

from celery_guardrails import Constant, GuardedTask, Policy
from tests.chaos.ledger import Ledger

QUEUE, DEAD = "chaos.tasks", "chaos.dead"

_quorum = {"x-queue-type": "quorum"} if os.environ.get("CHAOS_QUEUES") == "quorum" else {}
_ledger = Ledger(Path(os.environ.get("CHAOS_LEDGER", "ledger.jsonl")))

app = Celery("chaos")
task = functools.partial(app.task, base=GuardedTask, bind=True, shared=False)
app.conf.update(
    broker_url=os.environ.get("CHAOS_BROKER", "memory://"),
    broker_transport_options=json.loads(os.environ.get("CHAOS_TRANSPORT_OPTIONS", "{}")),
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    result_backend=os.environ.get("CHAOS_BACKEND") or None,
    result_expires=3600,
    task_default_queue=QUEUE,
    task_queues=[Queue(QUEUE, routing_key=QUEUE, durable=True, queue_arguments=_quorum or None)],
    task_publish_retry_policy={"max_retries": 3},
    worker_hijack_root_logger=False,
    guardrails={
        "environment": "chaos",
        "dead_letter": {
            "queue": DEAD,
            "queue_arguments": _quorum,
            "spool_dir": os.environ.get("CHAOS_SPOOL", "spool"),
            "spool_limit": int(os.environ.get("CHAOS_SPOOL_LIMIT", str(1 << 22))),
            "publish_timeout": "2s",
        },
        "store": {"url": os.environ.get("CHAOS_STORE", "sqlite:///archive.sqlite3")},
        "alerts": {"group_wait": "5m"},
    },
)

# Crashes that faults cause must not make a task dead: only those that die of themselves have fewer.
QUICK: dict[str, Any] = {"backoff": Constant("300ms"), "jitter": 0.25, "max_crashes": 10, "deadline": "1h"}
TWICE = Policy(max_attempts=2, retry_on=(BaseException,), **QUICK)


class Gone(BaseException):
    """What no `except Exception` catches."""


@task_revoked.connect  # never on the way of a task that runs
def _note_revoked(request: Any = None, **_: Any) -> None:
    _ledger.write("gone", str(request.id))


@task_received.connect
def _note_received(request: Any = None, **_: Any) -> None:
    if not request.task.acks_late:  # what may be cut short: by the death of this worker, and of no other
        _ledger.write("took", str(request.id), worker=os.getpid())


def noted(body: Callable[..., Any]) -> Callable[..., Any]:
    """A body that writes its beginning and, if it comes to it, its end."""

    @functools.wraps(body)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        # the parent: the worker's main process; it is asked here because a child that outlives it gets another one
        facts = {"n": self.request.retries + 1, "pid": os.getpid(), "worker": os.getppid()}
        _ledger.write("begin", self.request.id, **facts)
        result = body(self, *args, **kwargs)
        _ledger.write("end", self.request.id, **facts)
        return result

    return run


@task(name="chaos.ok", policy=Policy(**QUICK))
@noted
def ok(self: Any, token: str) -> str:
    return token


@task(name="chaos.sleep", policy=Policy(**QUICK))
@noted
def sleep(self: Any, token: str, seconds: float) -> None:
    time.sleep(seconds)


def _fail_first(self: Any, failures: int) -> None:
    if self.request.retries < failures:
        raise ConnectionError(f"attempt {self.request.retries + 1} of {self.request.id}")


@task(name="chaos.flaky", policy=Policy(max_attempts=5, **QUICK))
@noted
def flaky(self: Any, token: str, failures: int) -> None:
    _fail_first(self, failures)


@task(name="chaos.flaky_slow", policy=Policy(max_attempts=5, **{**QUICK, "backoff": Constant("3s")}))
@noted
def flaky_slow(self: Any, token: str, failures: int) -> None:
    _fail_first(self, failures)


@task(name="chaos.broken", policy=Policy(max_attempts=3, **QUICK))
@noted
def broken(self: Any, token: str) -> None:
    raise TimeoutError("nobody answers, ever")


@task(name="chaos.bug", policy=Policy(**QUICK))
@noted
def bug(self: Any, token: str) -> None:
    raise KeyError("missing")


@task(name="chaos.memory", policy=TWICE)
@noted
def memory(self: Any, token: str) -> None:
    bytearray(1 << 24)
    bytearray(1 << 62)


@task(name="chaos.oom", policy=Policy(**{**QUICK, "max_crashes": 2}))
@noted
def oom(self: Any, token: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(name="chaos.exit", policy=TWICE)
@noted
def exit_(self: Any, token: str) -> None:
    raise SystemExit(3)


@task(name="chaos.base", policy=TWICE)
@noted
def base(self: Any, token: str) -> None:
    raise Gone("out")


@task(name="chaos.soft", policy=Policy(max_attempts=2, **QUICK), soft_time_limit=1)
@noted
def soft(self: Any, token: str) -> None:
    time.sleep(20)


@task(name="chaos.hard", policy=Policy(max_attempts=2, **QUICK), time_limit=1)
@noted
def hard(self: Any, token: str) -> None:
    time.sleep(20)


@task(name="chaos.dropped", policy=Policy(on_expired="drop", **QUICK))
@noted
def dropped(self: Any, token: str) -> None:
    return


@task(name="chaos.once", policy=Policy(acks="early", **QUICK))
@noted
def once(self: Any, token: str) -> None:
    return


@task(name="chaos.once_sleep", policy=Policy(acks="early", **QUICK))
@noted
def once_sleep(self: Any, token: str, seconds: float) -> None:
    time.sleep(seconds)


@task(name="chaos.once_flaky", policy=Policy(acks="early", max_attempts=5, **QUICK))
@noted
def once_flaky(self: Any, token: str, failures: int) -> None:
    _fail_first(self, failures)


@task(name="chaos.large", policy=Policy(**QUICK))
@noted
def large(self: Any, token: str, blob: str) -> int:
    return len(blob)


@task(name="chaos.large_broken", policy=Policy(**QUICK))
@noted
def large_broken(self: Any, token: str, blob: str) -> None:
    raise KeyError("missing")


@task(name="chaos.link", policy=Policy(**QUICK))
@noted
def link(self: Any, token: str) -> str:
    return token


@task(name="chaos.link_broken", policy=Policy(**QUICK))
@noted
def link_broken(self: Any, token: str) -> None:
    raise KeyError("missing")
