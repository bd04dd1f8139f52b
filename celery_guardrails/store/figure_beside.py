"""What workers have counted beside the figures of their tasks, by environment, since the archive began.

Owns the three counts: attempts of tasks that a summary had no room for, dead letters that it does not list, and how
often a worker noticed that nobody takes figures. They only grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from celery_guardrails.figures.summary import Summary
from celery_guardrails.store.figure import environment_of
from celery_guardrails.store.figure_table import figure_beside

__all__ = ["Beside", "add", "beside"]


@dataclass(frozen=True, slots=True)
class Beside:
    """The counts of one environment.

    Attributes:
        attempts: those of tasks beyond the most that one summary may have; no task's figures have them.
        dead_letters: those beyond the most that one summary lists; nobody looks for them in the archive.
        no_guardian: how often a worker noticed that nobody takes figures.
    """

    attempts: int = 0
    dead_letters: int = 0
    no_guardian: int = 0


def add(conn: Connection, summaries: Sequence[Summary]) -> None:
    """Add what these summaries say.

    Args:
        conn: a transaction of `Store.begin`.
        summaries: those that are counted for the first time.
    """
    more: Counter[tuple[str, str]] = Counter()
    for each in summaries:
        environment = environment_of(each.environment)
        more[environment, "attempts"] += each.others
        more[environment, "dead_letters"] += each.dead_unlisted
        more[environment, "no_guardian"] += each.no_guardian
    rows = [{"environment": key[0], "name": key[1], "number": more[key]} for key in sorted(more) if more[key]]
    if not rows:
        return
    insert = (postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert)(figure_beside)
    grown = {"number": figure_beside.c.number + insert.excluded.number}
    conn.execute(insert.on_conflict_do_update(index_elements=["environment", "name"], set_=grown), rows)


def beside(conn: Connection, environment: str) -> Beside:
    """The counts of an environment."""
    query = select(figure_beside.c.name, figure_beside.c.number).where(
        figure_beside.c.environment == environment_of(environment)
    )
    return Beside(**{row.name: row.number for row in conn.execute(query) if row.name in Beside.__slots__})
