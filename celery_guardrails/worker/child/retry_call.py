"""`self.retry()` of a guarded task: the task asks for another attempt, and the policy bounds it.

Owns the step from Celery's arguments to a decision and back to Celery's exceptions.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, NoReturn

from celery import Task, _state
from celery.exceptions import Reject, Retry
from celery.utils.serialization import raise_with_context

from celery_guardrails.app.guardrails import is_plain
from celery_guardrails.app.in_force import subject_of
from celery_guardrails.errors import PublishError
from celery_guardrails.figures.summary import AttemptOutcome
from celery_guardrails.letters.header import Header, write_header
from celery_guardrails.letters.replay import BROKER_HEADERS
from celery_guardrails.policy import Policy, Requested, decide
from celery_guardrails.policy.decision import DeadLetter, Decision
from celery_guardrails.policy.decision import Retry as Again
from celery_guardrails.seams import CARRIERS, holds
from celery_guardrails.worker.child import body
from celery_guardrails.worker.child.journaled import mark_done
from celery_guardrails.worker.child.soft_limit import call_undisturbed
from celery_guardrails.worker.failure.attempt_end import note_run
from celery_guardrails.worker.failure.failed_run import SEEN, FailedRun, examine
from celery_guardrails.worker.failure.next_attempt import decide_unpublishable, republishable_original
from celery_guardrails.worker.failure.outcome import rng, run_again

__all__ = ["RetryCall", "is_unpublished", "retry_as_raised", "retry_by_hand"]

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

    def requested(self, now: datetime, bounded: bool) -> Requested:
        """The request in the form that `decide` takes; `bounded`: `max_attempts` is declared for this task."""
        limit = None if self.max_retries is None else self.max_retries + 1
        if self.eta is not None:
            eta = self.eta if self.eta.tzinfo is not None else self.eta.replace(tzinfo=timezone.utc)
            return Requested(max(eta - now, timedelta(0)), limit, bounded)
        delay = None if self.countdown is None else timedelta(seconds=max(0.0, self.countdown))
        return Requested(delay, limit, bounded)


def retry_by_hand(task: Any, call: RetryCall) -> Retry:
    """Do what `self.retry()` asks for, within the policy."""
    request = task.request
    if request.called_directly and not call.altered and (carrier := _carrier_that_runs(task)) is not None:
        outer: Retry = carrier.retry(
            exc=call.exc, throw=call.throw, eta=call.eta, countdown=call.countdown, max_retries=call.max_retries
        )
        return outer
    if request.called_directly:
        return call.celery()
    if is_plain(task):
        published = call.celery()
        request.__dict__[SEEN] = Retry
        return published
    if request.is_eager or request.__dict__.get(SEEN) is not Retry:
        # a soft time limit is for the body: it must not interrupt a publish, which would then happen twice
        retry = call_undisturbed(lambda: _retry(task, request, call))
    else:
        logger.warning("%s[%s] calls retry() again: its next attempt is published already", task.name, request.id)
        retry = Retry(exc=call.exc)
    if call.throw:
        raise retry
    return retry


def is_unpublished(signal: BaseException, task: Any, request: Any) -> bool:
    """Whether the body raised this Retry itself: Celery takes it for a retry, but no attempt is published.

    Args:
        signal: what left the body.
        task: the task.
        request: its request.
    """
    if not isinstance(signal, Retry) or signal.sig is not None or request.__dict__.get(SEEN) is Retry:
        return False
    try:
        return not is_plain(task)
    except Exception:  # noqa: BLE001 the settings are wrong: nothing is guarded
        return False


def retry_as_raised(task: Any, request: Any, signal: Retry) -> BaseException:
    """Do what `raise Retry()` asks for as `self.retry()` would, and return what is to leave the task.

    Args:
        task: the task.
        request: its request.
        signal: the Retry that the body raised, which is not published.
    """
    exc = signal.exc if isinstance(signal.exc, BaseException) else None
    eta = signal.when if isinstance(signal.when, datetime) else None
    countdown = float(signal.when) if isinstance(signal.when, (int, float)) else None
    celery = partial(Task.retry, task, exc=exc, eta=eta, countdown=countdown, throw=False)
    try:
        outcome: BaseException = retry_by_hand(task, RetryCall(celery, exc, False, eta, countdown, None, altered=False))
    except Exception as refused:  # noqa: BLE001 it leaves the body
        outcome = body.settle_attempt(task, request, refused)
    return outcome


def _carrier_that_runs(task: Any) -> Any:
    """The `map` or `starmap` that runs this task for one of its items: the next attempt is one of its message."""
    running = _state._task_stack.stack if holds(CARRIERS) else []
    below = running[-2] if len(running) > 1 else None
    return below if below is not None and below is not task and subject_of(below) is task else None


def _retry(task: Any, request: Any, call: RetryCall) -> Retry:
    try:
        run, decision = _decide(task, request, call)
    except Exception:  # noqa: BLE001 _leave_to_celery logs it
        return _leave_to_celery(task, request, call)
    if isinstance(decision, DeadLetter):
        _refuse(task, request, call, decision)
    if request.is_eager:
        delay = decision.delay.total_seconds()
        headers = body.headers_with(request, run.header.with_attempt(run.attempt(delay)))
        countdown = body.as_celery_says(delay)
        return call.celery(countdown=countdown, eta=None, max_retries=run.history.attempt, headers=headers)
    try:
        retry = _publish(run, call, decision)
        note_run(run, AttemptOutcome.RETRIED, delay=decision.delay.total_seconds())
        mark_done(task, request)
    except PublishError as lost:
        _refuse(task, request, call, decide_unpublishable(lost))
    except Exception:  # noqa: BLE001 _leave_to_celery logs it
        return _leave_to_celery(task, request, call)
    request.__dict__[SEEN] = Retry
    return retry


def _decide(task: Any, request: Any, call: RetryCall) -> tuple[FailedRun, Decision]:
    cause = call.exc if call.exc is not None else sys.exc_info()[1]
    if isinstance(cause, Retry):  # a body that raised it by hand
        cause = cause.__cause__ or cause.__context__
    bare = cause is None
    if cause is None:
        cause = Retry(f"{task.name} asked for another attempt")
    run = examine(task, request, cause)
    bounded = "max_attempts" in run.guard.policy_of(task).explicit
    wanted = replace(call.requested(run.now, bounded), bare=bare)
    policy = _without_a_default_deadline(run) if wanted.delay is not None else run.policy
    return run, decide(policy, run.failure, run.history, run.now, rng, requested=wanted)


def _without_a_default_deadline(run: FailedRun) -> Policy:
    """The policy for a delay that the task itself asks for: the default deadline does not forbid it."""
    policy = run.policy
    if run.guard.policy_of(run.task).provenance["deadline"] != "default" or policy.max_attempts is None:
        return policy
    return policy.model_copy(update={"deadline": None})


def _leave_to_celery(task: Any, request: Any, call: RetryCall) -> Retry:
    logger.warning("guardrails failed on a retry of %s[%s]: Celery publishes it", task.name, request.id, exc_info=True)
    retry = call.celery(throw=False)
    if not request.is_eager:
        request.__dict__[SEEN] = Retry
    return retry


def _publish(run: FailedRun, call: RetryCall, decision: Again) -> Retry:
    if not call.altered and republishable_original(run.request) is not None:
        run_again(run, decision)
        return Retry(decision.reason, call.exc, when=decision.delay.total_seconds())
    retry: Retry = run_again(run, decision, partial(_publish_altered, call))
    retry.message = decision.reason  # Celery logs it
    return retry


def _publish_altered(call: RetryCall, run: FailedRun, header: Header, delay: float) -> Retry:
    """Have Celery publish an attempt with other arguments or options."""
    headers = {key: value for key, value in (run.request.headers or {}).items() if key not in BROKER_HEADERS}
    write_header(headers, header)
    try:
        return call.celery(
            countdown=delay or None, eta=None, max_retries=run.history.attempt, headers=headers, throw=False
        )
    except Reject as lost:  # Celery raises it when its publish failed; it would delete the message
        raise PublishError("the task's queue", str(lost.reason)) from lost


def _refuse(task: Any, request: Any, call: RetryCall, decision: DeadLetter) -> NoReturn:
    """No attempt is left: raise what Celery raises. The body may still handle it; if not, the decision is final."""
    request.__dict__[body.FINAL] = decision
    if call.exc is not None:
        raise_with_context(call.exc)  # always raises
    raise task.MaxRetriesExceededError(
        # without the task's id, which the letter has anyway: the same failure has the same text in all letters
        f"Can't retry {task.name}: {decision.explanation}",
        task_args=request.args,
        task_kwargs=request.kwargs,
    )
