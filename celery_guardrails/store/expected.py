"""The table `expected`: since when a guardian expects each entry of a schedule, so that one that never ran is found.

expected: environment, entry, task, since, seen_at (when an application last had it). It must not know what a schedule
is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from sqlalchemy import Column, Connection, PrimaryKeyConstraint, Table, Text, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from celery_guardrails.store.column import cut
from celery_guardrails.store.metadata import UtcDateTime, metadata

__all__ = ["expected", "gone", "known", "note"]

GONE = timedelta(minutes=15)
"""How long no guardian's application may have had an entry before its task is gone: guardians look each minute."""
_KEPT = timedelta(days=7)
_SEEN = timedelta(minutes=1)

expected = Table(
    "guardrails_expected",
    metadata,
    Column("environment", Text, nullable=False),
    Column("entry", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime),
    PrimaryKeyConstraint("environment", "entry", "task", name="pk_guardrails_expected"),
)


def note(conn: Connection, environment: str, entries: Mapping[str, str], tasks: Collection[str], now: datetime) -> None:
    """Note the entries of an application's schedule; forget those that are not in it any more.

    Args:
        conn: a transaction of `Store.begin`.
        environment: as in the settings.
        entries: the task of each entry.
        tasks: the application's tasks: entries of other tasks are another application's.
        now: this instant.
    """
    wanted = {(cut(entry), cut(task)) for entry, task in entries.items()}
    stored = set(known(conn, environment))
    ours = {cut(task) for task in tasks}
    for entry, task in sorted(stored - wanted):
        if task not in ours:
            continue
        conn.execute(
            delete(expected).where(
                expected.c.environment == cut(environment), expected.c.entry == entry, expected.c.task == task
            )
        )
    rows = [
        {"environment": cut(environment), "entry": entry, "task": task, "since": now, "seen_at": now}
        for entry, task in sorted(wanted - stored)
    ]
    if rows:
        insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
        conn.execute(insert(expected).on_conflict_do_nothing(), rows)
    _see(conn, environment, sorted(wanted & stored), now)


def gone(conn: Connection, environment: str, now: datetime) -> frozenset[str]:
    """The tasks with entries that no guardian's application has had for 15 minutes; forgotten after 7 days.

    Args:
        conn: a transaction of `Store.begin`.
        environment: as in the settings.
        now: this instant.
    """
    ours = expected.c.environment == cut(environment)
    # an archive of an older version does not say when it saw them
    conn.execute(update(expected).where(ours, expected.c.seen_at.is_(None)).values(seen_at=now))
    conn.execute(delete(expected).where(ours, expected.c.seen_at < now - _KEPT))
    query = select(expected.c.task).where(ours).group_by(expected.c.task)
    return frozenset(conn.execute(query.having(func.max(expected.c.seen_at) < now - GONE)).scalars())


def _see(conn: Connection, environment: str, entries: list[tuple[str, str]], now: datetime) -> None:
    """Note that these entries are there."""
    if entries:
        same = tuple_(expected.c.entry, expected.c.task).in_(entries)
        old = or_(expected.c.seen_at.is_(None), expected.c.seen_at < now - _SEEN / 2)
        conn.execute(update(expected).where(expected.c.environment == cut(environment), same, old).values(seen_at=now))


def known(conn: Connection, environment: str) -> dict[tuple[str, str], datetime]:
    """Since when each entry with its task is expected."""
    query = select(expected.c.entry, expected.c.task, expected.c.since).where(
        expected.c.environment == cut(environment)
    )
    return {(row.entry, row.task): row.since for row in conn.execute(query)}
