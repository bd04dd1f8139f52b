"""What a database's error means (it is away, it has no room, or another fault), and the error's words.

Owns the table of the databases' errors. It must not know what callers do about them.
"""
# on its own: what drivers' errors mean is looked up and tested without opening an archive

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from celery_guardrails.redaction.process import shown

__all__ = ["is_away", "is_full", "reason_of"]

_QUESTION = re.compile(r"\s*Is the server running [^?]*\?")
_CLOSED = "unable to open database file"
_REFUSALS = ("authentication failed", "no pg_hba.conf entry", "does not exist", "no password supplied")
# Classes of SQLSTATE (PostgreSQL, appendix A); psycopg counts the first as an operational error, too.
_TOO_MUCH, _NO_ROOM = "54", ("53", "58")


def is_away(exc: SQLAlchemyError) -> bool:
    """Whether the database does not answer now, or is locked, so that it is enough to wait."""
    if not isinstance(exc, DBAPIError) or not isinstance(exc, OperationalError | InterfaceError):
        return False
    words = str(exc.orig)
    if isinstance(exc.orig, sqlite3.Error):
        return "locked" in words
    if _state(exc).startswith(_TOO_MUCH):
        return False
    # libpq gives no SQLSTATE if the server refuses its connection
    return not any(refusal in words for refusal in _REFUSALS)


def is_full(exc: SQLAlchemyError) -> bool:
    """Whether the database's machine has no room for any further data."""
    if not isinstance(exc, DBAPIError):
        return False
    if isinstance(exc.orig, sqlite3.Error):
        return any(words in str(exc.orig) for words in ("is full", "disk I/O error", "readonly"))
    return _state(exc).startswith(_NO_ROOM)


def reason_of(exc: SQLAlchemyError) -> str:
    """The database's error in one line, without secrets."""
    cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    # libpq also asks the reader whether the server runs: this adds no information
    words = shown(_QUESTION.sub("", " ".join(str(cause).split()))) or type(cause).__name__
    return f"{words} (see whether this user may write into its folder)" if words == _CLOSED else words


def _state(exc: DBAPIError) -> str:
    """PostgreSQL's SQLSTATE, "" if the error has none."""
    return str(getattr(exc.orig, "sqlstate", None) or "")
