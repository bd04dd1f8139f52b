"""The table `expected`: since when a guardian expects each entry of a schedule, so that one that never ran is found.

expected: environment, entry, task, since. It must not know what a schedule is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import Column, Connection, PrimaryKeyConstraint, Table, Text, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from celery_guardrails.store.column import cut
from celery_guardrails.store.metadata import UtcDateTime, metadata

__all__ = ["expected", "known", "note"]

expected = Table(
    "guardrails_expected",
    metadata,
    Column("environment", Text, nullable=False),
    Column("entry", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
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
        {"environment": cut(environment), "entry": entry, "task": task, "since": now}
        for entry, task in sorted(wanted - stored)
    ]
    if rows:
        insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
        conn.execute(insert(expected).on_conflict_do_nothing(), rows)


def known(conn: Connection, environment: str) -> dict[tuple[str, str], datetime]:
    """Since when each entry with its task is expected."""
    query = select(expected.c.entry, expected.c.task, expected.c.since).where(
        expected.c.environment == cut(environment)
    )
    return {(row.entry, row.task): row.since for row in conn.execute(query)}
