"""What the log says of a result backend that is away, which would say the same of every task, with its traceback.

Owns the line for an end that is settled and could not be told to everybody, and the shortening of what Celery's
backends log before each new try. Errors of hooks and receivers keep their tracebacks: they are somebody's code.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery.exceptions import BackendError

from celery_guardrails.policy.describe import describe_type
from celery_guardrails.policy.taxonomy import classify

__all__ = ["OnceInFull", "in_a_line", "log_untold"]

logger = logging.getLogger("celery_guardrails.worker")

_DEEPEST = 10


def in_a_line(exc: BaseException) -> str:
    """An error and what caused it, without a traceback."""
    said, cause = "{}: {}".format(*describe_type(exc)), exc
    for _ in range(_DEEPEST):
        cause = cause.__cause__ or cause
    if cause is not exc:
        said += ", because of {}: {}".format(*describe_type(cause))
    return " ".join(said.split())


def log_untold(what: str, name: Any, task_id: Any, exc: BaseException) -> None:
    """Log it; never raises.

    Args:
        what: what could not be told, "the end" or "the failure".
        name: the task's.
        task_id: the task's.
        exc: why not.
    """
    if isinstance(exc, BackendError) or classify(exc).transient:
        logger.warning("%s of %s[%s] could not be told to everybody: %s", what, name, task_id, in_a_line(exc))
    else:
        logger.warning("%s of %s[%s] could not be told to everybody", what, name, task_id, exc_info=exc)


class OnceInFull(logging.Filter):
    """Leaves a logger's tracebacks out that follow each other within a minute; the messages stay.

    Args:
        pause: seconds for which no other traceback is logged.
    """

    def __init__(self, pause: float = 60.0) -> None:
        super().__init__()
        self._pause, self._again_at = pause, 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Called for each record of the logger; drops none."""
        exc = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if exc is not None:
            if time.monotonic() >= self._again_at:
                self._again_at = time.monotonic() + self._pause
            else:
                record.msg, record.args = "%s %s", (record.getMessage(), in_a_line(exc))
                record.exc_info = record.exc_text = None
        return True
