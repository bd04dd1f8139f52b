"""Announcing an end that only the main process sees: Celery stores it, calls hooks, and sends signals and events.

Owns what is announced, and that the message is acknowledged afterwards. It must not know why the end was decided so,
and must not publish retries or letters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded
from celery import signals
from celery.exceptions import Retry
from celery.worker import state
from celery.worker.request import Request
from kombu.utils.encoding import safe_repr

from celery_guardrails.letters.record import Letter
from celery_guardrails.policy.decision import Retry as Again
from celery_guardrails.worker.child.tracer import RetryInfo
from celery_guardrails.worker.failure import sentry
from celery_guardrails.worker.failure.failed_run import FailedRun
from celery_guardrails.worker.failure.outcome import (
    Dead,
    NotTaken,
    Outcome,
    Retried,
    log_not_taken,
    park,
)
from celery_guardrails.worker.failure.unreported import log_unreported
from celery_guardrails.worker.main import journal, seen
from celery_guardrails.worker.main.exit_event import exit_events
from celery_guardrails.worker.main.seen import Life

__all__ = [
    "Announce",
    "announce_and_acknowledge",
    "announce_cancel",
    "announce_failure",
    "announce_loss",
    "announce_requeue",
    "announce_success",
    "announce_timeout",
    "announce_unbegun",
    "einfo",
    "final_step",
    "final_step_of_letter",
]

logger = logging.getLogger("celery_guardrails.worker")

Announce = Callable[[], Any]
"""Has Celery announce one end."""

# At a hard time limit Celery 5.7's `on_timeout` calls the hooks and sends the signals; before, `on_failure` sends them.
_ANNOUNCES_TIMEOUT = "on_failure" in Request.on_timeout.__code__.co_names


def final_step(request: Any, run: FailedRun, outcome: Outcome, announce: Announce | None) -> Announce:
    """What is left to do about an end after `outcome`: Celery announces it, and the message is acknowledged.

    Args:
        request: the worker's request.
        run: the failed run.
        outcome: what guardrails has done about it.
        announce: how Celery announces a failure; `None`: Celery does so later, by itself.
    """
    if isinstance(outcome, Retried):
        logger.warning("%s[%s] is retried: %s", run.task.name, request.id, outcome.decision.reason)
        return partial(_announce_retry, request, run, outcome.decision)
    if isinstance(outcome, Dead):
        if outcome.parked:
            return partial(_announce_parking, request, run, outcome.letter)
        group_by = run.guard.settings.alerts.group_by
        request.dead_lettered = sentry.Facts(outcome.letter, run.policy, run.redactor, group_by)
    return final_step_of_letter(request, outcome, announce)


def final_step_of_letter(request: Any, outcome: Dead | NotTaken, announce: Announce | None) -> Announce:
    """What is left to do about an end after its letter, for a letter that was made without a `FailedRun`.

    Args:
        request: the worker's request.
        outcome: whether the broker or the spool took the letter.
        announce: how Celery announces a failure; `None`: Celery does so later, by itself.
    """
    if isinstance(outcome, NotTaken):
        return partial(_give_back, request, outcome)
    if announce is None:
        return partial(state.task_ready, request)
    return partial(announce_and_acknowledge, request, announce)


def einfo(exc: BaseException) -> ExceptionInfo:
    """Billiard's form of an exception. It needs a traceback, so the exception is raised here."""
    try:
        raise exc
    except BaseException:  # noqa: BLE001 raised just above
        return ExceptionInfo()


def announce_failure(request: Any, exc: BaseException) -> None:
    """Store a failure and send its signal and event, for an end that Celery itself does not announce."""
    state.task_ready(request)
    _store_failure(request, exc)
    _signal_failure(request, exc)


def announce_loss(celery: Callable[[Any], Any], exc: BaseException) -> None:
    """Let Celery announce a lost worker.

    Args:
        celery: what Celery does with an error of the pool.
        exc: the error.
    """
    celery(einfo(exc))


def announce_timeout(request: Any, timeout: float, celery: Announce) -> None:
    """Let Celery announce a hard time limit, once."""
    exit_events.note(getattr(request, "worker_pid", None))
    task = request.task
    keeps = getattr(task, "acks_on_timeout", getattr(task, "acks_on_failure_or_timeout", True))
    if task.acks_late and not keeps:
        request.acknowledge()  # else Celery would give the message back, again and again
    celery()
    if not _ANNOUNCES_TIMEOUT:
        _signal_failure(request, TimeLimitExceeded(timeout))


def announce_success(request: Any) -> None:
    """Log and acknowledge a task whose worker was lost after its success had been stored: nothing failed."""
    logger.warning("%s[%s] had succeeded before its worker was lost", request.name, request.id)
    state.task_ready(request, successful=True)
    request.acknowledge()


def announce_cancel(request: Any, celery: Announce) -> None:
    """Let Celery announce a task that it cancels. The message goes back to its queue even if that fails.

    Args:
        request: the worker's request, whose task runs.
        celery: how Celery announces it.
    """
    request._already_cancelled = True  # first: else the end of the child would look like that of a revoked task
    with _harmless(request):
        if request.unmark is not None:
            request.unmark()  # this worker ends the task: its death is not a crash
    with _harmless(request):
        celery()


def announce_requeue(request: Any) -> None:
    """Acknowledge the message of a task that asked to be put back, and whose message was published again."""
    state.task_ready(request)
    request.let_go()
    request.send_event("task-rejected", requeue=True)


def announce_unbegun(request: Any) -> None:
    """Log that a task had not begun, and that its message was published again."""
    logger.warning("%s[%s] had not begun: it goes back to its queue", request.name, request.id)
    state.task_ready(request)


def announce_and_acknowledge(request: Any, announce: Announce) -> None:
    """Announce an end, then acknowledge the message, even if a hook of the user or the result backend raises.

    Args:
        request: the worker's request, whose end is settled.
        announce: how Celery announces the end.
    """
    try:
        with sentry.annotated_scope(request.dead_lettered):
            announce()
    except Exception as exc:  # noqa: BLE001 logged, whatever it is
        log_unreported("the end", request.name, request.id, exc)
    finally:
        state.task_ready(request)
        request.acknowledge()  # does nothing if Celery has acknowledged it already


def _announce_retry(request: Any, run: FailedRun, decision: Again) -> None:
    task, exc = run.task, run.failure.exception
    retry = Retry(decision.reason, exc, when=decision.delay.total_seconds())
    state.task_ready(request)
    seen.of(run.guard).note(Life.of(request), run.number)  # attempt n + 1 has n retries
    with _harmless(request):
        if request.store_errors:
            task.backend.mark_as_retry(request.id, exc, "", request=run.request)
    request.acknowledge()
    with _harmless(request), _running(task, run.request):
        request.send_event("task-retried", exception=safe_repr(exc), traceback="")
        task.on_retry(exc, request.id, request.args, request.kwargs, None)
        signals.task_retry.send(sender=task, request=run.request, reason=retry, einfo=None)
    request.pass_retry_to_application(RetryInfo(retry, ""))


def _announce_parking(request: Any, run: FailedRun, letter: Letter) -> None:
    state.task_ready(request)
    with _harmless(request):
        park(run, letter)
    request.acknowledge()


def _give_back(request: Any, outcome: NotTaken) -> None:
    """The last resort: give the message back to the broker, which delivers it again, or keep it in the journal."""
    state.task_ready(request)
    goes_back = not (request.acknowledged or journal.is_kept(request))
    log_not_taken(outcome, f"{request.name}[{request.id}]", goes_back=goes_back)
    if goes_back:
        request.reject(requeue=True)
    else:
        journal.leave(request, outcome.letter, outcome.queue)


def _store_failure(request: Any, exc: BaseException) -> None:
    with _harmless(request):
        request.task.backend.mark_as_failure(
            request.id, exc, request=request._context, store_result=request.store_errors
        )


def _signal_failure(request: Any, exc: BaseException) -> None:
    info = einfo(exc)
    with _harmless(request), _running(request.task, request._context):
        signals.task_failure.send(
            sender=request.task, task_id=request.id, exception=exc, args=request.args, kwargs=request.kwargs,
            traceback=info.traceback, einfo=info,
        )  # fmt: skip
        request.send_event("task-failed", exception=safe_repr(exc), traceback=info.traceback)


@contextmanager
def _running(task: Any, context: Any) -> Iterator[None]:
    """Put the request in its task, so that hooks and receivers find it there."""
    task.request_stack.push(context)
    try:
        yield
    finally:
        task.request_stack.pop()


@contextmanager
def _harmless(request: Any) -> Iterator[None]:
    """Log an error of the announcement, and go on."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001 logged, whatever it is
        log_unreported("the end", request.name, request.id, exc)
