"""The application of the proof that work takes effect once: a task writes its row and the ledger's in one transaction.

`python -m tests.chaos.effect_app NUMBER` sends so many orders, each twice.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import Any

from celery import Celery
from sqlalchemy import Column, Integer, MetaData, Table, Text, create_engine

from celery_guardrails import Constant, GuardedTask, Idempotency, Policy

DATABASE = os.environ["EFFECT_DATABASE"]
IN_TRANSACTION = os.environ.get("EFFECT_LEDGER", "database") == "database"

app = Celery("effect", broker=os.environ["CHAOS_BROKER"])
app.conf.update(
    task_default_queue="effect.tasks",
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=2,
    broker_transport_options=json.loads(os.environ.get("CHAOS_TRANSPORT_OPTIONS", "{}")),
    worker_cancel_long_running_tasks_on_connection_loss=False,
    guardrails={
        "environment": "chaos",
        "store": {"url": DATABASE},
        "idempotency": {"url": DATABASE if IN_TRANSACTION else os.environ["EFFECT_LEDGER"]},
        "dead_letter": {"queue": "effect.dead", "spool_dir": os.environ["CHAOS_SPOOL"], "publish_timeout": "2s"},
    },
)

tables = MetaData()
# without a key of its own: what is done twice is there twice
paid = Table(
    "paid",
    tables,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("order_id", Integer, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("fence", Integer, nullable=False),
)
engine = create_engine(DATABASE.replace("postgresql://", "postgresql+psycopg://"), pool_pre_ping=True)
POLICY = Policy(
    idempotency=Idempotency(key=("order_id",), lease="3s"),
    max_attempts=200,
    max_crashes=200,
    backoff=Constant("500ms"),
    deadline="1h",
)


@app.task(base=GuardedTask, bind=True, name="effect.pay", policy=POLICY, shared=False)
def pay(self: Any, order_id: int) -> int:
    """Pay an order. It takes a while, so that what is broken meets work that runs."""
    with engine.begin() as conn:
        time.sleep(random.uniform(0, 0.1))
        conn.execute(paid.insert().values(order_id=order_id, task_id=self.request.id, fence=self.idempotency.fence))
        if IN_TRANSACTION:
            self.idempotency.finish_in(conn, order_id)
    return order_id


if __name__ == "__main__":
    orders = range(int(sys.argv[1]))
    for order in [*orders, *orders]:
        pay.delay(order)
