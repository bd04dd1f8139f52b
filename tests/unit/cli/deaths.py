"""Dead letters for the tests of the commands, as a guardian would archive them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from celery_guardrails.alerts.event import AlertEvent
from celery_guardrails.letters.record import (
    FailedAttempt,
    Letter,
    LetterFailure,
    OriginalMessage,
    Preview,
    letter_id,
)
from celery_guardrails.letters.work import Work
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.store import alert
from celery_guardrails.store import letter as letters
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.store.letter import Archivable
from tests.archive import migrated_file

DIED = datetime(2026, 3, 1, 14, 0, tzinfo=timezone.utc)
TRACEBACK = 'Traceback (most recent call last):\n  File "shop.py", line 7, in mail\nTimeoutError: smtp did not answer\n'


def dead(number: int, **changes: Any) -> Letter:
    """The `number`-th dead letter of an outage, a minute after the one before."""
    task_id = f"task-{number}"
    died = DIED + timedelta(minutes=number)
    values: dict[str, Any] = {
        "id": letter_id(Work(f"task-{number}", "", "", ""), 3, changes.get("generation", 0), Reason.ATTEMPTS_EXHAUSTED),
        "task": "shop.mail",
        "task_id": task_id,
        "root_id": task_id,
        "reason": Reason.ATTEMPTS_EXHAUSTED,
        "explanation": "3 of 3 attempts failed, the last with TimeoutError",
        "failure": LetterFailure(
            type="TimeoutError", message="smtp did not answer", category=Category.TIMEOUT,
            fingerprint="f1f1f1f1f1f1f1f1", traceback=TRACEBACK,
        ),
        "attempts": tuple(_attempt(attempt, died) for attempt in (1, 2, 3)),
        "policy": {"max_attempts": 3},
        "environment": "test",
        "worker": "w1@host",
        "queue": "shop.tasks",
        "routing_key": "shop.tasks",
        "published_at": died - timedelta(minutes=1),
        "first_failed_at": died - timedelta(seconds=20),
        "died_at": died,
        "correlation": {"order_id": str(number)},
        "affected": {"customer": "ada"},
        "version": "2026.3",
        "owner": "growth",
        "runbook": "https://runbooks.example/mail",
        "preview": Preview(args=f"({number},)", kwargs="{'customer': 'ada', 'password': '***'}"),
        "message": OriginalMessage(
            body=b"W1tdLCB7fSwge31d", content_type="application/json", content_encoding="utf-8",
            headers={"task": "shop.mail", "id": task_id}, properties={"correlation_id": task_id},
        ),
    }  # fmt: skip
    return Letter(**values | changes)


def _attempt(number: int, died: datetime) -> FailedAttempt:
    ended = died - timedelta(seconds=10 * (3 - number))
    return FailedAttempt(
        number=number,
        started_at=ended - timedelta(milliseconds=250),
        ended_at=ended,
        error="TimeoutError",
        message="smtp did not answer",
        category=Category.TIMEOUT,
        worker="w1@host",
        delay=9.75 if number < 3 else None,
    )


def archived(path: Path, found: Sequence[Letter]) -> Store:
    """An archive at `path` that holds these."""
    if not path.exists():
        migrated_file(path)
    store = open_store(f"sqlite:///{path}")
    # an instant that is far ahead of the archive's would not be believed
    now = max([DIED, *(letter.died_at - timedelta(hours=12) for letter in found)])
    with store.begin() as conn:
        letters.archive(conn, [Archivable.of(letter) for letter in found], now)
        alert.record(conn, [AlertEvent.from_letter(letter) for letter in found])
    return store
