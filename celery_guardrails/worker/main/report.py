"""What Celery tells of an end that only the main process sees: to its backend, hooks, signals and events.

Owns who is told, and that the message is acknowledged after it. It must not know why it was decided so, and not
publish anything of ours.
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
from celery_guardrails.worker.failure.untold import log_untold
from celery_guardrails.worker.main import journal, seen
from celery_guardrails.worker.main.seen import Life

__all__ = [
    "Tell",
    "einfo",
    "tell_and_acknowledge",
    "tell_of_cancel",
    "tell_of_failure",
    "tell_of_loss",
    "tell_of_requeue",
    "tell_of_success",
    "tell_of_timeout",
    "tell_of_unbegun",
    "telling",
    "telling_of_letter",
]

logger = logging.getLogger("celery_guardrails.worker")

Tell = Callable[[], Any]

# Celery 5.7 tells the task's hooks and the signals of a hard time limit where the pool reports it; before, elsewhere.
_TELLS_OF_TIMEOUT = "on_failure" in Request.on_timeout.__code__.co_names


def telling(request: Any, run: FailedRun, outcome: Outcome, tell: Tell | None) -> Tell:
    """What is left to do about an end after `outcome`: Celery tells of it, and the message is acknowledged.

    Args:
        request: the worker's request.
        run: what failed.
        outcome: what has become of it.
        tell: how Celery tells of a failure here; `None`: it does by itself, later.
    """
    if isinstance(outcome, Retried):
        logger.warning("%s[%s] is retried: %s", run.task.name, request.id, outcome.decision.reason)
        return partial(_tell_of_retry, request, run, outcome.decision)
    if isinstance(outcome, Dead):
        if outcome.parked:
            return partial(_tell_of_parking, request, run, outcome.letter)
        request.dead_lettered = (outcome.letter, run.policy, run.redactor)
    return telling_of_letter(request, outcome, tell)


def telling_of_letter(request: Any, outcome: Dead | NotTaken, tell: Tell | None) -> Tell:
    """What is left to do about an end after its letter, for a letter that was made without a `FailedRun`.

    Args:
        request: the worker's request.
        outcome: what has become of the letter.
        tell: how Celery tells of a failure here; `None`: it does by itself, later.
    """
    if isinstance(outcome, NotTaken):
        return partial(_give_back, request, outcome)
    return partial(state.task_ready, request) if tell is None else partial(tell_and_acknowledge, request, tell)


def einfo(exc: BaseException) -> ExceptionInfo:
    """Billiard's form of an exception, with a traceback, which that form needs."""
    try:
        raise exc
    except BaseException:  # noqa: BLE001 raised just above
        return ExceptionInfo()


def tell_of_failure(request: Any, exc: BaseException) -> None:
    """Store the failure and send its signal and event: where Celery has no way of its own to do so."""
    state.task_ready(request)
    _store_failure(request, exc)
    _signal_failure(request, exc)


def tell_of_loss(celery: Callable[[Any], Any], exc: BaseException) -> None:
    """Let Celery tell of a lost worker.

    Args:
        celery: what Celery does with an error of the pool.
        exc: the error.
    """
    celery(einfo(exc))


def tell_of_timeout(request: Any, timeout: float, celery: Tell) -> None:
    """Let Celery tell of a hard time limit, once."""
    task = request.task
    keeps = getattr(task, "acks_on_timeout", getattr(task, "acks_on_failure_or_timeout", True))
    if task.acks_late and not keeps:
        request.acknowledge()  # Celery would give it back, again and again
    celery()
    if not _TELLS_OF_TIMEOUT:
        _signal_failure(request, TimeLimitExceeded(timeout))


def tell_of_success(request: Any) -> None:
    """The worker was lost after the success had been stored: nothing failed."""
    logger.warning("%s[%s] had succeeded before its worker was lost", request.name, request.id)
    state.task_ready(request, successful=True)
    request.acknowledge()


def tell_of_cancel(request: Any, celery: Tell) -> None:
    """Let Celery tell of a task that is cancelled here; an error meanwhile does not keep its message from going back.

    Args:
        request: the worker's request, which runs.
        celery: how Celery tells of it.
    """
    request._already_cancelled = True  # first: else the end of its child is that of work that somebody has revoked
    with _harmless(request):
        if request.unmark is not None:
            request.unmark()  # its end is ours, and no crash of it
    with _harmless(request):
        celery()


def tell_of_requeue(request: Any) -> None:
    """The task asked for its message to be put back, and it is."""
    state.task_ready(request)
    request.let_go()
    request.send_event("task-rejected", requeue=True)


def tell_of_unbegun(request: Any) -> None:
    """It had not begun, and its message is put back."""
    logger.warning("%s[%s] had not begun: it goes back to its queue", request.name, request.id)
    state.task_ready(request)


def tell_and_acknowledge(request: Any, tell: Tell) -> None:
    """Tell, and acknowledge, even where a hook of the user or the backend raises meanwhile.

    Args:
        request: the worker's request, whose end is settled.
        tell: how Celery tells of it.
    """
    try:
        with sentry.annotated_scope(request.dead_lettered):
            tell()
    except Exception as untold:  # noqa: BLE001 logged, whatever it is
        log_untold("the end", request.name, request.id, untold)
    finally:
        state.task_ready(request)
        request.acknowledge()  # does nothing where Celery has done it


def _tell_of_retry(request: Any, run: FailedRun, decision: Again) -> None:
    task, exc = run.task, run.failure.exception
    retry = Retry(decision.reason, exc, when=decision.delay.total_seconds())
    state.task_ready(request)
    seen.of(run.guard).note(Life.of(request), run.number)  # the next one's retries
    with _harmless(request):
        if request.store_errors:
            task.backend.mark_as_retry(request.id, exc, "", request=run.request)
    request.acknowledge()
    with _harmless(request), _running(task, run.request):
        request.send_event("task-retried", exception=safe_repr(exc), traceback="")
        task.on_retry(exc, request.id, request.args, request.kwargs, None)
        signals.task_retry.send(sender=task, request=run.request, reason=retry, einfo=None)
    request.hear_retry(RetryInfo(retry, ""))


def _tell_of_parking(request: Any, run: FailedRun, letter: Letter) -> None:
    state.task_ready(request)
    with _harmless(request):
        park(run, letter)
    request.acknowledge()


def _give_back(request: Any, outcome: NotTaken) -> None:
    """The last resort: leave the message with the broker, which will deliver it again, or in the journal."""
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
    """With the task's request in place, so that its hooks and receivers find it."""
    task.request_stack.push(context)
    try:
        yield
    finally:
        task.request_stack.pop()


@contextmanager
def _harmless(request: Any) -> Iterator[None]:
    try:
        yield
    except Exception as untold:  # noqa: BLE001 logged, whatever it is
        log_untold("the end", request.name, request.id, untold)
