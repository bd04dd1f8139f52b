"""A waiting task that a person decides against: it becomes a dead letter, and only then stops waiting.

Owns the order of the two steps. Doing it twice makes the same letter again (`worker/failure/unrun.py`).
"""
# on its own: it knows the order of letter and removal, retries.py what a person says and sees

from __future__ import annotations

from datetime import datetime

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.record import Letter
from celery_guardrails.policy import Policy
from celery_guardrails.policy.decision import Reason
from celery_guardrails.transport.waiting.protocol import WaitingTask
from celery_guardrails.worker.failure.unrun import Verdict, unrun_letter

__all__ = ["cancel", "cancelled_letter"]


def cancel(guard: Guardrails, waiting: WaitingTask, actor: str, reason: str, now: datetime) -> Letter | None:
    """Dead-letter a waiting task, confirmed, then take it off the waiting ones.

    Args:
        guard: the application's guardrails.
        waiting: what waits.
        actor: who decides it.
        reason: why.
        now: this instant.

    Returns:
        Its letter; `None` when it no longer waited, because it became due meanwhile: it runs, and its letter is there
        too.

    Raises:
        PublishError: the broker did not take the letter; it goes on waiting.
        Unlistable: this broker cannot take a waiting task away.
    """
    letter, policy = cancelled_letter(guard, waiting, actor, reason, now)
    guard.dead_letters.send(letter, policy.dead_letter_queue)
    return letter if guard.waiting.remove([waiting.id]) else None


def cancelled_letter(
    guard: Guardrails, waiting: WaitingTask, actor: str, reason: str, now: datetime
) -> tuple[Letter, Policy]:
    """The dead letter of a task that was cancelled while it waited (what, by whom, why), and its policy."""
    text = f"{actor} cancelled it while it waited for attempt {waiting.attempt}: {reason}"
    return unrun_letter(guard, waiting, Verdict(Reason.CANCELLED, text, f"{actor}: {reason}"), now)
