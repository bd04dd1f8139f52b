"""Short log lines for a result backend that is away: it would log the same traceback for every task.

Owns the line for an end that is settled but could not be reported, and shortens what Celery's backends log before each
new try. Errors of hooks and signal receivers keep their tracebacks: they are the application's own code.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery.exceptions import BackendError

from celery_guardrails.policy.describe import describe_type
from celery_guardrails.policy.taxonomy import classify

__all__ = ["OnceInFull", "in_a_line", "log_unreported"]

logger = logging.getLogger("celery_guardrails.worker")

_DEEPEST = 10


def in_a_line(exc: BaseException) -> str:
    """An error and its cause on one line, without a traceback."""
    said, cause = "{}: {}".format(*describe_type(exc)), exc
    for _ in range(_DEEPEST):
        cause = cause.__cause__ or cause
    if cause is not exc:
        said += ", because of {}: {}".format(*describe_type(cause))
    return " ".join(said.split())


def log_unreported(what: str, name: Any, task_id: Any, exc: BaseException) -> None:
    """Log that the end of a task could not be stored, or that a hook or a receiver failed on it; never raises.

    Args:
        what: "the end" or "the failure".
        name: the task's name.
        task_id: the task's id.
        exc: the error.
    """
    if isinstance(exc, BackendError) or classify(exc).transient:
        logger.warning("%s of %s[%s] could not be stored or reported: %s", what, name, task_id, in_a_line(exc))
    else:
        logger.warning("%s of %s[%s] could not be stored or reported", what, name, task_id, exc_info=exc)


class OnceInFull(logging.Filter):
    """Logs at most one traceback a minute in full; all messages stay.

    Args:
        pause: seconds after a traceback in which no other is logged.
    """

    def __init__(self, pause: float = 60.0) -> None:
        super().__init__()
        self._pause, self._again_at = pause, 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten a record of the logger if its traceback comes too soon; drops no record."""
        exc = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if exc is not None:
            if time.monotonic() >= self._again_at:
                self._again_at = time.monotonic() + self._pause
            else:
                record.msg, record.args = "%s %s", (record.getMessage(), in_a_line(exc))
                record.exc_info = record.exc_text = None
        return True
