"""Reporting how requeued work ends while guardrails is switched off (`enabled: False`).

Such work runs as a plain Celery task, and nothing here changes its outcome. But without a report its letter would stay
`requeued` for ever. Owns which of Celery's ends are deaths, in the main process; `worker/child/body.py` reports a
success. Not reported are a `map` or `starmap`, messages that never become a task, and the death of a whole worker:
`dlq requeue` says so and asks first.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError

from celery_guardrails.app.guardrails import is_plain
from celery_guardrails.letters.header import read_header
from celery_guardrails.policy.decision import DeadLetter, Reason
from celery_guardrails.worker.child.body import report_recovery
from celery_guardrails.worker.failure.outcome import Dead, NotTaken, carry_out_in_brief, dead_letter
from celery_guardrails.worker.main.settlement import examine_request

__all__ = ["report_cancel", "report_failure", "report_revocation", "report_time_limit"]

logger = logging.getLogger("celery_guardrails.worker")

_LOST = (WorkerLostError, SystemExit, KeyboardInterrupt)
_REPORTED = "_guardrails_reported"
_OFF = "it had been put back, and guardrails is switched off (enabled: False), so that it was not tried again"


def report_failure(request: Any, exc_info: Any) -> None:
    """Report an outcome of the pool that is not a success, before Celery handles it; never raises.

    Args:
        request: the worker's request.
        exc_info: billiard's form of the exception.
    """
    if not _is_unreported(request):
        return
    exc = exc_info.exception
    exc = exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
    task = request.task
    if isinstance(exc, (Retry, Ignore, Terminated)) or (isinstance(exc, Reject) and exc.requeue):
        return  # the work goes on, or its end is reported elsewhere
    if _goes_on(request, exc):
        return
    if task.throws and isinstance(exc, task.throws):
        report_recovery(task, request._context)  # it has ended as its task meant it to
        return
    _report(request, exc, _reason_of(exc), str(exc_info.traceback or ""))


def report_time_limit(request: Any, timeout: float) -> None:
    """Report a hard time limit, which gevent's pool does not report as a failure; never raises."""
    if _is_unreported(request):
        _report(request, TimeLimitExceeded(timeout), Reason.TIME_LIMIT)


def report_cancel(request: Any) -> None:
    """Report a task that a cold shutdown ends while it runs, unless its message goes back; never raises."""
    if _is_unreported(request) and (request.acknowledged or not request.task.acks_late):
        _report(request, WorkerLostError("the worker was shut down cold while the task ran"), Reason.CANCELLED)


def report_revocation(request: Any, expired: bool) -> None:
    """Report a task that somebody has revoked, or that is past its `expires`; never raises."""
    if _is_unreported(request):
        words = "expired before it could start" if expired else "somebody revoked it after it had been put back"
        _report(request, TaskRevokedError(words), Reason.EXPIRED if expired else Reason.CANCELLED)


def _is_unreported(request: Any) -> bool:
    """Whether the end is not reported yet, of requeued work that runs without guardrails."""
    try:
        if not is_plain(request.task) or _REPORTED in request.__dict__:
            return False
        return read_header(request.request_dict, attempts=False).dead_letter_id is not None
    except Exception:  # noqa: BLE001 whatever it is, the task's outcome must not change
        return False


def _goes_on(request: Any, exc: BaseException) -> bool:
    """Whether Celery gives the message of a task that was killed back to its queue, or publishes it again."""
    task = request.task
    if isinstance(exc, TimeLimitExceeded):
        keeps = getattr(task, "acks_on_timeout", getattr(task, "acks_on_failure_or_timeout", True))
        return bool(task.acks_late and not keeps)
    if not isinstance(exc, _LOST):
        return False
    if not isinstance(exc, WorkerLostError) and (request._already_cancelled or request._already_revoked):
        return True  # this worker killed the child: the broker has the message, or the end is reported elsewhere
    most, retries = task.max_retries, request._context.retries or 0
    again = getattr(task, "retry_on_worker_lost", False) and (most is None or retries < most)
    return bool(again or (task.acks_late and task.reject_on_worker_lost))


def _reason_of(exc: BaseException) -> Reason:
    kinds = ((Reject, Reason.REJECTED), (TimeLimitExceeded, Reason.TIME_LIMIT), (_LOST, Reason.WORKER_LOST))
    return next((reason for kind, reason in kinds if isinstance(exc, kind)), Reason.PERMANENT_ERROR)


def _report(request: Any, exc: BaseException, reason: Reason, traceback: str = "") -> None:
    request.__dict__[_REPORTED] = True
    try:
        outcome = _outcome(request, exc, DeadLetter(reason, _OFF), traceback)
        if isinstance(outcome, NotTaken):
            raise outcome.why
    except Exception:
        words = "%s[%s] had been put back, and its end could not be reported: its dead letter stays requeued"
        logger.warning(words, request.name, request.id, exc_info=True)


def _outcome(request: Any, exc: BaseException, decision: DeadLetter, traceback: str) -> Dead | NotTaken:
    try:
        run = examine_request(request, exc)
        text = run.redactor.text(traceback)
        return dead_letter(replace(run, failure=replace(run.failure, traceback=text)), decision)
    except Exception:
        logger.warning("guardrails failed on the end of %s[%s]", request.name, request.id, exc_info=True)
        return carry_out_in_brief(request.task, request._context, exc, decision)
