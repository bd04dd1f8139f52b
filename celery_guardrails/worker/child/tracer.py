"""What a guarded task's tracer sends to the worker's main process about a failed attempt: the error, in a few bytes.

Celery copies every frame and its code and pickles them for the main process, which reads only the error and a text.
Owns the lean forms, and building tracers that use them. It must not know how a decision is made.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Celery, Task, signals
from celery.app import trace
from celery.backends import base
from celery.backends.base import DisabledBackend
from celery.exceptions import Retry

from celery_guardrails.app.carried import carrier_of, carriers
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.seams import TRACER, holds
from celery_guardrails.worker.child.code_copy import keep_copies
from celery_guardrails.worker.child.outside import OutsideInfo, wrap_error_report, wrap_tracer
from celery_guardrails.worker.child.retry_call import is_unpublished
from celery_guardrails.worker.failure.attempt_end import attach_end
from celery_guardrails.worker.failure.failed_run import UNKEPT
from celery_guardrails.worker.failure.unreported import OnceInFull

__all__ = ["FailureInfo", "FormattedOnce", "GuardInfo", "RetryInfo", "brief_traceback", "prepare_child", "retrace"]

logger = logging.getLogger("celery_guardrails.worker")

_DEEPEST = 50
_MESSAGE = 500


class RetryInfo(ExceptionInfo):  # type: ignore[misc]
    """What Celery's main process, its events and its log read of a retry; without frames.

    Args:
        retry: what was raised.
        text: stands for the traceback.
    """

    def __init__(self, retry: Retry, text: str) -> None:
        self.type = type(retry)
        self.exception = retry
        self.traceback = text

    def __reduce__(self) -> tuple[Any, ...]:
        ended = self.__dict__.get("ended")
        return type(self), (self.exception, self.traceback), None if ended is None else {"ended": ended}


class FailureInfo(ExceptionInfo):  # type: ignore[misc]
    """A failure as Celery makes it; it loses its frames when it is sent to the main process."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "tb": None}


class GuardInfo(OutsideInfo):
    """Celery's handling of an outcome; it sends the main process only what is read there."""

    __slots__ = ()

    def handle_retry(self, task: Task, req: Any, store_errors: bool = True, **kwargs: Any) -> ExceptionInfo:
        """Store, log and return the retry, as Celery's method does.

        Celery's own method is used where somebody may read the frames: `task_retry` has a receiver, or the task has an
        `on_retry`.
        """
        return attach_end(self._handle_retry(task, req, store_errors, **kwargs), req)

    def _handle_retry(self, task: Task, req: Any, store_errors: bool, **kwargs: Any) -> ExceptionInfo:
        if signals.task_retry.receivers or getattr(task.on_retry, "__func__", None) is not Task.on_retry:
            return super().handle_retry(task, req, store_errors=store_errors, **kwargs)
        if is_unpublished(self.retval, task, req):
            return super().handle_retry(task, req, store_errors=store_errors, **kwargs)
        retry: Retry = self.retval
        if store_errors and not isinstance(task.backend, DisabledBackend):
            text = "".join(traceback.format_exception(type(retry), retry, sys.exc_info()[2]))
            task.backend.mark_as_retry(req.id, retry.exc, text, request=req)
        else:
            text = brief_traceback(retry)
        context = {"id": req.id, "name": trace.get_task_name(req, task.name), "exc": str(retry)}
        trace.info(trace.LOG_RETRY, context)
        return RetryInfo(retry, text)

    def handle_failure(self, task: Task, req: Any, **options: Any) -> ExceptionInfo:
        """Store, report and return the failure, as Celery's method does."""
        found = super().handle_failure(task, req, **options)
        if type(found) is ExceptionInfo:
            found.__class__ = FailureInfo
        if UNKEPT in req.__dict__:
            found.unkept = req.__dict__[UNKEPT]  # the main process has the message in its journal
        return attach_end(found, req)


class FormattedOnce(logging.Filter):
    """Has the log of a failed task print the traceback that its result has, which is formatted already."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Called for each record of Celery's tracer; drops none."""
        context = getattr(record, "data", None)
        text = context.get("traceback") if isinstance(context, dict) else None
        if record.exc_info and not record.exc_text and isinstance(text, str):
            record.exc_text = text.rstrip("\n")
        return True


def brief_traceback(retry: Retry) -> str:
    """Where the attempt failed and what comes next, in the form of a traceback without source lines."""
    exc = retry.exc
    lines = []
    if isinstance(exc, BaseException):
        lines = ["Traceback (most recent call last):\n", *_places(exc.__traceback__)]
        lines.append(f"{str(retry.excs)[:_MESSAGE]}\n\n")
    return "".join([*lines, f"{type(retry).__module__}.{type(retry).__qualname__}: {str(retry)[:_MESSAGE]}\n"])


def _places(frames: TracebackType | None) -> Iterable[str]:
    """The frames, outermost first, at most 50."""
    found: list[str] = []
    while frames is not None and len(found) < _DEEPEST:
        code = frames.tb_frame.f_code
        found.append(f'  File "{code.co_filename}", line {frames.tb_lineno}, in {code.co_name}\n')
        frames = frames.tb_next
    return found


def retrace(guard: Guardrails, hostname: str | None = None) -> None:
    """Give an application's tasks under guard our tracer, in the process that is to run them; never raises.

    Args:
        guard: the application's guardrails.
        hostname: the worker's name; `None` for the one that Celery has noted in this process.
    """
    try:
        if guard.settings.enabled:
            _retrace(guard.app, guard.guarded_tasks(), hostname)
    except Exception:
        words = "guarded tasks keep Celery's own tracer: a failure outside the body makes no dead letter"
        logger.warning(words, exc_info=True)


def prepare_child(guard: Guardrails, hostname: str | None) -> None:
    """Prepare a pool process when it starts: set its tasks' options and their tracer; never raises.

    Args:
        guard: the application's guardrails.
        hostname: the worker's name.
    """
    try:
        guard.declare_options()
    except Exception:
        words = "this process could not set how its tasks are acknowledged and retried"
        logger.warning(words, exc_info=True)
    retrace(guard, hostname)


def _retrace(app: Celery, tasks: Iterable[Task], hostname: str | None) -> None:
    if not holds(TRACER):
        return
    if not hasattr(trace.report_internal_error, "_guardrails"):
        trace.report_internal_error = wrap_error_report(trace.report_internal_error)
        keep_copies()
        logging.getLogger(base.__name__).addFilter(OnceInFull())
        trace.logger.addFilter(FormattedOnce())
    # Celery keeps the name here, also for forked processes; before 5.7 its signal does not pass the name.
    noted = trace._localized
    name = hostname or (noted[2] if len(noted) > 2 else None)
    for task in tasks:
        task.__trace__ = _guarded_tracer(task, app, name)
    for task in carriers(app):
        task.__trace__ = _carrier_tracer(task, app, name)


def _guarded_tracer(task: Task, app: Celery, hostname: str | None) -> Callable[..., Any]:
    # looked up at each call: Sentry and others replace it
    tracer = trace.build_tracer(task.name, task, app.loader, hostname, app=app, Info=GuardInfo)
    return wrap_tracer(tracer, task)


def _carrier_tracer(task: Task, app: Celery, hostname: str | None) -> Callable[..., Any]:
    """The tracer of a `map` or `starmap`: it uses the tracer of the message's carrier, else Celery's."""
    usual = trace.build_tracer(task.name, task, app.loader, hostname, app=app)
    tracers: dict[Task, Callable[..., Any]] = {}

    def traced(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        carrier = carrier_of(task, args, kwargs)
        if carrier is None:
            return usual(uuid, args, kwargs, request)
        if carrier not in tracers:
            tracers[carrier] = _guarded_tracer(carrier, app, hostname)
        return tracers[carrier](uuid, args, kwargs, request)

    return traced
