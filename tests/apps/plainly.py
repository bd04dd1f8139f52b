"""What Celery alone does with the ends of `tests/apps/ends.py`: nothing here is guarded."""

import functools
import os
from typing import Any

from celery import Celery, Task

from tests.apps.ends import end, ran

PREFIX = os.environ.get("GUARDED_PREFIX", "plainly")

app = Celery("plainly")
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    task_default_queue=f"{PREFIX}.tasks",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    worker_lost_wait=1.0,
)


class Told(Task):
    """Notes what its hook is told."""

    abstract = True

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        ran(f"{args[0]}.on_failure", error=type(exc).__name__, knows_its_request=self.request.id == task_id)


def _body(self: Any, key: str, how: str) -> Any:
    ran(key)
    return end(how)


task = functools.partial(app.task, base=Told, bind=True, shared=False)
late = task(name="plain.late", acks_late=True)(_body)
early = task(name="plain.early")(_body)
limited = task(name="plain.limited", acks_late=True, time_limit=1)(_body)
stubborn = task(name="plain.stubborn", acks_late=True, reject_on_worker_lost=True)(_body)


@app.task(name="plain.heard", shared=False)
def heard(key: str = "heard") -> None:
    ran(key)
