"""An application on Redis whose transport options come from the environment, guarded or (`ONREDIS_PLAIN`) not.

Each run is noted in a file below `ONREDIS_RUNS`: a line when it starts, and another when it ends.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from kombu import Exchange, Queue

from celery_guardrails import Constant, GuardedTask, Policy

PLAIN = bool(os.environ.get("ONREDIS_PLAIN"))
RUNS = Path(os.environ.get("ONREDIS_RUNS", "."))

app = Celery("onredis")
app.conf.update(
    broker_url=os.environ.get("BROKER_URL", "memory://"),
    broker_transport_options=json.loads(os.environ.get("ONREDIS_OPTIONS", "{}")),
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_ignore_result=True,
    task_queues=[
        Queue("celery", Exchange("celery"), routing_key="celery"),
        Queue("second", Exchange("celery"), routing_key="second"),
        Queue("topical", Exchange("topics", type="topic"), routing_key="news.#"),
    ],
    worker_prefetch_multiplier=int(os.environ.get("ONREDIS_PREFETCH", "4")),
)
app.conf.update(json.loads(os.environ.get("ONREDIS_CONF", "{}")))
if not PLAIN:  # settings of that name alone put guardrails in place
    app.conf.guardrails = {"environment": "test", "dead_letter": {"queue": "dead", "spool_dir": str(RUNS / "spool")}}
base: type[Task] = Task if PLAIN else GuardedTask
extra: dict[str, Any] = {} if PLAIN else {"policy": Policy(max_attempts=2, backoff=Constant("1s"), jitter="none")}


def note(key: str, what: str) -> None:
    """Add a line to the runs of `key`; short writes to a file opened for appending do not mix."""
    with (RUNS / key).open("a") as log:
        log.write(f"{what} {os.getpid()} {time.time():.3f}\n")


@app.task(base=base, name="onredis.work", shared=False, **extra)
def work(key: str, seconds: float = 0.0) -> None:
    note(key, "start")
    if seconds:
        time.sleep(seconds)
    note(key, "end")


@app.task(base=base, name="onredis.once", shared=False, **({} if PLAIN else {"policy": Policy(acks="early")}))
def once(key: str) -> None:
    note(key, "start")


@app.task(base=base, name="onredis.count", shared=False, **extra)
def count(number: int) -> None:
    with (RUNS / "counted").open("a") as log:
        log.write(f"{number}\n")


@app.task(base=base, name="onredis.failing", shared=False, **extra)
def failing(key: str) -> None:
    note(key, "start")
    raise ConnectionError("down")
