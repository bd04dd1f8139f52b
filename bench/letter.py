"""A dead letter of ordinary size (about 4 KB): what is published and archived here."""

from __future__ import annotations

from datetime import datetime, timezone

from celery_guardrails.letters.record import FailedAttempt, Letter, LetterFailure, OriginalMessage, letter_id
from celery_guardrails.letters.work import Work
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category

__all__ = ["letter"]


def letter(number: int) -> Letter:
    """The letter of a task that failed three times; each number is another task."""
    now = datetime.now(timezone.utc)
    task_id = f"task-{number}"
    attempts = tuple(
        FailedAttempt(number=n, started_at=now, ended_at=now, error="TimeoutError", message="late", worker="w@h")
        for n in range(1, 4)
    )
    return Letter(
        id=letter_id(Work(task_id, "", "", ""), 3, 0, Reason.ATTEMPTS_EXHAUSTED),
        task="bench.mail",
        task_id=task_id,
        reason=Reason.ATTEMPTS_EXHAUSTED,
        failure=LetterFailure(
            type="TimeoutError", message="late", category=Category.TIMEOUT, fingerprint="v1:1", traceback="T" * 1500
        ),
        attempts=attempts,
        queue="mail",
        first_failed_at=now,
        died_at=now,
        correlation={"order_id": str(number)},
        message=OriginalMessage.model_construct(
            body=b"[[1],{},{}]" * 10,
            content_type="application/json",
            content_encoding="utf-8",
            headers={},
            properties={},
        ),
    )
