"""Tasks whose declaration keeps guardrails, or the worker, from running them as it looks."""

import functools
from typing import Any

from celery.worker.strategy import default

from celery_guardrails import GuardedTask
from tests.apps.ends import ran
from tests.apps.made import make

app, heard = make("declared")
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
