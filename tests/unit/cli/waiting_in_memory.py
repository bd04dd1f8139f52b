"""Waiting in this process's memory: what the commands on waiting tasks need of a broker that can list them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from kombu import Queue

from celery_guardrails.letters.header import HEADER, Header
from celery_guardrails.policy import Attempt, Category
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.waiting.protocol import WaitingTask

__all__ = ["InMemoryWaiting", "waiting"]


class InMemoryWaiting:
    """Keeps entries in a list. `steal` are ids that become due while somebody asks for them."""

    name = "memory"
    outside = True
    listed = True

    def __init__(self, *entries: WaitingTask) -> None:
        self.kept = list(entries)
        self.ran: list[str] = []
        self.steal: set[str] = set()

    def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
        raise NotImplementedError

    def release_due(self, now: datetime, most: int = 1000) -> int:
        return 0

    def count(self) -> int:
        return len(self.kept)

    def entries(self, limit: int, after: str | None = None) -> list[WaitingTask]:
        ordered = sorted(self.kept, key=lambda entry: entry.due_at)
        start = 0 if after is None else [entry.id for entry in ordered].index(after) + 1
        return ordered[start : start + limit]

    def find(self, id: str) -> list[WaitingTask]:
        return [entry for entry in self.kept if entry.id.startswith(id) or entry.task_id.startswith(id)]

    def run_now(self, ids: Sequence[str]) -> int:
        self.ran += [id for id in ids if id not in self.steal]
        return self.remove(ids)

    def remove(self, ids: Sequence[str]) -> int:
        gone = [entry for entry in self.kept if entry.id in ids]
        self.kept = [entry for entry in self.kept if entry not in gone]
        return sum(entry.id not in self.steal for entry in gone)


def waiting(id: str, due_at: datetime, *, failed: int = 0, task: str = "shop.mail", **changes: Any) -> WaitingTask:
    """A task that waits after `failed` attempts, each of which ended a minute before the one to come."""
    ended = due_at - timedelta(minutes=1)
    attempts = tuple(
        Attempt(number, None, ended, "shop.SmtpTimeout", "no\x1b[31m answer", Category.TIMEOUT, "f1f1", "w1@host", 60.0)
        for number in range(1, failed + 1)
    )
    task_id = changes.pop("task_id", f"task-{id}")
    headers = {"task": task, "id": task_id, "root_id": task_id, "retries": failed, "eta": due_at.isoformat()}
    headers[HEADER] = Header(published_at=ended, attempts=attempts, work="publish").encode()
    body = json.dumps([[7], {"password": "hunter2", "customer": "ada"}, {}]).encode()
    values: dict[str, Any] = {
        "id": id,
        "task": task,
        "task_id": task_id,
        "queue": "shop.tasks",
        "due_at": due_at,
        "attempt": failed + 1,
        "envelope": Envelope(body, "shop.tasks", "", "application/json", "utf-8", headers, {"correlation_id": task_id}),
    }
    return WaitingTask(**values | changes)
