"""A guarded application whose worker uses a consumer class and a pool class of its own, named by their paths."""

import functools
import json
import logging
import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool
from celery.worker.consumer import Consumer

from celery_guardrails import GuardedTask, Policy

logger = logging.getLogger("classed")

PREFIX = os.environ.get("GUARDED_PREFIX", "guarded")
RUNS = Path(os.environ.get("GUARDED_RUNS", "."))

app = Celery("classed")
task = functools.partial(app.task, base=GuardedTask, shared=False)
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    result_backend=os.environ.get("RESULT_BACKEND", "cache+memory://"),
    broker_connection_retry_on_startup=True,
    task_default_queue=f"{PREFIX}.tasks",
    worker_hijack_root_logger=False,
    guardrails={
        "environment": "test",
        "dead_letter": {"queue": f"{PREFIX}.dead"},
        "store": {"url": os.environ.get("GUARDED_STORE", "sqlite:///guarded.sqlite3")},
    },
)
app.conf.update(json.loads(os.environ.get("CLASSED_CONF", "{}")))


class OwnConsumer(Consumer):
    """Overrides some of what guardrails overrides, too."""

    def on_unknown_task(self, body: Any, message: Any, exc: Any) -> None:
        logger.warning("own consumer: an unknown task")
        super().on_unknown_task(body, message, exc)

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        logger.warning("own consumer: connects")
        return super().connection_for_read(heartbeat=heartbeat)


class OwnAsynPool(AsynPool):
    """The same of the pool behind it."""

    def flush(self) -> None:
        logger.warning("own pool: flushes")
        super().flush()


class OwnPool(prefork.TaskPool):
    """Prefork with that pool behind it."""

    Pool = OwnAsynPool

    def on_start(self) -> None:
        logger.warning("own pool: starts")
        super().on_start()


class FinalConsumer(Consumer):
    """A consumer class that nobody may derive from."""

    def __init_subclass__(cls) -> None:
        raise TypeError("FinalConsumer is final")


@task(name="guarded.heard")
def heard(key: str) -> None:
    with (RUNS / key).open("a") as log:
        log.write("{}\n")


@task(name="guarded.early", policy=Policy(acks="early", max_attempts=1))
def early(key: str) -> None:
    heard.run(key)
