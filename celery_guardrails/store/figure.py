"""Adding workers' summaries to the figures: each summary once, to its minute, its hour and its task's totals.

Owns what is added where, and which summaries are too old to be counted. Several guardians may add to the same rows at
the same time: a row is locked while it is merged. It must not know how summaries travel, nor who reads the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, Table, Update, bindparam, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from celery_guardrails import clock
from celery_guardrails.figures.summary import Summary, TaskFigures
from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.store.column import NAME, cut, reference_of
from celery_guardrails.store.figure_table import figure, figure_summary, figure_task

__all__ = ["COUNTED_FOR", "HOUR", "MINUTE", "Counted", "bucket_of", "count", "environment_of"]

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
"""The two resolutions: how long a bucket is. Buckets begin at whole minutes and hours, UTC."""
COUNTED_FOR = timedelta(hours=6)
"""How long after the end of its period a summary is still counted. Its id is remembered for as long."""
_AHEAD = timedelta(days=1)
_TURN = 10.0
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of a batch: `fresh` were counted now, `known` before, `late` are too old, or of a clock far ahead."""

    fresh: tuple[Summary, ...] = ()
    known: int = 0
    late: int = 0


def count(conn: Connection, summaries: Sequence[Summary], now: datetime) -> Counted:
    """Add summaries to the figures, each once.

    The canary of `doctor --self-test` is left out.

    Args:
        conn: a transaction of `Store.begin`.
        summaries: in any order, of any workers; the same summary may come twice.
        now: this instant.
    """
    timely = {reference_of(one.id): one for one in summaries if _is_timely(one, now)}
    rows = [{"id": key, "at": max(now, _ended(timely[key]))} for key in sorted(timely)]
    fresh = sorted(_inserted(conn, figure_summary, rows, figure_summary.c.id)) if rows else []
    buckets: dict[tuple[Any, ...], TaskFigures] = {}
    totals: dict[tuple[Any, ...], TaskFigures] = {}
    for key in fresh:
        _sort_in(timely[key], now, buckets, totals)
    _merge(conn, _Rows(figure, ("environment", "task", "resolution", "start_at"), lambda _: {}), buckets)
    tasks = _Rows(figure_task, ("environment", "task"), lambda figures: _times(figures, now), {"first_at": now})
    _merge(conn, tasks, totals)
    late = sum(not _is_timely(one, now) for one in summaries)
    return Counted(tuple(timely[key] for key in fresh), len(summaries) - late - len(fresh), late)


def bucket_of(at: datetime, resolution: timedelta) -> datetime:
    """The start of the bucket that an instant is in."""
    return clock.from_epoch(at.timestamp() // resolution.total_seconds() * resolution.total_seconds())


def environment_of(name: str) -> str:
    """An environment's name as the tables of the figures hold it."""
    return cut(name, NAME)


def _is_timely(summary: Summary, now: datetime) -> bool:
    return (now - COUNTED_FOR).timestamp() < summary.ended_at <= (now + _AHEAD).timestamp()


def _ended(summary: Summary) -> datetime:
    return clock.from_epoch(summary.ended_at)


def _sort_in(
    summary: Summary,
    now: datetime,
    buckets: dict[tuple[Any, ...], TaskFigures],
    totals: dict[tuple[Any, ...], TaskFigures],
) -> None:
    """Add a summary to the buckets in which the middle of its last seconds lies, and to the totals."""
    lasted = min(max(0.0, summary.ended_at - summary.started_at), _TURN)
    middle = clock.from_epoch(min(summary.ended_at - lasted / 2, now.timestamp()))
    environment = environment_of(summary.environment)
    for name, figures in summary.tasks.items():
        if name == SELF_TEST:
            continue
        key = (environment, cut(name))
        for resolution in (MINUTE, HOUR):
            bucket = (*key, int(resolution.total_seconds()), bucket_of(middle, resolution))
            buckets.setdefault(bucket, TaskFigures()).merge(figures)
        totals.setdefault(key, TaskFigures()).merge(figures)


def _times(figures: TaskFigures, now: datetime) -> dict[str, Any]:
    """The columns of a task's totals beside them; an instant by a clock that is ahead counts as now."""
    started, succeeded = (
        None if at is None else clock.from_epoch(min(at, now.timestamp()))
        for at in (figures.last_started_at, figures.last_succeeded_at)
    )
    return {"updated_at": now, "last_started_at": started, "last_succeeded_at": succeeded}


def _merge(conn: Connection, rows: _Rows, added: Mapping[tuple[Any, ...], TaskFigures]) -> None:
    """Add figures to the rows of these keys; the rows are locked until the transaction ends.

    All guardians make and then lock rows in the same order, so that two of them never wait for each other.
    """
    left = sorted(added)
    while left:
        some = left[:_AT_ONCE]
        _inserted(conn, rows.table, [rows.first(key) for key in some], rows.table.c.id)
        changed = {}
        for row in conn.execute(rows.locked(some)):
            key = tuple(row[2:])
            figures = TaskFigures.from_payload(row.data) if row.data else TaskFigures()
            figures.merge(added[key])
            changed[key] = {"row_id": row.id, "new_data": figures.as_payload(), **rows.beside(figures)}
        conn.execute(rows.update, list(changed.values()))
        # a row that was pruned between the two statements is made anew
        left = [key for key in left if key not in changed]


@dataclass(frozen=True)
class _Rows:
    """The rows of one table: the columns of their key, and those that follow from the figures."""

    table: Table
    names: tuple[str, ...]
    columns: Callable[[TaskFigures], dict[str, Any]]
    at_first: Mapping[str, Any] = field(default_factory=dict)

    def first(self, key: tuple[Any, ...]) -> dict[str, Any]:
        """A row without any figures."""
        return {**dict(zip(self.names, key, strict=True)), **self.columns(TaskFigures()), **self.at_first, "data": {}}

    def locked(self, keys: Sequence[tuple[Any, ...]]) -> Select[Any]:
        """The id, the data and the key of these rows, locked."""
        columns = [self.table.c[name] for name in self.names]
        same = tuple_(*columns, types=[column.type for column in columns]).in_(keys)
        return select(self.table.c.id, self.table.c.data, *columns).where(same).order_by("id").with_for_update()

    def beside(self, figures: TaskFigures) -> dict[str, Any]:
        """The parameters of `update` that follow from the figures."""
        return {f"new_{name}": value for name, value in self.columns(figures).items()}

    @property
    def update(self) -> Update:
        names = ("data", *self.columns(TaskFigures()))
        changed = {name: bindparam(f"new_{name}", type_=self.table.c[name].type) for name in names}
        return update(self.table).where(self.table.c.id == bindparam("row_id")).values(changed)


def _inserted(conn: Connection, table: Table, rows: Iterable[dict[str, Any]], returned: Any) -> list[Any]:
    """Insert rows that are not there yet; returns a column of those that were inserted."""
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).on_conflict_do_nothing().returning(returned)
    return list(conn.execute(statement, list(rows)).scalars())
