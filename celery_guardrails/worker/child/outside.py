"""Failures of a task outside its body, in the process that runs it: before the body began, or after it succeeded.

Owns the place where Celery's tracer handles a failure: what the body hook has not met is met there, before the result
backend and the errbacks hear of it. A backend or an `on_failure` that raises there ends nothing else. And it owns the
way out of the tracer, where Celery would forget what was decided, or take a task that was killed for one that is done.
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
from celery_guardrails.worker.failure.failed_run import SEEN, STARTED
from celery_guardrails.worker.failure.unreported import log_unreported

__all__ = ["OutsideInfo", "ended_as_decided", "quietly_reported"]

logger = logging.getLogger("celery_guardrails.worker")

_STATES: dict[type, str] = {Retry: states.RETRY, Ignore: states.IGNORED, Reject: states.REJECTED}


_TraceInfo: Any = getattr(trace, "TraceInfo", object)  # where it is gone, nobody makes one of ours


class OutsideInfo(_TraceInfo):  # type: ignore[misc]
    """Celery's handling of an outcome, which meets the failures that the body hook could not see."""

    def handle_retry(self, task: Any, req: Any, **options: Any) -> ExceptionInfo:
        """Store, tell and return the retry, as Celery's does; one that nobody has published is published first."""
        if is_unpublished(self.retval, task, req):
            outcome = retry_as_raised(task, req, self.retval)
            self._become(_state_of(outcome), outcome)
            if self.state == states.FAILURE:
                return self.handle_failure(task, req, **{**options, "call_errbacks": True})
            if self.state != states.RETRY:
                return _info(outcome)
        return super().handle_retry(task, req, **options)

    def handle_failure(self, task: Any, req: Any, **options: Any) -> ExceptionInfo:
        """Store, tell and return the failure, as Celery's does, or what has become of it."""
        exc, seen = self.retval, req.__dict__.get(SEEN)
        if seen is not None and issubclass(seen, Retry):
            logger.warning("%s[%s] is retried, its state could not be stored: %r", task.name, req.id, exc)
            return _info(exc)
        if seen is not None and issubclass(seen, Reject):
            outcome: BaseException | None = _back(f"it was to go back to its queue, and then: {exc!r}")
        else:
            outcome = _settle(task, req, exc) if seen is None else None
        if isinstance(outcome, TaskPredicate):
            self._become(_state_of(outcome), outcome)
            return _info(outcome)
        try:
            return super().handle_failure(task, req, **options)
        except Exception as ours:  # noqa: BLE001 logged, whatever it is
            # Out of here it would end the pool's thread, or leave the message neither done nor given back.
            log_unreported("the failure", task.name, req.id, ours)
            return _info(exc)

    def _become(self, state: str, retval: BaseException) -> None:
        self.state: str = state
        self.retval: BaseException = retval


def ended_as_decided(tracer: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a tracer of Celery's so that the main process hears what was decided, and of a killed greenlet.

    Where the tracer itself fails (the backend does not take STARTED, say), it hands out that error, which main would
    acknowledge, and not what `OutsideInfo` made of it. Who succeeds pays for one more call.
    """

    def traced(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        try:
            outcome = tracer(uuid, args, kwargs, request)
        except BaseException as exc:
            if not is_killed(exc):
                raise
            info = trace.TraceInfo(states.REJECTED, _back("it was killed while it ran"))
            return trace.trace_ok_t(_info(info.retval), info, 0.0, None)
        return outcome if outcome[1] is None else _as_decided(outcome)

    return traced


def _state_of(outcome: BaseException) -> str:
    return next((state for kind, state in _STATES.items() if isinstance(outcome, kind)), states.FAILURE)


def _as_decided(outcome: Any) -> Any:
    info, found = outcome.info, getattr(outcome.retval, "exception", None)
    found = found.exc if isinstance(found, ExceptionWithTraceback) else found
    if info.state not in _STATES.values() or isinstance(found, TaskPredicate):
        return outcome
    return outcome._replace(retval=_info(info.retval))


def _back(why: str) -> Reject:
    """Our word to the main process that the message is to go back to its queue."""
    return Reject(PublishError("any queue of ours", why), requeue=True)


def _settle(task: Any, request: Any, exc: BaseException) -> BaseException | None:
    """What is to become of a failure that the body hook has not seen; `None`: what Celery makes of it."""
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
    """Whether the task's own `before_start` raised this, which is the task's code, and no machinery of Celery's."""
    code = getattr(getattr(task.before_start, "__func__", None), "__code__", None)
    frames = exc.__traceback__
    while frames is not None and frames.tb_frame.f_code is not code:
        frames = frames.tb_next
    return frames is not None


class _Unbegun:
    """Says that tasks do not begin: a warning a minute in each process, because it says the same of every task."""

    def __init__(self, pause: float = 60.0) -> None:
        self._pause, self._again_at = pause, 0.0

    def log(self, task: Any, request: Any, outcome: BaseException) -> None:
        """Log one that is tried again; of a dead letter the log speaks anyway."""
        if not isinstance(outcome, Retry):
            return
        level = logging.INFO
        if time.monotonic() >= self._again_at:
            level, self._again_at = logging.WARNING, time.monotonic() + self._pause
        words = "%s[%s] could not begin: %s; the next that cannot, within a minute, are logged as INFO"
        logger.log(level, words, task.name, request.id, outcome.message)


_unbegun = _Unbegun()


def quietly_reported(celery: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap Celery's `report_internal_error`: of a guarded task, what becomes of the failure is said by `OutsideInfo`.

    Celery warns with two tracebacks for every task, however many meet the same backend that is away.
    """

    def report_internal_error(task: Any, exc: BaseException) -> ExceptionInfo:
        try:
            quiet = is_guarded(task) and not is_plain(task)
        except Exception:  # noqa: BLE001 settings that are wrong: nothing is guarded
            quiet = False
        return _info(exc) if quiet else celery(task, exc)

    report_internal_error._guardrails = True  # type: ignore[attr-defined]
    return report_internal_error


def _info(exc: BaseException) -> ExceptionInfo:
    """Billiard's form of an exception, such as crosses to the main process."""
    try:
        raise get_pickleable_exception(harmless(exc))
    except Exception:  # noqa: BLE001 raised to have a traceback, which that form needs
        return ExceptionInfo(internal=True)
