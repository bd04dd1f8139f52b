"""Deaths that workers counted and the archive does not have: since when one is looked for, and which are missing.

Owns how a counted death is recognised in the archive: by its id among the deaths, or among the alerts' events, which
outlive a letter that retention has removed; or by a note that it came under another id. The time for which a death is
missed runs only while guardians look for it: a lease that each look prolongs says so. It must not know when somebody is
told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from celery_guardrails.figures.summary import Summary
from celery_guardrails.letters.identity import is_letter_id
from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.policy.alert import Limits
from celery_guardrails.policy.threshold import UnreconciledThreshold
from celery_guardrails.store import lease
from celery_guardrails.store.alert import alert_event
from celery_guardrails.store.column import cut
from celery_guardrails.store.figure import environment_of
from celery_guardrails.store.figure_table import figure_death
from celery_guardrails.store.table import death

__all__ = ["Unreconciled", "look_up", "missing_deaths", "note_counted", "note_renamed", "unreconciled"]

WATCH = timedelta(minutes=2)
"""How long after a look nobody need look again; after a longer pause the time begins anew."""
_LEASE = "reconciliation"
_AT_ONCE = 500
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Unreconciled:
    """The missing deaths of one task: how many, since when the first is looked for, and the ids of up to five."""

    environment: str
    task: str
    count: int
    since: datetime
    ids: tuple[str, ...]


def note_counted(conn: Connection, summaries: Sequence[Summary], now: datetime) -> int:
    """Note the deaths in these summaries that the archive does not have; returns how many it has not.

    The canary of `doctor --self-test` is left out.

    Args:
        conn: a transaction of `Store.begin`.
        summaries: those that are counted for the first time.
        now: since when their deaths are looked for.
    """
    counted = {
        letter: {"environment": environment_of(summary.environment), "task": cut(task)}
        for summary in summaries
        for letter, task in summary.dead.items()
        if is_letter_id(letter) and task != SELF_TEST
    }
    missing = 0
    ids = sorted(counted)
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        known = set(conn.execute(select(death.c.id).where(death.c.id.in_(some))).scalars())
        known |= set(conn.execute(select(alert_event.c.ref_id).where(alert_event.c.ref_id.in_(some))).scalars())
        rows = [
            {"id": each, **counted[each], "counted_at": now, "missed_at": now} for each in some if each not in known
        ]
        if rows:
            insert = _insert(conn)(figure_death).on_conflict_do_nothing().returning(figure_death.c.id)
            missing += len(conn.execute(insert, rows).all())
    return missing


def note_renamed(conn: Connection, renamed: Mapping[str, tuple[str, str]], now: datetime) -> None:
    """Note that these deaths came, and are archived under other ids; each id with its environment and task."""
    ids = [each for each in sorted(renamed) if is_letter_id(each)]
    if not ids:
        return
    rows: list[dict[str, Any]] = [
        {
            "id": each,
            "environment": environment_of(renamed[each][0]),
            "task": cut(renamed[each][1]),
            "counted_at": now,
            "missed_at": None,
        }
        for each in ids
    ]
    conn.execute(
        _insert(conn)(figure_death).on_conflict_do_update(index_elements=[figure_death.c.id], set_={"missed_at": None}),
        rows,
    )


def look_up(conn: Connection, now: datetime, *, backlog: bool) -> int:
    """Look for the missing deaths again: forget those that have come; returns how many are still missing.

    Args:
        conn: a transaction of `Store.begin`.
        now: this instant.
        backlog: whether letters wait in their queues, so that a missing one may be among them. The wait for all that
            are missing then begins again, as it does if nobody has looked for two minutes: no guardian archived.
    """
    watched = _is_watched(conn, now)
    lease.prolong(conn, _LEASE, WATCH, now)
    conn.execute(delete(figure_death).where(figure_death.c.missed_at.is_not(None), _archived()))
    missed = figure_death.c.missed_at.is_not(None)
    if backlog or not watched:
        conn.execute(update(figure_death).where(missed).values(missed_at=now))
    return conn.execute(select(func.count()).select_from(figure_death).where(missed)).scalar_one()


def unreconciled(conn: Connection, now: datetime, after: timedelta) -> list[Unreconciled]:
    """The deaths that workers counted, and that the archive still lacks after so long; by environment and task.

    One that arrives late is no longer among them. One that never does is forgotten after 7 days. Empty while nobody
    looks: what no guardian archives is not missing.
    """
    if not _is_watched(conn, now):
        return []
    missing = (figure_death.c.missed_at <= now - after, ~_archived())
    names = (figure_death.c.environment, figure_death.c.task)
    query = select(*names, func.count(), func.min(figure_death.c.missed_at)).where(*missing)
    found = conn.execute(query.group_by(*names).order_by(*names)).all()
    return [
        Unreconciled(
            environment, task, number, since, _some_ids(conn, (*missing, names[0] == environment, names[1] == task))
        )
        for environment, task, number, since in found
    ]


def missing_deaths(conn: Connection, now: datetime, limits: Limits[UnreconciledThreshold]) -> list[Unreconciled]:
    """The deaths that workers counted and the archive lacks, each after the time that its task allows.

    Args:
        conn: a transaction.
        now: this instant.
        limits: for each task, how long a letter may be under way; those of a task without the signal are left out.
    """
    return [
        each
        for after in {limit.after for limit in limits.different}
        for each in unreconciled(conn, now, after)
        if (own := limits.of(each.task)) is not None and own.after == after
    ]


def _is_watched(conn: Connection, now: datetime) -> bool:
    until = lease.expires_at(conn, _LEASE)
    return until is not None and until > now


def _some_ids(conn: Connection, wanted: Sequence[ColumnElement[bool]]) -> tuple[str, ...]:
    query = select(figure_death.c.id).where(*wanted).order_by(figure_death.c.missed_at, figure_death.c.id)
    return tuple(conn.execute(query.limit(_SHOWN)).scalars())


def _archived() -> ColumnElement[bool]:
    return or_(
        select(death.c.id).where(death.c.id == figure_death.c.id).exists(),
        select(alert_event.c.ref_id).where(alert_event.c.ref_id == figure_death.c.id).exists(),
    )


def _insert(conn: Connection) -> Any:
    return postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
