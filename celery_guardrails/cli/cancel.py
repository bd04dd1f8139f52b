"""Cancelling a waiting task: it becomes a dead letter first, and only then stops waiting.

Owns the order of the two steps. Cancelling twice makes the same letter (`worker/failure/unrun.py`).
"""
# on its own: it knows the order of letter and removal, retries.py what a person types and sees

from __future__ import annotations

from datetime import datetime

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.record import Letter
from celery_guardrails.policy import Policy
from celery_guardrails.policy.decision import Reason
from celery_guardrails.transport.waiting.protocol import WaitingTask
from celery_guardrails.worker.failure.tracing import FailureSpan
from celery_guardrails.worker.failure.unrun import Verdict, unrun_letter

__all__ = ["cancel", "cancelled_letter"]


def cancel(guard: Guardrails, waiting: WaitingTask, actor: str, reason: str, now: datetime) -> Letter | None:
    """Publish the dead letter of a waiting task, confirmed, then remove the task from those that wait.

    Args:
        guard: the application's guardrails.
        waiting: the task that waits.
        actor: who cancels it.
        reason: why.
        now: this instant.

    Returns:
        The letter; `None` if the task no longer waited, because it became due meanwhile: then it runs, and has a letter
        too.

    Raises:
        PublishError: the broker did not take the letter; the task still waits.
        Unlistable: this broker cannot remove a waiting task.
    """
    with FailureSpan(Reason.CANCELLED.value, waiting.envelope.headers) as span:
        letter, policy = cancelled_letter(guard, waiting, actor, reason, now)
        span.explain(letter.reason.shown, letter.explanation)
        guard.dead_letters.send(letter, policy.dead_letter_queue)
    return letter if guard.waiting.remove([waiting.id]) else None


def cancelled_letter(
    guard: Guardrails, waiting: WaitingTask, actor: str, reason: str, now: datetime
) -> tuple[Letter, Policy]:
    """The dead letter of a task that `actor` cancelled while it waited, and its policy."""
    text = f"{actor} cancelled it while it waited for attempt {waiting.attempt}: {reason}"
    return unrun_letter(guard, waiting, Verdict(Reason.CANCELLED, text, f"{actor}: {reason}"), now)
