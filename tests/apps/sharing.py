"""Several works under one task id: tasks that are sent so, hand over, send themselves again, or have copies.

What they did is noted as in `tests/apps/guarded.py`. A file `KEY.broken` among the runs breaks what `KEY` stands for.
"""

import functools
import json
import os
import signal
from typing import Any

from celery import Celery, group
from kombu import Exchange, Queue
from kombu.common import Broadcast

from celery_guardrails import Constant, GuardedTask, Policy
from tests.apps.ends import RUNS, ran

PREFIX = os.environ.get("GUARDED_PREFIX", "sharing")

app = Celery("sharing")
topic = Exchange(f"{PREFIX}.topic", type="topic")
news = Broadcast(f"{PREFIX}.news")
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.tasks",
    task_queues=[
        Queue(f"{PREFIX}.tasks", routing_key=f"{PREFIX}.tasks"),
        Queue(f"{PREFIX}.one", topic, routing_key="order.*"),
        Queue(f"{PREFIX}.two", topic, routing_key="order.#"),
        news,
    ],
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    broker_transport_options={"visibility_timeout": float(os.environ.get("VISIBILITY_TIMEOUT", "3600"))},
    guardrails={
        "environment": "test",
        "dead_letter": {"queue": f"{PREFIX}.dead", "spool_dir": f"{RUNS}/spool"},
        "store": {"url": os.environ.get("GUARDED_STORE", "sqlite:///sharing.sqlite3")},
        **json.loads(os.environ.get("GUARDED_SETTINGS", "{}")),
    },
)

QUICK: dict[str, Any] = {"backoff": Constant("100ms"), "jitter": "none"}
task: Any = functools.partial(app.task, base=GuardedTask, shared=False)


def broken(key: str) -> bool:
    """Whether the test has broken what `key` stands for."""
    return (RUNS / f"{key}.broken").exists()


@task(name="sharing.bill", policy=Policy(max_attempts=2, retry_on=(ValueError,), **QUICK))
def bill(key: str, invoice: int = 0) -> str:
    ran(key, invoice=invoice)
    if broken(key):
        raise ValueError(f"invoice {invoice} is refused")
    return "paid"


class KilledWithIt(GuardedTask):
    abstract = True

    def on_failure(self, *args: Any) -> None:
        """The letter is out, the acknowledgement is not: the first time the whole worker dies here."""
        if ran(f"{args[2][0]}.on_failure") == 0:
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


@task(name="sharing.killed", base=KilledWithIt, policy=Policy(max_attempts=1))
def killed(key: str) -> None:
    ran(key)
    raise ValueError("refused")


@task(name="sharing.second", policy=Policy(max_attempts=1))
def second(key: str) -> str:
    ran(f"{key}.second")
    if broken(f"{key}.second"):
        raise ValueError("second is broken")
    return "done"


@task(name="sharing.first", bind=True, policy=Policy(max_attempts=1))
def first(self: Any, key: str, kind: str = "task") -> Any:
    ran(key)
    if broken(key):
        raise ValueError("first is broken")
    raise self.replace(second.si(key) if kind == "task" else group(second.si(key), second.si(key)))


@task(name="sharing.third", policy=Policy(max_attempts=1))
def third(*args: Any, key: str) -> None:
    ran(f"{key}.third")


@task(name="sharing.once_more", bind=True, policy=Policy(max_attempts=1))
def once_more(self: Any, key: str, round: int = 0) -> None:
    """Sends itself again, under its own id, and dies."""
    ran(key, round=round)
    if not round:
        self.apply_async((key, 1), task_id=self.request.id)
        self.signature_from_request(args=(key, 2), kwargs={}).apply_async()
    raise ValueError(f"round {round}")


@task(name="sharing.heard")
def heard(key: str = "heard") -> str:
    ran(key)
    return "heard"
