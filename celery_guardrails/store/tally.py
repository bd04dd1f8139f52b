"""How many dead letters there are, how many came lately, and how old the oldest is that needs a decision.

Owns these counts, and the totals of deaths by task and reason, which outlive the letters. A letter whose work died
again is one letter, and counts at its latest death. It must not know who shows them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, func, select, type_coerce
from sqlalchemy.dialects import postgresql, sqlite

from celery_guardrails.letters.record import SELF_TEST, Letter
from celery_guardrails.store.column import NAME, cut
from celery_guardrails.store.figure_table import figure_letter
from celery_guardrails.store.record import State
from celery_guardrails.store.table import dead_letter

__all__ = ["Standing", "Undecided", "add_deaths", "came_since", "deaths_in_all", "standing", "undecided_by_task"]

_MICROS = 1_000_000
_REAL = dead_letter.c.task != SELF_TEST


@dataclass(frozen=True, slots=True)
class Standing:
    """How many letters of a task, reason and state there are, and when the earliest of them died (its latest death)."""

    environment: str
    task: str
    reason: str
    state: str
    count: int
    oldest_at: datetime


@dataclass(frozen=True, slots=True)
class Undecided:
    """The letters of one task that need a decision, and when the first of them died."""

    task: str
    count: int
    oldest_at: datetime


def standing(conn: Connection) -> list[Standing]:
    """The archive's letters by environment, task, reason and state, without the canary of `doctor --self-test`."""
    names = [dead_letter.c[name] for name in ("environment", "task", "reason", "state")]
    query = select(*names, func.count(), func.min(dead_letter.c.died_at)).where(_REAL).group_by(*names)
    return [Standing(row[0], row[1], row[2], row[3], row[4], row[5]) for row in conn.execute(query.order_by(*names))]


def undecided_by_task(conn: Connection, environment: str) -> list[Undecided]:
    """The tasks that have letters in state `dead`, those with the most first."""
    count, oldest = func.count(), func.min(dead_letter.c.died_at)
    wanted = (_REAL, dead_letter.c.state == State.DEAD.value, dead_letter.c.environment == cut(environment))
    query = select(dead_letter.c.task, count, oldest).where(*wanted).group_by(dead_letter.c.task)
    return [Undecided(*row) for row in conn.execute(query.order_by(count.desc(), dead_letter.c.task))]


def came_since(conn: Connection, start: datetime, end: datetime, parts: int, environment: str) -> list[int]:
    """How many letters died in each of so many equal parts of a period, the earliest first.

    Args:
        conn: a transaction.
        start: the beginning, a whole second.
        end: the end, excluded, a whole second.
        parts: how many.
        environment: only of this environment.
    """
    second = timedelta(seconds=1)
    length = int((end - start) / second) * _MICROS // parts
    at = type_coerce(dead_letter.c.died_at, BigInteger) - int(start.timestamp()) * _MICROS
    part = (at // length).label("part")
    wanted = (
        _REAL,
        dead_letter.c.died_at >= start,
        dead_letter.c.died_at < end,
        dead_letter.c.environment == cut(environment),
    )
    found = {int(row[0]): int(row[1]) for row in conn.execute(select(part, func.count()).where(*wanted).group_by(part))}
    return [found.get(number, 0) for number in range(parts)]


def add_deaths(conn: Connection, letters: Iterable[Letter], now: datetime) -> None:
    """Add newly archived deaths to the totals; call it last in its transaction, because it locks rows of every task."""
    found = Counter(
        (cut(letter.environment, NAME), cut(letter.task), letter.reason.value)
        for letter in letters
        if letter.task != SELF_TEST
    )
    rows: list[dict[str, Any]] = [
        {"environment": environment, "task": task, "reason": reason, "deaths": number, "updated_at": now}
        for (environment, task, reason), number in sorted(found.items())
    ]
    if not rows:
        return
    insert = (postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert)(figure_letter)
    names = [figure_letter.c[name] for name in ("environment", "task", "reason")]
    more = {"deaths": figure_letter.c.deaths + insert.excluded.deaths, "updated_at": insert.excluded.updated_at}
    conn.execute(insert.on_conflict_do_update(index_elements=names, set_=more), rows)


def deaths_in_all(conn: Connection) -> dict[tuple[str, str, str], int]:
    """How many deaths were archived since the archive began, by environment, task and reason; they only grow."""
    names = [figure_letter.c[name] for name in ("environment", "task", "reason")]
    rows = conn.execute(select(*names, figure_letter.c.deaths).order_by(*names))
    return {(row[0], row[1], row[2]): int(row[3]) for row in rows}
