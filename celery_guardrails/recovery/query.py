"""The query language: `task:billing.* error:Timeout* since:2h text:"api key" !state:discarded arg.order_id:4711`.

Owns the syntax: `field:value` terms that must all hold. `!` before a term negates it. `*` stands for any text, except
in a quoted value; there a backslash escapes the next character, and `\\u20ac` is a character by its number. It must not
know how a query is answered; it parses to plain data.

`arg.NAME` compares the arguments that the policy keeps in clear (`correlate` and `affected_by`), not the preview: a
preview is redacted and cut, and a value in it may be a part of a longer value.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime, timezone

from celery_guardrails.clock import parse_duration
from celery_guardrails.errors import QueryError, nearest
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.store.filter import ARGUMENT_PREFIX, FIELDS, INSTANT_FIELDS, YES_NO_FIELDS, Query, Term
from celery_guardrails.store.record import State

__all__ = ["Query", "Term", "parse_query"]

_TERM = re.compile(
    r"""(?P<negated>!?)
        (?P<field>[A-Za-z_][\w.-]*):
        (?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s"]*))
        (?=\s|$)""",
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"\S+")
_ESCAPED = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_CHOICES = {
    "state": [state.value for state in State],
    "reason": [reason.value for reason in Reason],
    "category": [category.value for category in Category],
    **{field: ["yes", "no"] for field in YES_NO_FIELDS},
}


def parse_query(text: str, now: datetime) -> Query:
    """Read a query as a person writes it; an empty one means every dead letter.

    Args:
        text: terms separated by spaces.
        now: the instant from which `since:2h` counts back.

    Raises:
        QueryError: a field is unknown, or a value is missing or not allowed for its field; the error names the nearest
            right spelling.
    """
    terms: list[Term] = []
    position = 0
    while rest := text[position:].lstrip():
        position = len(text) - len(rest)
        found = _TERM.match(text, position)
        if found is None:
            raise _malformed(rest)
        terms.append(_term(found, now))
        position = found.end()
    return Query(tuple(terms))


def _term(found: re.Match[str], now: datetime) -> Term:
    field, whole, negated = found["field"], found[0], bool(found["negated"])
    quoted = found["quoted"] is not None
    value = _ESCAPED.sub(_unescaped, found["quoted"]) if quoted else found["plain"]
    if field not in FIELDS and not _is_argument(field):
        close = nearest(field.lower(), [*FIELDS, ARGUMENT_PREFIX])
        others = "" if close else f"; fields are {', '.join(FIELDS)} and arg.NAME"
        raise QueryError(whole, f"there is no field {field!r}{others}", close)
    if not value:
        raise QueryError(whole, f"{field} needs a value")
    if field in INSTANT_FIELDS:
        return Term(field, _instant(whole, value, now), negated=negated)
    glob = "*" in value and not quoted and field != "text"
    if field in _CHOICES and (field in YES_NO_FIELDS or not glob) and value not in _CHOICES[field]:
        choices = _CHOICES[field]
        raise QueryError(whole, f"{field} is one of {', '.join(choices)}", nearest(value.lower(), choices))
    return Term(field, value, glob, negated)


def _unescaped(found: re.Match[str]) -> str:
    """The character that an escape stands for: by its number in Unicode, else the escaped character itself."""
    number = found[1] or found[2]
    if number is None:
        return found[3]
    return chr(int(number, 16)) if int(number, 16) <= sys.maxunicode else found[0]


def _is_argument(field: str) -> bool:
    return field.startswith(ARGUMENT_PREFIX) and len(field) > len(ARGUMENT_PREFIX)


def _instant(whole: str, value: str, now: datetime) -> datetime:
    try:
        return now - parse_duration(value)
    except ValueError:
        pass
    try:
        # Python 3.10 does not read the Z
        at = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", value))
        return at.replace(tzinfo=timezone.utc) if at.tzinfo is None else at.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise QueryError(whole, "write a duration such as 2h or 14d, or an instant such as 2026-11-01T09:00Z") from None


def _malformed(rest: str) -> QueryError:
    found = _WORD.match(rest)
    word = found[0] if found else rest
    if rest.count('"') % 2:
        return QueryError(word, "a quote is not closed")
    if ":" in word:
        return QueryError(word, "write field:value, with the value in double quotes where it has spaces or quotes")
    return QueryError(word, "a term is field:value", f"text:{word}")
