"""Failures of a task outside its body, in the process that runs it: before the body began, or after it succeeded.

Owns the place where Celery's tracer handles a failure: a failure that the body hook has not seen is settled there,
before the result backend and the errbacks get it. An error of the backend or of `on_failure` ends nothing else there.
It also owns the return from the tracer, where Celery would forget the decision, or take a killed task for done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import states
from celery.app import trace
from celery.exceptions import Ignore, Reject, Retry, TaskPredicate
from celery.utils.serialization import get_pickleable_exception

from celery_guardrails.app.guardrails import is_plain
from celery_guardrails.app.in_force import is_guarded
from celery_guardrails.errors import PublishError
from celery_guardrails.worker.child.body import settle_after_body, settle_attempt, settle_unbegun
from celery_guardrails.worker.child.exits import harmless, is_killed
from celery_guardrails.worker.child.retry_call import is_unpublished, retry_as_raised
from celery_guardrails.worker.failure.attempt_end import note_success
from celery_guardrails.worker.failure.attempt_log import attempts
from celery_guardrails.worker.failure.failed_run import SEEN, STARTED
from celery_guardrails.worker.failure.unreported import log_unreported

__all__ = ["OutsideInfo", "wrap_error_report", "wrap_tracer"]

logger = logging.getLogger("celery_guardrails.worker")

_STATES: dict[type, str] = {Retry: states.RETRY, Ignore: states.IGNORED, Reject: states.REJECTED}


_TraceInfo: Any = getattr(trace, "TraceInfo", object)  # a Celery without it never uses ours


class OutsideInfo(_TraceInfo):  # type: ignore[misc]
    """Celery's handling of an outcome; it also settles the failures that the body hook could not see."""

    def handle_retry(self, task: Any, req: Any, **options: Any) -> ExceptionInfo:
        """Store, report and return the retry, as Celery's method does; publish it first if it is not published."""
        if is_unpublished(self.retval, task, req):
            outcome = retry_as_raised(task, req, self.retval)
            self._become(_state_of(outcome), outcome)
            if self.state == states.FAILURE:
                return self.handle_failure(task, req, **{**options, "call_errbacks": True})
            if self.state != states.RETRY:
                return _info(outcome)
        return super().handle_retry(task, req, **options)

    def handle_failure(self, task: Any, req: Any, **options: Any) -> ExceptionInfo:
        """Store, report and return the failure, as Celery's method does, or what guardrails made of it."""
        exc, seen = self.retval, req.__dict__.get(SEEN)
        if seen is not None and issubclass(seen, Retry):
            logger.warning("%s[%s] is retried, but its state could not be stored: %r", task.name, req.id, exc)
            return _info(exc)
        if seen is not None and issubclass(seen, Reject):
            outcome: BaseException | None = _reject(f"it was going back to its queue, and then came {exc!r}")
        else:
            outcome = _settle(task, req, exc) if seen is None else None
        if isinstance(outcome, TaskPredicate):
            self._become(_state_of(outcome), outcome)
            return _info(outcome)
        try:
            return super().handle_failure(task, req, **options)
        except Exception as error:  # noqa: BLE001 logged, whatever it is
            # If it left this method, it would end the pool's thread, or leave the message neither done nor given back.
            log_unreported("the failure", task.name, req.id, error)
            return _info(exc)

    def _become(self, state: str, retval: BaseException) -> None:
        self.state: str = state
        self.retval: BaseException = retval


def wrap_tracer(tracer: Callable[..., Any], task: Any) -> Callable[..., Any]:
    """Wrap a tracer of Celery's so that the main process gets the decision, and returns messages of killed greenlets.

    Where a tracer itself fails (the backend does not take STARTED, say), it returns that error, and not what
    `OutsideInfo` made of it: the main process would acknowledge the message. A task that succeeds pays for one more
    call.
    """

    def traced(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        try:
            outcome = tracer(uuid, args, kwargs, request)
        except BaseException as exc:
            if not is_killed(exc):
                raise
            info = trace.TraceInfo(states.REJECTED, _reject("it was killed while it ran"))
            return trace.trace_ok_t(_info(info.retval), info, 0.0, None)
        if outcome[1] is not None:
            return _restore_decision(outcome)
        if attempts.isEnabledFor(logging.INFO):
            note_success(task, request or {}, args, kwargs, outcome[2])
        return outcome

    return traced


def _state_of(outcome: BaseException) -> str:
    return next((state for kind, state in _STATES.items() if isinstance(outcome, kind)), states.FAILURE)


def _restore_decision(outcome: Any) -> Any:
    info, found = outcome.info, getattr(outcome.retval, "exception", None)
    found = found.exc if isinstance(found, ExceptionWithTraceback) else found
    if info.state not in _STATES.values() or isinstance(found, TaskPredicate):
        return outcome
    return outcome._replace(retval=_info(info.retval))


def _reject(why: str) -> Reject:
    """What makes the main process put the message back into its queue."""
    return Reject(PublishError("any queue of ours", why), requeue=True)


def _settle(task: Any, request: Any, exc: BaseException) -> BaseException | None:
    """Settle a failure that the body hook has not seen; returns what leaves the task, `None` to let Celery decide."""
    try:
        if is_plain(task):
            return None
        if STARTED in request.__dict__:
            return settle_after_body(task, request, exc)
        if _is_of_before_start(task, exc):
            return settle_attempt(task, request, exc)
        outcome = settle_unbegun(task, request, exc)
        _unbegun.log(task, request, outcome)
        return outcome
    except Exception:
        logger.warning("guardrails failed on %s[%s]", task.name, request.id, exc_info=True)
        return None


def _is_of_before_start(task: Any, exc: BaseException) -> bool:
    """Whether the task's own `before_start` raised this: then it is the task's code, not Celery's machinery."""
    code = getattr(getattr(task.before_start, "__func__", None), "__code__", None)
    frames = exc.__traceback__
    while frames is not None and frames.tb_frame.f_code is not code:
        frames = frames.tb_next
    return frames is not None


class _Unbegun:
    """Logs that tasks do not begin: one warning a minute in each process, since all tasks have the same cause."""

    def __init__(self, pause: float = 60.0) -> None:
        self._pause, self._again_at = pause, 0.0

    def log(self, task: Any, request: Any, outcome: BaseException) -> None:
        """Log a task that is tried again; a dead letter has its own log line."""
        if not isinstance(outcome, Retry):
            return
        level = logging.INFO
        if time.monotonic() >= self._again_at:
            level, self._again_at = logging.WARNING, time.monotonic() + self._pause
        words = "%s[%s] could not begin: %s; further such tasks within a minute are logged as INFO"
        logger.log(level, words, task.name, request.id, outcome.message)


_unbegun = _Unbegun()


def wrap_error_report(celery: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap Celery's `report_internal_error` to be silent on guarded tasks: `OutsideInfo` logs what becomes of them.

    Celery warns with two tracebacks for every task, even if the same backend is away for all of them.
    """

    def report_internal_error(task: Any, exc: BaseException) -> ExceptionInfo:
        try:
            quiet = is_guarded(task) and not is_plain(task)
        except Exception:  # noqa: BLE001 the settings are wrong: nothing is guarded
            quiet = False
        return _info(exc) if quiet else celery(task, exc)

    report_internal_error._guardrails = True  # type: ignore[attr-defined]
    return report_internal_error


def _info(exc: BaseException) -> ExceptionInfo:
    """Billiard's form of an exception, which can be sent to the main process."""
    try:
        raise get_pickleable_exception(harmless(exc))
    except Exception:  # noqa: BLE001 raised to have a traceback, which that form needs
        return ExceptionInfo(internal=True)
