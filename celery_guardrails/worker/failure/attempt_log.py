"""The log line of an attempt's end: one record on the logger `celery_guardrails.attempt`, with fields for machines.

Fields, by `extra`: `task`, `task_id`, `root_id`, `attempt`, `max_attempts`, `outcome`, `category`, `error`, `delay`,
`queue`, `worker`, `started_at`, `ended_at`, `generation` and `correlation`. Never arguments, an error's message or its
traceback. Owns the fields, the words and the level.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from celery_guardrails.clock import from_epoch, shown
from celery_guardrails.figures.attempt import AttemptEnd
from celery_guardrails.figures.summary import AttemptOutcome
from celery_guardrails.printable import one_line

__all__ = ["attempts", "is_logged", "log_end"]

attempts = logging.getLogger("celery_guardrails.attempt")

# Never ERROR: Sentry makes an event of each record of that level.
_WARNED = (AttemptOutcome.DEAD.value, AttemptOutcome.NOT_TAKEN.value)
_LONGEST = 255


def is_logged(end: AttemptEnd) -> bool:
    """Whether the logger wants the line of this end."""
    return attempts.isEnabledFor(_level(end))


def log_end(end: AttemptEnd, correlation: Mapping[str, Any]) -> None:
    """Log the end of an attempt.

    Args:
        end: how it ended.
        correlation: the ids that the policy's `correlate` names, redacted.
    """
    if not is_logged(end):
        return
    attempt = str(end.attempt) if end.max_attempts is None else f"{end.attempt} of {end.max_attempts}"
    attempts.log(
        _level(end),
        "%s[%s] attempt %s: %s",
        end.task,
        end.task_id,
        attempt,
        _words(end),
        extra={
            "task": _text(end.task),
            "task_id": _text(end.task_id),
            "root_id": _text(end.root_id),
            "attempt": end.attempt,
            "max_attempts": end.max_attempts,
            "outcome": end.outcome,
            "category": end.category,
            "error": _text(end.error),
            "delay": end.delay,
            "queue": _text(end.queue),
            "worker": _text(end.worker),
            "started_at": _instant(end.started_at),
            "ended_at": _instant(end.ended_at),
            "generation": end.generation,
            # in one field: a name that a policy chooses must not replace one of the record's own
            "correlation": {_text(name): _values(value) for name, value in correlation.items()},
        },
    )


def _level(end: AttemptEnd) -> int:
    return logging.WARNING if end.outcome in _WARNED else logging.INFO


def _words(end: AttemptEnd) -> str:
    outcome = end.outcome.replace("_", " ")
    words = f"{outcome} in {shown(timedelta(seconds=end.delay))}" if end.delay else outcome
    return f"{words}, {end.error}" if end.error else words


def _values(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else [_text(each) for each in value]


def _text(value: Any) -> str | None:
    return None if value is None else one_line(str(value)[:_LONGEST])


def _instant(seconds: float | None) -> str | None:
    return None if seconds is None else from_epoch(seconds).isoformat(timespec="milliseconds")
