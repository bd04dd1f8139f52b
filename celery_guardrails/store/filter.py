"""Which dead letters a query finds, as data and as an SQL condition.

`recovery/query.py` parses the query language to a `Query`. This module does not know the syntax, only what each field
means in the tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, false, func, not_, or_, select, true

from celery_guardrails.store.column import NAME, clean, cut
from celery_guardrails.store.record import State
from celery_guardrails.store.table import dead_letter, letter_argument

__all__ = ["ARGUMENT_PREFIX", "FIELDS", "INSTANT_FIELDS", "YES_NO_FIELDS", "Query", "Term", "condition"]

ARGUMENT_PREFIX = "arg."
INSTANT_FIELDS = ("since", "before")

_COLUMNS = {
    "task": dead_letter.c.task,
    "error": dead_letter.c.error,
    "reason": dead_letter.c.reason,
    "state": dead_letter.c.state,
    "queue": dead_letter.c.queue,
    "category": dead_letter.c.category,
    "fingerprint": dead_letter.c.fingerprint,
    "worker": dead_letter.c.worker,
    "owner": dead_letter.c.owner,
    "environment": dead_letter.c.environment,
    "release": dead_letter.c.version,
    "id": dead_letter.c.id,
    "task_id": dead_letter.c.task_id,
}
YES_NO_FIELDS = ("may_have_run",)
FIELDS = (*_COLUMNS, *YES_NO_FIELDS, *INSTANT_FIELDS, "text")
"""All fields except those of arguments, which are `arg.NAME`."""

_FULL_ID = 36  # a UUID in text
_GLOB_SPECIAL = re.compile(r"[\[*?]")
_LIKE_SPECIAL = re.compile(r"[\\%_]")


@dataclass(frozen=True, slots=True)
class Term:
    """One condition.

    `field` is one of `FIELDS` or `arg.NAME`. `value` is an aware instant for `since` and `before`, `yes` or `no` for
    `may_have_run`, else text; with `glob`, `*` in it stands for any text. `negated` means: not this condition.
    """

    field: str
    value: str | datetime
    glob: bool = False
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """Terms that must all hold; without terms it finds every dead letter."""

    terms: tuple[Term, ...] = ()

    def argument_names(self) -> list[str]:
        """The names of the arguments in the query's terms."""
        fields = dict.fromkeys(term.field for term in self.terms if term.field.startswith(ARGUMENT_PREFIX))
        return [field.removeprefix(ARGUMENT_PREFIX) for field in fields]

    def says(self, field: str, value: str | State) -> bool:
        """Whether one of its terms wants exactly this value of a field."""
        return Term(field, str(value)) in self.terms

    def without_arguments(self) -> Query:
        """This query without its terms about arguments."""
        return Query(tuple(term for term in self.terms if not term.field.startswith(ARGUMENT_PREFIX)))

    def with_term(
        self, field: str, value: str | datetime | State, *, glob: bool = False, negated: bool = False
    ) -> Query:
        """This query, narrowed by one more term."""
        return Query((*self.terms, Term(field, str(value) if isinstance(value, State) else value, glob, negated)))


def condition(query: Query, dialect: str) -> ColumnElement[bool]:
    """The query as a condition on `dead_letter`.

    Args:
        query: the query.
        dialect: `sqlite` or `postgresql`; their case-sensitive patterns differ.
    """
    return and_(true(), *(_term(term, dialect) for term in query.terms))


def _term(term: Term, dialect: str) -> ColumnElement[bool]:
    found = _positive(term, dialect)
    # `!owner:anna` also finds letters without an owner; a plain NOT would leave them out
    return not_(func.coalesce(found, false())) if term.negated else found


def _positive(term: Term, dialect: str) -> ColumnElement[bool]:
    if isinstance(term.value, datetime):
        column = dead_letter.c.died_at
        return column >= term.value if term.field == "since" else column < term.value
    if term.field in YES_NO_FIELDS:
        return dead_letter.c[term.field].is_(term.value == "yes")
    if term.field == "text":
        return _contains(term.value)
    if term.field.startswith(ARGUMENT_PREFIX):
        name = term.field.removeprefix(ARGUMENT_PREFIX)
        # IN, not EXISTS: the index on values leads to the few letters; EXISTS would check every letter's values
        return dead_letter.c.id.in_(
            select(letter_argument.c.letter_id).where(
                letter_argument.c.name == cut(name, NAME),
                _matches(letter_argument.c.value, _pieces(term.value, term.glob), dialect),
            )
        )
    return _column(term.field, term.value, term.glob, dialect)


def _column(field: str, value: str, glob: bool, dialect: str) -> ColumnElement[bool]:
    column = _COLUMNS[field]
    pieces = _pieces(value, glob)
    if field == "id" and not glob and len(value) < _FULL_ID:
        return _matches(column, [*pieces, ""], dialect)
    if field == "error":
        # people write `TimeoutError`, the archive holds `asyncio.exceptions.TimeoutError`
        dotted = ["", f".{pieces[0]}", *pieces[1:]]
        return or_(_matches(column, pieces, dialect), _matches(column, dotted, dialect))
    return _matches(column, pieces, dialect)


def _pieces(value: str, glob: bool) -> list[str]:
    return clean(value).split("*") if glob else [cut(value)]


def _matches(column: ColumnElement[str], pieces: list[str], dialect: str) -> ColumnElement[bool]:
    if len(pieces) == 1:
        return column == pieces[0]
    if dialect == "sqlite":
        # LIKE ignores case in SQLite, and so cannot use an index
        pattern = "*".join(_GLOB_SPECIAL.sub(r"[\g<0>]", piece) for piece in pieces)
        return column.op("GLOB", is_comparison=True)(pattern)
    return column.like("%".join(_LIKE_SPECIAL.sub(r"\\\g<0>", piece) for piece in pieces), escape="\\")


def _contains(value: str) -> ColumnElement[bool]:
    columns = (dead_letter.c.message, dead_letter.c.task, dead_letter.c.error)
    return or_(*(column.icontains(clean(value), autoescape=True) for column in columns))
