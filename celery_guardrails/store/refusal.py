"""What a database's error means: that it is away, that it has no room, or that something else is wrong; and its words.

Owns the table of what the databases say. It must not know what anybody makes of it.
"""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from celery_guardrails.redaction.process import shown

__all__ = ["is_away", "is_full", "reason_of"]

_QUESTION = re.compile(r"\s*Is the server running [^?]*\?")
_CLOSED = "unable to open database file"
_REFUSALS = ("authentication failed", "no pg_hba.conf entry", "does not exist", "no password supplied")
# Classes of SQLSTATE (PostgreSQL, appendix A): psycopg counts the first among the operational errors, too.
_TOO_MUCH, _NO_ROOM = "54", ("53", "58")


def is_away(exc: SQLAlchemyError) -> bool:
    """Whether the database does not answer now, or is locked, and nobody has to correct anything."""
    if not isinstance(exc, DBAPIError) or not isinstance(exc, OperationalError | InterfaceError):
        return False
    words = str(exc.orig)
    if isinstance(exc.orig, sqlite3.Error):
        return "locked" in words
    if _state(exc).startswith(_TOO_MUCH):
        return False
    # libpq gives no SQLSTATE for what it is refused when it connects
    return not any(refusal in words for refusal in _REFUSALS)


def is_full(exc: SQLAlchemyError) -> bool:
    """Whether the database's machine has no room for more, whatever is to be written."""
    if not isinstance(exc, DBAPIError):
        return False
    if isinstance(exc.orig, sqlite3.Error):
        return any(words in str(exc.orig) for words in ("is full", "disk I/O error", "readonly"))
    return _state(exc).startswith(_NO_ROOM)


def reason_of(exc: SQLAlchemyError) -> str:
    """What the database says, in one line and without secrets."""
    cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    # libpq asks its reader whether the server runs, which says nothing more
    words = shown(_QUESTION.sub("", " ".join(str(cause).split()))) or type(cause).__name__
    return f"{words} (see whether this user may write into its folder)" if words == _CLOSED else words


def _state(exc: DBAPIError) -> str:
    """PostgreSQL's SQLSTATE, empty where there is none."""
    return str(getattr(exc.orig, "sqlstate", None) or "")
