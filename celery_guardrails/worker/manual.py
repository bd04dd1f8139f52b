"""`self.retry()` of a guarded task: asked for by hand, bounded by the policy.

Owns the step from Celery's arguments to a decision and back to Celery's exceptions.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

from celery.exceptions import Reject, Retry
from celery.utils.serialization import raise_with_context

from celery_guardrails.errors import PublishError
from celery_guardrails.letters.header import Header, write_header
from celery_guardrails.letters.replay import BROKER_HEADERS
from celery_guardrails.policy import Requested, decide
from celery_guardrails.policy.decision import DeadLetter, Decision, Reason
from celery_guardrails.worker import attempt
from celery_guardrails.worker.republish import publish_retry, republishable
from celery_guardrails.worker.run import SEEN, FailedRun, examine, is_plain

__all__ = ["RetryCall", "retry_by_hand"]

logger = logging.getLogger("celery_guardrails.worker")


@dataclass(frozen=True, slots=True)
class RetryCall:
    """What a task asked for when it called `self.retry()`.

    `celery` is Celery's own `retry` with the caller's arguments, which can be overridden by keyword; `altered` says
    that arguments or options differ from those of this attempt. The rest is as in Celery's signature.
    """

    celery: Callable[..., Retry]
    exc: BaseException | None
    throw: bool
    eta: datetime | None
    countdown: float | None
    max_retries: int | None
    altered: bool

    def requested(self, now: datetime) -> Requested:
        """The wish as the decision takes it."""
        limit = None if self.max_retries is None else self.max_retries + 1
        if self.eta is not None:
            eta = self.eta if self.eta.tzinfo is not None else self.eta.replace(tzinfo=timezone.utc)
            return Requested(max(eta - now, timedelta(0)), limit)
        return Requested(None if self.countdown is None else timedelta(seconds=max(0.0, self.countdown)), limit)


def retry_by_hand(task: Any, call: RetryCall) -> Retry:
    """Do what `self.retry()` asks for, within the policy."""
    request = task.request
    if request.called_directly or is_plain(task):
        return call.celery()
    try:
        run, decision = _decided(task, request, call)
    except Exception:  # noqa: BLE001 logged where it is handed on
        _left_to_celery(task, request)
        return call.celery()
    if isinstance(decision, DeadLetter):
        _refuse(task, request, call, decision)
    delay = decision.delay.total_seconds()
    header = run.header.with_attempt(run.attempt(delay))
    if request.is_eager:
        write_header(request.__dict__, header)
        return call.celery(countdown=delay, eta=None, max_retries=run.history.attempt)
    try:
        retry = _publish(run, call, header, delay)
    except PublishError as lost:
        _refuse(task, request, call, DeadLetter(Reason.RETRY_UNPUBLISHABLE, str(lost)))
    except Exception:  # noqa: BLE001 logged where it is handed on
        _left_to_celery(task, request)
        return call.celery()
    request.__dict__[SEEN] = Retry
    if call.throw:
        raise retry
    return retry


def _decided(task: Any, request: Any, call: RetryCall) -> tuple[FailedRun, Decision]:
    cause = call.exc if call.exc is not None else sys.exc_info()[1]
    if cause is None:
        cause = task.MaxRetriesExceededError(f"{task.name} asked for another attempt")
    run = examine(task, request, cause)
    wanted = call.requested(run.now)
    return run, decide(run.policy, run.failure, run.history, run.now, attempt.rng, requested=wanted)


def _left_to_celery(task: Any, request: Any) -> None:
    logger.warning("guardrails failed on a retry of %s[%s]: Celery does it", task.name, request.id, exc_info=True)


def _publish(run: FailedRun, call: RetryCall, header: Header, delay: float) -> Retry:
    if not call.altered and republishable(run.request) is not None:
        publish_retry(run.guard, run.task, run.request, header, delay, run.now)
        return Retry(exc=call.exc, when=delay)
    headers = {key: value for key, value in (run.request.headers or {}).items() if key not in BROKER_HEADERS}
    write_header(headers, header)
    try:
        return call.celery(
            countdown=delay or None, eta=None, max_retries=run.history.attempt, headers=headers, throw=False
        )
    except Reject as lost:  # Celery's way to say that its publish failed, which would delete the message
        raise PublishError("the task's queue", str(lost.reason)) from lost


def _refuse(task: Any, request: Any, call: RetryCall, decision: DeadLetter) -> NoReturn:
    """No attempt is left: raise what Celery raises. The body may still handle it; what leaves it is final."""
    request.__dict__[attempt.FINAL] = decision
    if call.exc is not None:
        raise_with_context(call.exc)  # always raises
    raise task.MaxRetriesExceededError(
        f"Can't retry {task.name}[{request.id}]: {decision.explanation}",
        task_args=request.args,
        task_kwargs=request.kwargs,
    )
