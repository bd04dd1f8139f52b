"""Tasks whose classes bring a request class of their own, in every way in which Celery takes one.

`OwnRequest` notes what it sees of its tasks' ends in the file `seen`, below `GUARDED_RUNS`.
"""

import functools
import os
import signal
import time
from typing import Any

from celery import Task
from celery.exceptions import Reject
from celery.worker.request import Request

from celery_guardrails import Constant, GuardedTask, GuardMixin, Policy
from tests.apps.ends import ran
from tests.apps.made import make

KINDS = ("own", "dotted", "property", "mixin", "instance", "decorator", "adopted")

QUICK: dict[str, Any] = {"max_crashes": 1, "backoff": Constant("100ms"), "jitter": "none"}

app, heard = make("requests", guard=["adopted.*"], policy=QUICK)


class OwnRequest(Request):  # type: ignore[misc]
    """As in Celery's guide: it looks at failures and time limits."""

    def on_timeout(self, soft: bool, timeout: float) -> None:
        super().on_timeout(soft, timeout)
        ran("seen", task=self.name, what="soft" if soft else "timeout")

    def on_failure(self, exc_info: Any, *args: Any, **options: Any) -> None:
        super().on_failure(exc_info, *args, **options)
        ran("seen", task=self.name, what="failure")

    def on_retry(self, exc_info: Any) -> None:
        super().on_retry(exc_info)
        ran("seen", task=self.name, what="retry")


class Own(GuardedTask):
    abstract = True
    Request = OwnRequest


class Dotted(GuardedTask):
    abstract = True
    Request = "tests.apps.requests:OwnRequest"


class Asked(GuardedTask):
    abstract = True

    @property
    def Request(self) -> Any:
        return OwnRequest


class Theirs(Task):  # type: ignore[misc]
    abstract = True
    Request = OwnRequest


class Mixed(GuardMixin, Theirs):
    abstract = True


class OfInstance(GuardedTask):
    abstract = True

    def __init__(self) -> None:
        self.Request = OwnRequest


BASES: dict[str, dict[str, Any]] = {
    "own": {"base": Own},
    "dotted": {"base": Dotted},
    "property": {"base": Asked},
    "mixin": {"base": Mixed},
    "instance": {"base": OfInstance},
    "decorator": {"base": GuardedTask, "Request": OwnRequest},
    "adopted": {"base": Theirs},
}


def declare(kind: str) -> None:
    task: Any = functools.partial(app.task, shared=False, **BASES[kind])

    @task(name=f"{kind}.slow", time_limit=2)
    def slow() -> None:
        time.sleep(60)

    @task(name=f"{kind}.killed")
    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @task(name=f"{kind}.rejected")
    def rejected() -> None:
        raise Reject("not for me", requeue=False)

    @task(name=f"{kind}.late")
    def late() -> None:
        raise AssertionError("it has expired")


for kind in KINDS:
    declare(kind)


RETRIED = Policy(retry_on=("billiard.exceptions.TimeLimitExceeded",), max_attempts=2)


@app.task(shared=False, base=Own, name="own.patient", time_limit=2, policy=RETRIED)
def patient(key: str) -> None:
    if ran(key) == 0:
        time.sleep(60)
