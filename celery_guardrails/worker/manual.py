"""`self.retry()` of a guarded task: asked for by hand, bounded by the policy.

Owns the step from Celery's arguments to a decision and back to Celery's exceptions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

from celery.exceptions import Reject, Retry
from celery.utils.serialization import raise_with_context

from celery_guardrails.errors import PublishError
from celery_guardrails.letters.header import write_header
from celery_guardrails.policy import Requested, decide
from celery_guardrails.policy.decision import DeadLetter, Reason
from celery_guardrails.worker import attempt
from celery_guardrails.worker.republish import can_republish, publish_retry

__all__ = ["retry_by_hand"]


def retry_by_hand(
    task: Any,
    celery_retry: Callable[..., Retry],
    exc: BaseException | None,
    throw: bool,
    eta: datetime | None,
    countdown: float | None,
    max_retries: int | None,
    altered: bool,
) -> Retry:
    """Do what `self.retry()` asks for, within the policy.

    Args:
        task: the task.
        celery_retry: Celery's own `retry` with the caller's arguments, which can be overridden by keyword.
        exc: the error to report when no attempt is left.
        throw: whether to raise the `Retry` rather than to return it.
        eta: when the next attempt may start, or `None`.
        countdown: seconds until then, or `None`.
        max_retries: Celery's limit for this call, or `None`.
        altered: whether arguments or options differ from those of this attempt.
    """
    request = task.request
    if request.called_directly or attempt.is_plain(task):
        return celery_retry()
    cause = exc or sys.exc_info()[1] or task.MaxRetriesExceededError(f"{task.name} asked for another attempt")
    run = attempt.examine(task, request, cause, None)
    wanted = Requested(_delay(eta, countdown, run.now), None if max_retries is None else max_retries + 1)
    decision = decide(run.policy, run.failure, run.history, run.now, attempt._rng, requested=wanted)
    if isinstance(decision, DeadLetter):
        _refuse(task, request, exc, decision)
    delay = decision.delay.total_seconds()
    header = run.header.with_attempt(run.attempt(delay))
    if request.is_eager:
        write_header(request.__dict__, header)
        return celery_retry(countdown=delay, eta=None, max_retries=int(request.retries or 0) + 1)
    try:
        if altered or not can_republish(request):
            headers = dict(request.headers or {})
            write_header(headers, header)
            limit = int(request.retries or 0) + 1
            ret = _celery_way(
                lambda: celery_retry(countdown=delay or None, eta=None, max_retries=limit, headers=headers, throw=False)
            )
        else:
            publish_retry(run.guard, task, request, header, delay, run.now)
            ret = Retry(exc=exc, when=delay)
    except PublishError as lost:
        _refuse(task, request, exc, DeadLetter(Reason.RETRY_UNPUBLISHABLE, str(lost)))
    if throw:
        raise ret
    return ret


def _celery_way(publish: Callable[[], Retry]) -> Retry:
    try:
        return publish()
    except Reject as lost:  # Celery's way to say that its publish failed, which would delete the message
        raise PublishError("the task's queue", str(lost.reason)) from lost


def _refuse(task: Any, request: Any, exc: BaseException | None, decision: DeadLetter) -> NoReturn:
    """No attempt is left: raise what Celery raises. The body may still handle it; what leaves it is final."""
    request.__dict__[attempt.FINAL] = decision
    if exc is not None:
        raise_with_context(exc)  # always raises
    raise task.MaxRetriesExceededError(
        f"Can't retry {task.name}[{request.id}]: {decision.explanation}",
        task_args=request.args,
        task_kwargs=request.kwargs,
    )


def _delay(eta: datetime | None, countdown: float | None, now: datetime) -> timedelta | None:
    if eta is not None:
        aware = eta if eta.tzinfo is not None else eta.replace(tzinfo=timezone.utc)
        return max(aware - now, timedelta(0))
    return None if countdown is None else timedelta(seconds=max(0.0, countdown))
