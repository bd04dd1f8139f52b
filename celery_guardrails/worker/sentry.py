"""What Sentry is told: on the final failure our tags and context go on the event that its own integration sends.

Owns nothing but that. It does nothing where the application has not initialised Sentry with its Celery integration,
sends no event of its own except for parked work, which Sentry cannot see, and is silent on retries.
"""

from __future__ import annotations

import sys
from typing import Any

from celery_guardrails.letters.record import Letter
from celery_guardrails.policy import Policy

__all__ = ["annotate", "report"]


def annotate(letter: Letter, policy: Policy) -> None:
    """Put what we know on the scope of the running task, before its exception leaves it."""
    sdk = _sdk()
    if sdk is None:
        return
    scope = sdk.get_isolation_scope()
    tags = {
        "guardrails.task": letter.task,
        "guardrails.reason": letter.reason.value,
        "guardrails.category": letter.failure.category.value,
        "guardrails.owner": letter.owner,
        "guardrails.attempts": str(letter.attempts[-1].number if letter.attempts else 1),
    }
    for name, value in tags.items():
        if value is not None:
            scope.set_tag(name, value)
    scope.set_context(
        "guardrails",
        {
            "dead_letter_id": letter.origin_id,
            "explanation": letter.explanation,
            "generation": letter.generation,
            "queue": letter.queue,
            "runbook": policy.runbook,
            "policy": letter.policy,
        },
    )
    scope.fingerprint = [letter.task, letter.failure.fingerprint]


def report(exc: BaseException) -> None:
    """Send the event of parked work, which leaves the task as Celery's Ignore and so never reaches Sentry."""
    sdk = _sdk()
    if sdk is not None:
        sdk.capture_exception(exc)


def _sdk() -> Any:
    sdk = sys.modules.get("sentry_sdk")
    if sdk is None or not sdk.is_initialized() or sdk.get_client().get_integration("celery") is None:
        return None
    return sdk
