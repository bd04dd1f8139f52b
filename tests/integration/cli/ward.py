"""An application whose set-up `guardrails doctor` looks at: a test gives it a broker and whatever is to be wrong."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from celery import Celery

from celery_guardrails import GuardedTask, Policy, clock
from celery_guardrails.cli.doctor.checks.catalogue import CHECKS
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, Level, found_by
from celery_guardrails.cli.project import Project
from celery_guardrails.store import lease
from celery_guardrails.store.engine import open_store

__all__ = ["Looked", "Ward"]

Looked = dict[str, list[Finding]]


class Ward:
    """An application, and what the checks find of it."""

    def __init__(self, folder: Path, broker_url: str, settings: dict[str, Any], conf: dict[str, Any]) -> None:
        self.store_url = f"sqlite:///{folder / 'archive.sqlite3'}"
        self.app = Celery("ward", broker=broker_url, set_as_current=False)
        self.app.conf.update(
            task_time_limit=300, worker_prefetch_multiplier=1, worker_soft_shutdown_timeout=10,
            task_default_queue="ward.tasks", **conf,
        )  # fmt: skip
        self.app.conf.guardrails = {
            "store": {"url": self.store_url},
            "dead_letter": {"queue": "ward.dead", "spool_dir": str(folder / "spool")},
            **settings,
        }

        @self.app.task(shared=False, base=GuardedTask, name="ward.mail", policy=Policy())
        def mail(order_id: int) -> None: ...

    def look(self) -> Looked:
        """Every finding, by the name of its check."""
        context, found = Context(Project(self.app)), Looked()
        try:
            for check in CHECKS:
                for finding in found_by(check, context):
                    found.setdefault(check.name, []).append(finding)
        finally:
            context.close()
            context.project.close()
        return found

    def wrong(self) -> dict[str, list[str]]:
        """What is not ok, by the name of its check."""
        looked = {name: [f.found for f in found if f.level is not Level.OK] for name, found in self.look().items()}
        return {name: found for name, found in looked.items() if found}

    def archive(self, *hosts: str, ago: timedelta = timedelta(0)) -> None:
        """Make the archive, with a sign of life of a guardian on each of these machines."""
        store = open_store(self.store_url).ready()
        with store.begin() as conn:
            for number, host in enumerate(hosts):
                lease.heartbeat(conn, f"g{number}", clock.now(), clock.now() - ago, host, 100 + number)
        store.close()
