"""Tasks in the words of checks: their time limits, and the first few of their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Task

__all__ = ["hard_limit", "limited", "named"]

_NAMED = 2


def hard_limit(task: Task) -> float | None:
    """The seconds after which Celery kills it: its own `time_limit`, else the application's; `None`: never."""
    return _limit(task.time_limit, task.app.conf.task_time_limit)


def limited(task: Task) -> bool:
    """Whether it has any time limit, hard or soft."""
    soft = _limit(task.soft_time_limit, task.app.conf.task_soft_time_limit)
    return hard_limit(task) is not None or soft is not None


def named(tasks: Sequence[Task]) -> str:
    """`billing.charge`, or `billing.charge, billing.refund and 3 more`."""
    names = ", ".join(task.name for task in tasks[:_NAMED])
    more = len(tasks) - _NAMED
    return f"{names} and {more:,} more" if more > 0 else names


def _limit(own: Any, general: Any) -> float | None:
    found = own or general
    return float(found) if found else None
