"""The letter of the little that is sure, for when the full one cannot be made: the message whole, whose it is, and why.

Owns what goes into it, and its way out. It asks neither the policy nor the arguments, because one of them is what
guardrails failed on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.in_force import subject_of
from celery_guardrails.letters.header import read_header
from celery_guardrails.letters.ran import may_have_run
from celery_guardrails.letters.record import Letter, LetterFailure, letter_id
from celery_guardrails.policy.decision import DeadLetter
from celery_guardrails.policy.describe import describe_type
from celery_guardrails.policy.failure import Category
from celery_guardrails.redaction import Redactor
from celery_guardrails.worker.failure.letter import LONGEST_EXPLANATION
from celery_guardrails.worker.failure.original import Original, kept
from celery_guardrails.worker.failure.work import work_of

__all__ = ["brief_letter", "bury_brief"]

logger = logging.getLogger("celery_guardrails.worker")

_FINGERPRINT = "v1:unexamined"


def brief_letter(task: Any, request: Any, original: Original, exc: BaseException, decision: DeadLetter) -> Letter:
    """The dead letter of a task on whose failure guardrails itself failed.

    Args:
        task: the task.
        request: its request.
        original: its message as it came.
        exc: the task's error.
        decision: why it is dead.
    """
    header, now = read_header(request.__dict__), clock.now()
    work = work_of(request.__dict__, header)
    redactor = _redactor(task)
    error, message = describe_type(exc, redactor.text)
    delivery: Mapping[str, Any] = request.delivery_info or {}
    routing_key = str(delivery.get("routing_key") or "")
    return Letter(
        id=letter_id(work, int(request.retries or 0) + 1, header.generation, decision.reason),
        dead_letter_id=header.dead_letter_id,
        claim_token=header.claim_token,
        generation=header.generation,
        task=subject_of(task).name,
        task_id=request.id,
        reason=decision.reason,
        explanation=redactor.text(decision.explanation)[:LONGEST_EXPLANATION],
        failure=LetterFailure(type=error, message=message, category=Category.UNKNOWN, fingerprint=_FINGERPRINT),
        worker=str(request.hostname or ""),
        queue=str(delivery.get("queue") or routing_key),
        exchange=str(delivery.get("exchange") or ""),
        routing_key=routing_key,
        priority=delivery.get("priority"),
        published_at=header.published_at,
        first_failed_at=now,
        died_at=now,
        may_have_run=may_have_run(decision.reason, late=bool(task.acks_late), in_doubt=decision.in_doubt),
        message=kept(original, request),
    )


def _redactor(task: Any) -> Redactor:
    try:
        return Guardrails.of(task.app).redactor()
    except Exception:  # noqa: BLE001 the settings may be what guardrails failed on
        return Redactor()


def bury_brief(task: Any, letter: Letter) -> None:
    """Send that letter.

    Raises:
        PublishError: neither the broker nor the spool took it.
    """
    Guardrails.of(task.app).dispatch.bury(letter, None, letter.died_at)
    logger.warning("%s[%s] is dead-lettered as %s, in brief", letter.task, letter.task_id, letter.reason.shown)
