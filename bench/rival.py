"""What others offer so that work is not done twice: the same body under celery-once and under celery-singleton.

Both take a lock when a task is sent, and the worker frees it when the task has ended.
"""

from __future__ import annotations

import os

from celery import Celery
from celery_once import QueueOnce
from celery_singleton import Singleton

from bench.plain import body

__all__ = ["app", "use"]

app = Celery("bench-rival", broker=os.environ.get("RIVAL_URL", "memory://"), set_as_current=False)
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True)


def use(url: str) -> None:
    """Have their locks in this database of Redis."""
    app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": url}}
    app.conf.singleton_backend_url = url


use(os.environ.get("RIVAL_URL", "redis://"))


@app.task(name="bench.works", shared=False)
def works(x: int, y: int) -> int:
    return body(x, y)


@app.task(name="bench.celery_once", shared=False, base=QueueOnce)
def celery_once(x: int, y: int) -> int:
    return body(x, y)


@app.task(name="bench.celery_singleton", shared=False, base=Singleton)
def celery_singleton(x: int, y: int) -> int:
    return body(x, y)
