"""A small application for the tests of the commands. What differs between tests comes from environment variables."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
from celery import Celery

from celery_guardrails import Constant, GuardedTask, PermanentError, Policy

RUNS = Path(os.environ.get("SHOP_RUNS", "."))
PREFIX = os.environ.get("SHOP_PREFIX", "shop")

app = Celery("shop_app")
app.conf.update(
    broker_url=os.environ.get("SHOP_BROKER", "memory://"),
    broker_transport_options=(
        {"data_folder_in": str(RUNS / "broker"), "data_folder_out": str(RUNS / "broker")}
        if os.environ.get("SHOP_BROKER", "").startswith("filesystem")
        else {}
    ),
    result_backend=os.environ.get("SHOP_RESULTS"),
    task_default_queue=f"{PREFIX}.tasks",
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    guardrails={
        "environment": "test",
        "dead_letter": {"queue": f"{PREFIX}.dead"},
        "store": {"url": os.environ.get("SHOP_STORE", f"sqlite:///{RUNS / 'archive.sqlite3'}")},
        "alerts": {
            "group_wait": "100ms",
            "routes": [
                {"to": to, "task": task} for to, task in json.loads(os.environ.get("SHOP_ROUTES", "{}")).items()
            ],
        },
        "guard": ["vendor.*"],
        "policies": {"vendor.*": {"max_attempts": 2, "owner": "vendors"}},
    },
)

if os.environ.get("SHOP_PRELOAD"):
    # Celery gives such an option to every command, those of plugins included.
    app.user_options["preload"].add(click.Option(["--zone"], default="utc"))


@app.task(
    base=GuardedTask,
    name="shop.mail",
    policy=Policy(
        max_attempts=2,
        backoff=Constant(os.environ.get("SHOP_BACKOFF", "50ms")),
        jitter="none",
        owner="growth",
        runbook="https://runbooks.example/mail",
        correlate=("order_id",),
        affected_by=("customer",),
    ),
)
def mail(order_id: int, customer: str = "ada", password: str = "") -> str:
    if not (RUNS / "repaired").exists():
        raise TimeoutError("smtp did not answer")
    with (RUNS / "sent").open("a") as log:
        log.write(f"{order_id}\n")
    return "sent"


@app.task(base=GuardedTask, name="shop.import", policy=Policy(dead_letter_queue=f"{PREFIX}.imports"))
def import_(path: str) -> None:
    raise PermanentError(f"no such file: {path}")


@app.task(name="vendor.sync")
def vendor_sync() -> None:
    """A task that came under guard by its name."""


@app.task(name="outside.plain")
def plain() -> None:
    """A task that nobody guards."""
