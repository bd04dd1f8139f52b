"""Reading dead letters: one letter, its history, a page of letters, their number, their groups.

Also the entrance to the archive: callers find `archive` and `recover` here.
It must not know who reads, nor the syntax of a query.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, case, func, or_, select, tuple_

from celery_guardrails.errors import DeadLetterAmbiguous, DeadLetterNotFound
from celery_guardrails.letters.codec import decode, unreadable
from celery_guardrails.letters.record import Letter
from celery_guardrails.store.archive import archive
from celery_guardrails.store.column import cut, key_of
from celery_guardrails.store.filter import Query, condition
from celery_guardrails.store.record import (
    Archivable,
    Archived,
    ArchivedLetter,
    Before,
    Death,
    Group,
    Keyset,
    LetterSummary,
    Outcome,
    Page,
    State,
    Stats,
    Unreported,
)
from celery_guardrails.store.report import recover
from celery_guardrails.store.table import dead_letter, death, letter_argument

__all__ = [
    "GROUPINGS",
    "Archivable",
    "Archived",
    "ArchivedLetter",
    "Before",
    "Death",
    "Group",
    "Keyset",
    "LetterSummary",
    "Outcome",
    "Page",
    "Query",
    "State",
    "Stats",
    "Unreported",
    "archive",
    "before",
    "count",
    "deaths",
    "get",
    "groups",
    "kept_names",
    "recover",
    "search",
    "stats",
    "unreported",
]

_ALL = Query()
_CHOICES = 5
"""How many ids an error names at most, if an id is ambiguous."""
_COLUMNS = [dead_letter.c[field.name] for field in fields(LetterSummary)]

GROUPINGS = {
    "fingerprint": ("task", "fingerprint"),
    "task": ("task",),
    "error": ("error",),
    "queue": ("queue",),
    "worker": ("worker",),
    "version": ("version",),
}
"""The names by which dead letters can be grouped, and the columns of each."""


def get(conn: Connection, letter_id: str) -> ArchivedLetter:
    """One dead letter with its replayable payload.

    Args:
        conn: a transaction.
        letter_id: the letter's id or its task id, or the beginning of either if no other id begins so.

    Raises:
        DeadLetterNotFound: no id begins so.
        DeadLetterAmbiguous: several ids begin so, or several letters have this task id.
    """
    given = letter_id.strip()
    key, task_id = key_of(given), cut(given)
    query = select(*_COLUMNS, death.c.payload).join(death, death.c.id == dead_letter.c.death_id)
    rows = conn.execute(query.where(dead_letter.c.id == key)).mappings().all()
    if not rows and given:
        # the latest first, as people look for what has just happened
        query = query.order_by(dead_letter.c.died_at.desc(), dead_letter.c.id).limit(_CHOICES)
        rows = conn.execute(query.where(dead_letter.c.task_id == task_id)).mappings().all()
        if not rows:
            begins = [_begins(conn, dead_letter.c.id, key), _begins(conn, dead_letter.c.task_id, task_id)]
            rows = conn.execute(query.where(or_(*begins))).mappings().all()
    if not rows:
        raise DeadLetterNotFound(letter_id)
    if len(rows) > 1:
        same = all(row["task_id"] == task_id for row in rows)
        raise DeadLetterAmbiguous(letter_id, [row["id"] for row in rows], same)
    return ArchivedLetter(_summary(rows[0]), _letter(rows[0]["payload"], rows[0]["died_at"]))


def _letter(payload: bytes, died_at: datetime) -> Letter:
    """The letter of one death. A letter of an earlier version that cannot be read is shown as unreadable.

    Raises:
        NewerSchema: a newer version archived it.
    """
    try:
        return decode(payload)
    except ValueError as exc:
        return unreadable(payload, str(exc), "the archive", died_at)


def _begins(conn: Connection, column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    begun = and_(column.startswith(prefix, autoescape=True), column >= prefix)
    if conn.dialect.name != "sqlite":
        return begun
    # all texts with the prefix are below the prefix with its last character replaced by the next one; SQLite's LIKE
    # uses no index
    return and_(begun, column < prefix[:-1] + chr(min(ord(prefix[-1]) + 1, 0xD7FF)))


def before(conn: Connection, found: Collection[Letter]) -> dict[str, Before]:
    """The last death of these letters' works, by id, if they were put back; call it before you archive the letters."""
    ids = sorted({key_of(letter.origin_id) for letter in found if letter.dead_letter_id is not None})
    if not ids:
        return {}
    names = ("died_at", "fingerprint", "reason", "may_have_run")
    rows = conn.execute(
        select(dead_letter.c.id, *(dead_letter.c[name] for name in names)).where(dead_letter.c.id.in_(ids))
    )
    return {row.id: Before(row.died_at, row.fingerprint, row.reason, row.may_have_run) for row in rows}


def kept_names(conn: Connection, query: Query = _ALL) -> list[str]:
    """The names of the arguments that these dead letters keep in clear, for `arg.NAME`."""
    meant = select(dead_letter.c.id).where(condition(query, conn.dialect.name))
    names = select(letter_argument.c.name).where(letter_argument.c.letter_id.in_(meant)).distinct()
    return sorted(conn.execute(names).scalars())


def deaths(conn: Connection, letter_id: str) -> list[Death]:
    """Every death of this work, the oldest generation first; empty for an unknown id."""
    query = select(death).where(death.c.letter_id == letter_id)
    rows = conn.execute(query.order_by(death.c.generation, death.c.died_at, death.c.id))
    return [Death(row.id, row.generation, row.died_at, row.reason, _letter(row.payload, row.died_at)) for row in rows]


def search(
    conn: Connection,
    query: Query = _ALL,
    limit: int = 100,
    after: Keyset | None = None,
    *,
    newest_first: bool = True,
) -> Page:
    """A page of the dead letters that a query finds, ordered by the time of their latest death.

    Args:
        conn: a transaction.
        query: which letters; default all.
        limit: at most so many, at least 1.
        after: where the page before ended (its `next`); `None` for the first page.
        newest_first: the order.
    """
    position = tuple_(dead_letter.c.died_at, dead_letter.c.id)
    statement = select(*_COLUMNS).where(condition(query, conn.dialect.name))
    if after is not None:
        mark = tuple_(after.died_at, after.id, types=[dead_letter.c.died_at.type, dead_letter.c.id.type])
        statement = statement.where(position < mark if newest_first else position > mark)
    order = [dead_letter.c.died_at, dead_letter.c.id]
    statement = statement.order_by(*(column.desc() if newest_first else column for column in order))
    found = [_summary(row) for row in conn.execute(statement.limit(limit + 1)).mappings()]
    letters = tuple(found[:limit])
    return Page(letters, Keyset(letters[-1].died_at, letters[-1].id) if len(found) > limit else None)


def count(conn: Connection, query: Query = _ALL) -> int:
    """How many dead letters a query finds."""
    statement = select(func.count()).select_from(dead_letter).where(condition(query, conn.dialect.name))
    return conn.execute(statement).scalar_one()


def groups(conn: Connection, query: Query = _ALL, by: str = "fingerprint", limit: int = 100) -> list[Group]:
    """What the dead letters have in common, the largest group first.

    Args:
        conn: a transaction.
        query: which dead letters; default all.
        by: one of `GROUPINGS`; `fingerprint` means task and fingerprint.
        limit: at most so many groups.

    Raises:
        KeyError: `by` is not one of `GROUPINGS`.
    """
    names = GROUPINGS[by]
    wanted = condition(query, conn.dialect.name)
    keys = [func.coalesce(dead_letter.c[name], "").label(f"key_{name}") for name in names]
    total = func.count().label("total")
    largest = (
        select(*keys, total, *_counts(), func.min(dead_letter.c.died_at).label("first"),
               func.max(dead_letter.c.died_at).label("last"))
        .where(wanted).group_by(*keys).order_by(total.desc(), *keys).limit(limit).subquery("largest")
    )  # fmt: skip
    place = func.row_number().over(partition_by=keys, order_by=[dead_letter.c.died_at.desc(), dead_letter.c.id.desc()])
    sample_columns = (dead_letter.c.id, dead_letter.c.error, dead_letter.c.message)
    ranked = select(*keys, *sample_columns, place.label("place")).where(wanted).subquery("ranked")
    same = and_(ranked.c.place == 1, *(ranked.c[f"key_{name}"] == largest.c[f"key_{name}"] for name in names))
    statement = select(largest, ranked.c.id, ranked.c.error, ranked.c.message).join(ranked, same)
    order = [largest.c.total.desc(), *(largest.c[f"key_{name}"] for name in names)]
    return [_group(row, names) for row in conn.execute(statement.order_by(*order)).mappings()]


def stats(conn: Connection, query: Query = _ALL) -> Stats:
    """Counts by state, task and reason, over the dead letters that a query finds; default all."""
    wanted = condition(query, conn.dialect.name)
    by_state = _tally(conn, dead_letter.c.state, wanted)
    by_task = _tally(conn, dead_letter.c.task, wanted)
    by_reason = _tally(conn, dead_letter.c.reason, wanted)
    oldest = select(func.min(dead_letter.c.died_at)).where(wanted, dead_letter.c.state == State.DEAD.value)
    return Stats(sum(by_state.values()), by_state, by_task, by_reason, conn.execute(oldest).scalar())


def unreported(conn: Connection, before: datetime) -> list[Unreported]:
    """Letters that were put back before this instant and are not recovered or dead again, by task, oldest first."""
    first = func.min(dead_letter.c.requeued_at).label("first")
    waits = and_(dead_letter.c.state == State.REQUEUED.value, dead_letter.c.requeued_at < before)
    statement = select(dead_letter.c.task, func.count(), first).where(waits).group_by(dead_letter.c.task)
    return [Unreported(row[0], row[1], row[2]) for row in conn.execute(statement.order_by(first, dead_letter.c.task))]


def _tally(conn: Connection, column: ColumnElement[str], wanted: ColumnElement[bool]) -> dict[str, int]:
    statement = select(column, func.count()).where(wanted).group_by(column)
    rows = [(str(row[0]), int(row[1])) for row in conn.execute(statement)]
    return dict(sorted(rows, key=lambda row: (-row[1], row[0])))


def _counts() -> list[Any]:
    by_state = [func.sum(case((dead_letter.c.state == s.value, 1), else_=0)).label(f"in_{s.value}") for s in State]
    return [*by_state, func.sum(case((dead_letter.c.regressed, 1), else_=0)).label("regressed")]


def _group(row: RowMapping, names: tuple[str, ...]) -> Group:
    first: datetime = row["first"]
    return Group(
        key={name: row[f"key_{name}"] for name in names},
        count=row["total"],
        first_died_at=first,
        last_died_at=row["last"],
        error=row["error"],
        message=row["message"],
        sample_id=row["id"],
        regressed=int(row["regressed"]),
        states={s.value: int(row[f"in_{s.value}"]) for s in State if row[f"in_{s.value}"]},
    )


def _summary(row: RowMapping) -> LetterSummary:
    values = {column.name: row[column.name] for column in _COLUMNS}
    return LetterSummary(**values | {"state": State(values["state"])})
