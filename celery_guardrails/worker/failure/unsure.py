"""The dead letter of a spooled attempt that the broker may have already, of work that runs at most once.

Owns that letter (`retry_unpublishable`, "may have run already") and publishing it. Making it twice makes the same
letter, because its id follows from the work and the number of the attempt.
"""
# on its own: the one letter that the housekeeping makes from an entry of the spool, and not from a request

from __future__ import annotations

from datetime import datetime

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.record import Letter
from celery_guardrails.policy import Policy
from celery_guardrails.policy.decision import Reason
from celery_guardrails.transport.routing import came_from, queue_name
from celery_guardrails.transport.spooled import Spooled
from celery_guardrails.transport.waiting.protocol import WaitingTask
from celery_guardrails.worker.failure.outcome import publish_letter
from celery_guardrails.worker.failure.tracing import FailureSpan
from celery_guardrails.worker.failure.unrun import Verdict, unrun_letter

__all__ = ["dead_letter_unsure", "unsure_letter"]


def dead_letter_unsure(guard: Guardrails, entry: Spooled, why: str, now: datetime) -> None:
    """Dead-letter an entry of the spool that may have been published.

    Args:
        guard: the application's guardrails.
        entry: what was to be published, once.
        why: why it is not known whether it was published.
        now: this instant.

    Raises:
        PublishError: neither the broker nor the spool took the letter.
    """
    with FailureSpan(Reason.RETRY_UNPUBLISHABLE.value, entry.envelope.headers) as span:
        letter, policy = unsure_letter(guard, entry, why, now)
        span.explain(letter.failure.type, letter.failure.message)
        publish_letter(guard, letter, policy.dead_letter_queue, now)


def unsure_letter(guard: Guardrails, entry: Spooled, why: str, now: datetime) -> tuple[Letter, Policy]:
    """The dead letter of an entry that may have been published, and the policy of its task."""
    envelope = entry.envelope
    headers = envelope.headers
    origin = came_from(guard.app, envelope.exchange, envelope.routing_key, headers)
    waiting = WaitingTask(
        id=str(headers.get("id") or ""),
        task=str(headers.get("task") or ""),
        task_id=str(headers.get("id") or ""),
        queue=origin.queue or queue_name(guard.app, envelope.exchange, envelope.routing_key),
        due_at=entry.due_at or entry.at,
        attempt=int(headers.get("retries") or 0) + 1,
        envelope=envelope,
    )
    text = f"the task runs at most once, and attempt {waiting.attempt} may have been published already: {why}"
    verdict = Verdict(Reason.RETRY_UNPUBLISHABLE, text[:500], f"it is not published again: {why}", in_doubt=True)
    return unrun_letter(guard, waiting, verdict, now)
