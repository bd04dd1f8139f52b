"""Failures of a task outside its body, in the process that runs it: before the body began, or after it succeeded.

Owns the place where Celery's tracer handles a failure: what the body hook has not met is met there, before the result
backend and the errbacks hear of it. A backend or an `on_failure` that raises there ends nothing else. And it owns the
way out of the tracer, where Celery would forget what was decided, or take a task that was killed for one that is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import states
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Ignore, Reject, Retry, TaskPredicate
from celery.utils.serialization import get_pickleable_exception

from celery_guardrails.errors import PublishError
from celery_guardrails.worker.abort import harmless, is_killed
from celery_guardrails.worker.attempt import after_body_failed, attempt_failed
from celery_guardrails.worker.manual import is_unpublished, retry_as_raised
from celery_guardrails.worker.run import SEEN, STARTED, is_plain

__all__ = ["OutsideInfo", "ended_as_decided"]

logger = logging.getLogger("celery_guardrails.worker")

_STATES: dict[type, str] = {Retry: states.RETRY, Ignore: states.IGNORED, Reject: states.REJECTED}


class OutsideInfo(TraceInfo):  # type: ignore[misc]
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
            outcome = _met(task, req, exc) if seen is None else None
        if isinstance(outcome, TaskPredicate):
            self._become(_state_of(outcome), outcome)
            return _info(outcome)
        try:
            return super().handle_failure(task, req, **options)
        except Exception:
            # Out of here it would end the pool's thread, or leave the message neither done nor given back.
            logger.warning("the failure of %s[%s] could not be told to everybody", task.name, req.id, exc_info=True)
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
            info = TraceInfo(states.REJECTED, _back("it was killed while it ran"))
            return trace_ok_t(_info(info.retval), info, 0.0, None)
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


def _met(task: Any, request: Any, exc: BaseException) -> BaseException | None:
    """What is to become of a failure that the body hook has not seen; `None`: what Celery makes of it."""
    try:
        if is_plain(task):
            return None
        act = after_body_failed if STARTED in request.__dict__ else attempt_failed
        return act(task, request, exc)
    except Exception:
        logger.warning("guardrails failed on %s[%s]", task.name, request.id, exc_info=True)
        return None


def _info(exc: BaseException) -> ExceptionInfo:
    """Billiard's form of an exception, such as crosses to the main process."""
    try:
        raise get_pickleable_exception(harmless(exc))
    except Exception:  # noqa: BLE001 raised to have a traceback, which that form needs
        return ExceptionInfo(internal=True)
