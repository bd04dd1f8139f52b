"""Reading the figures: between two instants, as a series, by task since the beginning, and what is usual at this time.

Owns the choice between minutes and hours. Nothing here changes a row, and no instant is read from a clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from sqlalchemy import Connection, func, select

from celery_guardrails.figures.summary import TaskFigures
from celery_guardrails.store.column import cut
from celery_guardrails.store.figure import HOUR, MINUTE, bucket_of, environment_of
from celery_guardrails.store.figure_table import figure, figure_task

__all__ = ["BY_MINUTE", "Bucket", "TaskTotals", "Usual", "between", "environments", "series", "totals", "usual"]

BY_MINUTE = timedelta(hours=6)
"""The longest span that is read by the minute, unless the caller says otherwise; a longer one is read by the hour."""
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Bucket:
    """The figures of one minute or hour, of one task or of several together."""

    start_at: datetime
    figures: TaskFigures


@dataclass(frozen=True, slots=True)
class TaskTotals:
    """One task since it was first counted.

    `last_started_at` and `last_succeeded_at` are `None` where no attempt has begun, or succeeded.
    """

    environment: str
    task: str
    first_at: datetime
    updated_at: datetime
    last_started_at: datetime | None
    last_succeeded_at: datetime | None
    figures: TaskFigures


@dataclass(frozen=True, slots=True)
class Usual:
    """How many attempts ended in the same part of each of the days before, the day before first; and their median."""

    days: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the days; 0 without any."""
        return float(median(self.days)) if self.days else 0.0


def between(
    conn: Connection,
    start: datetime,
    end: datetime,
    *,
    environment: str | None = None,
    task: str | None = None,
    resolution: timedelta | None = None,
) -> dict[tuple[str, str], TaskFigures]:
    """The figures of the buckets that begin at `start` or later and before `end`, by environment and task.

    Args:
        conn: a transaction.
        start: the beginning; the bucket that it lies in counts whole.
        end: the end, excluded.
        environment: only of this environment.
        task: only of this task.
        resolution: `MINUTE` (kept 48 h) or `HOUR` (kept 90 days). `None`: by the minute up to 6 hours, else by the
            hour.
    """
    found: dict[tuple[str, str], TaskFigures] = {}
    for row in _rows(conn, start, end, environment, task, resolution or _resolution(start, end)):
        found.setdefault((row.environment, row.task), TaskFigures()).merge(TaskFigures.from_payload(row.data))
    return found


def series(
    conn: Connection,
    end: datetime,
    number: int,
    *,
    environment: str | None = None,
    task: str | None = None,
    resolution: timedelta = MINUTE,
) -> list[Bucket]:
    """The last `number` buckets up to the one that `end` lies in, the oldest first; empty ones, too.

    Without `task`, all tasks together.
    """
    last = bucket_of(end, resolution)
    start = last - (number - 1) * resolution
    found = {start + step * resolution: TaskFigures() for step in range(number)}
    for row in _rows(conn, start, last + resolution, environment, task, resolution):
        if row.start_at in found:
            found[row.start_at].merge(TaskFigures.from_payload(row.data))
    return [Bucket(at, figures) for at, figures in found.items()]


def usual(conn: Connection, start: datetime, end: datetime, *, environment: str, task: str, days: int = 7) -> Usual:
    """How many attempts ended in this part of the day on the days before, for a baseline.

    Read by the hour: of an hour that lies in the part with a share only, that share is taken. Days before the task was
    first counted are left out; a day without any attempt counts 0.
    """
    return usual_by_task(conn, start, end, environment=environment, task=task, days=days).get(cut(task), Usual(()))


def usual_by_task(
    conn: Connection, start: datetime, end: datetime, *, environment: str, task: str | None = None, days: int = 7
) -> dict[str, Usual]:
    """As `usual`, for every task, or for one; one query a day, however many tasks there are."""
    query = select(figure_task.c.task, figure_task.c.first_at).where(
        figure_task.c.environment == environment_of(environment)
    )
    if task is not None:
        query = query.where(figure_task.c.task == cut(task))
    first = {row.task: bucket_of(row.first_at, HOUR) for row in conn.execute(query)}
    found: dict[str, list[float]] = {name: [] for name in first}
    for back in range(1, days + 1):
        begin, finish = start - back * _DAY, end - back * _DAY
        ended: dict[str, float] = {name: 0.0 for name, since in first.items() if begin >= since}
        for row in _rows(conn, begin, finish, environment, task, HOUR) if ended else ():
            if row.task in ended:
                share = _share(row.start_at, begin, finish)
                ended[row.task] += TaskFigures.from_payload(row.data).attempts * share
        for name, attempts in ended.items():
            found[name].append(attempts)
    return {name: Usual(tuple(known)) for name, known in found.items()}


def totals(conn: Connection, *, environment: str | None = None, task: str | None = None) -> list[TaskTotals]:
    """Each task's totals since it was first counted, by environment and task; they only grow."""
    query = select(figure_task).order_by(figure_task.c.environment, figure_task.c.task)
    if environment is not None:
        query = query.where(figure_task.c.environment == environment_of(environment))
    if task is not None:
        query = query.where(figure_task.c.task == cut(task))
    return [
        TaskTotals(
            row.environment, row.task, row.first_at, row.updated_at, row.last_started_at, row.last_succeeded_at,
            TaskFigures.from_payload(row.data),
        )
        for row in conn.execute(query)
    ]  # fmt: skip


def environments(conn: Connection) -> dict[str, datetime]:
    """The environments that have figures, and when one was last added."""
    query = select(figure_task.c.environment, func.max(figure_task.c.updated_at)).group_by(figure_task.c.environment)
    return {row[0]: row[1] for row in conn.execute(query)}


def _resolution(start: datetime, end: datetime) -> timedelta:
    return MINUTE if end - start <= BY_MINUTE else HOUR


def _rows(
    conn: Connection,
    start: datetime,
    end: datetime,
    environment: str | None,
    task: str | None,
    resolution: timedelta,
) -> Iterator[Any]:
    query = select(figure.c.environment, figure.c.task, figure.c.start_at, figure.c.data).where(
        figure.c.resolution == int(resolution.total_seconds()),
        figure.c.start_at >= bucket_of(start, resolution),
        figure.c.start_at < end,
    )
    if environment is not None:
        query = query.where(figure.c.environment == environment_of(environment))
    if task is not None:
        query = query.where(figure.c.task == cut(task))
    return iter(conn.execute(query))


def _share(hour: datetime, start: datetime, end: datetime) -> float:
    """Which share of an hour lies between two instants."""
    inside = min(hour + HOUR, end) - max(hour, start)
    return max(0.0, inside / HOUR)
