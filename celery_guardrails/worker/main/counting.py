"""Counting how attempts end, in the worker's main process, which gets the end of each task from every pool.

    succeeded ──> `counting`, around Celery's callback: a few looks and one append
    failed in its process ──> the outcome says how it ended (`worker/failure/attempt_end.py`)
    lost, too slow, expired ──> `settlement.py` makes the end, and logs it

Each request is counted once. Owns that, and where the facts of a success are. Children count nothing and send nothing
of their own, so a child that is killed loses no figures. Never raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from time import time
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Ignore, Reject, Retry

from celery_guardrails.app.guardrails import Guardrails, is_plain
from celery_guardrails.app.in_force import subject_of
from celery_guardrails.figures.attempt import AttemptEnd
from celery_guardrails.figures.counters import TOGETHER, Counters
from celery_guardrails.figures.summary import AttemptOutcome
from celery_guardrails.letters.header import HEADER
from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.worker.child.put_off import WAITS
from celery_guardrails.worker.failure.attempt_end import ENDED, end_of_message, ended_of
from celery_guardrails.worker.failure.attempt_log import log_end

__all__ = ["count_as", "count_reported", "count_rest", "count_settled", "counting"]

logger = logging.getLogger("celery_guardrails.worker")

_COUNTED = "_guardrails_counted_in"
_FIRST = frozenset(("v", "published_at", "work", "given", "described", "key"))
"""What the header of a first attempt may hold that was due when it was published."""
_REPLACED = "Replaced by"
"""How Celery's Ignore begins when `self.replace()` has raised it."""


def counting(celery: Callable[..., Any]) -> Callable[..., Any]:
    """The method with which Celery's request takes the outcome of a task, made to count a success first.

    Args:
        celery: that method.
    """

    @wraps(celery)
    def on_success(request: Any, outcome: Any, **options: Any) -> Any:
        if not outcome[0]:
            try:
                _count_success(request, outcome[2])
            except Exception:
                logger.warning("the success of %s[%s] is not counted", request.name, request.id, exc_info=True)
        return celery(request, outcome, **options)

    return on_success


def count_reported(request: Any, exc_info: Any) -> None:
    """Count an end that the task's process reports with its outcome, which is not a success."""
    end = ended_of(exc_info) or ended_of(_exception(exc_info))
    if end is not None:
        _count(request, end)


def count_settled(request: Any, context: Any) -> None:
    """Count an end that the main process has settled.

    Args:
        request: the worker's request.
        context: the task's request that was made of it, which says how the attempt ended.
    """
    end = context.__dict__.pop(ENDED, None)
    if end is not None:
        _count(request, end)


def count_rest(request: Any, exc_info: Any, handled: bool) -> None:
    """Log and count an outcome of which nobody has said how it ended: the task's own Ignore, for example.

    Args:
        request: the worker's request.
        exc_info: billiard's form of the exception.
        handled: whether the process of the task has handled the failure.
    """
    if request.counted:
        return
    exc = _exception(exc_info)
    if hasattr(exc, WAITS):
        request.counted = True  # no attempt has ended: the body did not begin
    elif isinstance(exc, Ignore):
        replaced = str(exc).startswith(_REPLACED)
        count_as(request, AttemptOutcome.REPLACED if replaced else AttemptOutcome.IGNORED)
    elif isinstance(exc, Reject):
        count_as(request, AttemptOutcome.IGNORED)
    elif isinstance(exc, Retry):
        count_as(request, AttemptOutcome.RETRIED)
    elif handled:
        count_as(request, AttemptOutcome.PLAIN, exc)


def count_as(request: Any, outcome: AttemptOutcome, exc: BaseException | None = None) -> None:
    """Log and count an end of which only the outcome is known; an error is logged.

    Args:
        request: the worker's request.
        outcome: what became of the attempt.
        exc: its error, if it failed.
    """
    try:
        if request.counted or is_plain(request.task):
            return
        error = None if exc is None else type(exc).__qualname__
        message = {**request.request_dict, "hostname": request.hostname}
        end = end_of_message(request.task, message, outcome, request.time_start or None, error)
        _count(request, end)
        log_end(end, {})
    except Exception:
        logger.warning("the end of %s[%s] is not counted", request.name, request.id, exc_info=True)


def _count(request: Any, end: AttemptEnd) -> None:
    """Count an end; of a request that is counted already only its dead letter."""
    counters = Guardrails.of(request.task.app).counters
    if end.task == SELF_TEST:
        return  # the task of `doctor --self-test` is none of the application's
    if not request.counted:
        request.counted = True
        counters.note(end)
    elif end.letter_id is not None:
        counters.note_dead(end.letter_id, end.task)


def _count_success(request: Any, run_time: float) -> None:
    try:
        counted = request._task.__dict__[_COUNTED]
    except KeyError:
        counted = _find_counted(request._task)
    if counted is None:
        return
    message = request._request_dict
    header = message.get(HEADER)
    if message.get("retries") or message.get("eta") or type(header) is not dict or not _is_first(header):
        started = request.time_start or None
        end = end_of_message(request.task, message, AttemptOutcome.SUCCEEDED, started)
        _count(request, end if started is None else end._replace(ended_at=started + run_time))
    else:
        counters, name = counted
        first = counters.first
        first.append((name, request.time_start or time() - run_time, run_time, header.get("published_at")))
        if len(first) >= TOGETHER:
            counters.add_up()


def _is_first(header: dict[str, Any]) -> bool:
    return (len(header) == 3 and "work" in header) or _FIRST.issuperset(header)


def _find_counted(task: Any) -> tuple[Counters, str] | None:
    """The counters of a task, and the name under which it is counted; noted in the task, for the next message."""
    try:
        name = str(subject_of(task).name)
        found = None if is_plain(task) or name == SELF_TEST else (Guardrails.of(task.app).counters, name)
    except Exception:  # noqa: BLE001 the settings are wrong: nothing is guarded
        found = None
    task.__dict__[_COUNTED] = found
    return found


def _exception(exc_info: Any) -> Any:
    exc = exc_info.exception
    return exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
