"""Tasks whose declaration keeps guardrails, or the worker, from running them as it looks."""

import functools
import os
from typing import Any

from celery import Celery
from celery.worker.strategy import default

from celery_guardrails import GuardedTask
from tests.apps.ends import ran

PREFIX = os.environ.get("GUARDED_PREFIX", "guarded")

app = Celery("declared")
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.tasks",
    broker_connection_retry_on_startup=True,
    guardrails={
        "dead_letter": {"queue": f"{PREFIX}.dead"},
        "store": {"url": os.environ.get("GUARDED_STORE", "sqlite:///guarded.sqlite3")},
    },
)
task: Any = functools.partial(app.task, shared=False, base=GuardedTask)


@task(name="shop.mail", ignore_result=True)
async def mail(key: str) -> None:
    ran(key)


class Batch(GuardedTask):
    """As celery-batches: takes its messages by itself."""

    abstract = True

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Any:
        return default(task, app, consumer)


@app.task(shared=False, base=Batch, name="shop.batch")
def batch() -> None: ...


@task(name="heard")
def heard(key: str) -> None:
    ran(key)
