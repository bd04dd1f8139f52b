"""What the archive has kept long enough: which rows are due, and their removal in small pieces.

Owns every DELETE on `dead_letter` (its deaths and values go with it) and on `audit`. Work that was put back and has not
come to an end (`requeued`) is never due. Alert events and the outbox are pruned where they are kept. It must not know
who decides how long something is kept, nor when it is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select

from celery_guardrails.store.record import State
from celery_guardrails.store.table import audit, audit_cut, dead_letter

__all__ = ["AUDIT", "KINDS", "due", "remove"]

AUDIT = "audit"
KINDS = (State.DEAD.value, State.RECOVERED.value, State.DISCARDED.value, AUDIT)
"""What is kept for a time of its own, in the order in which it is removed."""


def due(conn: Connection, keep: Mapping[str, timedelta | None], now: datetime) -> dict[str, int]:
    """How many rows of each kind are due; kinds that are kept for ever are left out."""
    counts = {}
    for kind in KINDS:
        if (age := keep.get(kind)) is not None:
            table = audit if kind == AUDIT else dead_letter
            counts[kind] = conn.execute(
                select(func.count()).select_from(table).where(_is_due(kind, now - age))
            ).scalar_one()
    return counts


def remove(conn: Connection, kind: str, before: datetime, most: int) -> int:
    """Remove what is of this kind since before an instant, the oldest first; returns how many.

    Args:
        conn: a transaction.
        kind: `dead`, by the time of the latest death; `recovered` or `discarded`, by when it was so decided; `audit`.
        before: what is younger stays.
        most: at most so many.
    """
    return _audit(conn, before, most) if kind == AUDIT else _letters(conn, kind, before, most)


def _letters(conn: Connection, state: str, before: datetime, most: int) -> int:
    at = dead_letter.c.died_at if state == State.DEAD.value else dead_letter.c.resolved_at
    wanted = select(dead_letter.c.id).where(_is_due(state, before)).order_by(at).limit(most)
    if conn.dialect.name == "postgresql":
        wanted = wanted.with_for_update(skip_locked=True)  # somebody decides on it at this moment: the next pass
    ids = list(conn.execute(wanted).scalars())
    return conn.execute(delete(dead_letter).where(dead_letter.c.id.in_(ids))).rowcount if ids else 0


def _audit(conn: Connection, before: datetime, most: int) -> int:
    # The database refuses every other removal: it looks whether an entry is older than what `audit_cut` says, and that
    # is empty but within this transaction.
    seqs = list(
        conn.execute(select(audit.c.seq).where(_is_due(AUDIT, before)).order_by(audit.c.seq).limit(most)).scalars()
    )
    if not seqs:
        return 0
    conn.execute(insert(audit_cut).values(before=before))
    removed = conn.execute(delete(audit).where(audit.c.seq.in_(seqs))).rowcount
    conn.execute(delete(audit_cut))
    return removed


def _is_due(kind: str, before: datetime) -> ColumnElement[bool]:
    if kind == AUDIT:
        return audit.c.at < before
    if kind == State.DEAD.value:
        return and_(dead_letter.c.state == kind, dead_letter.c.died_at < before)
    return and_(dead_letter.c.state == kind, dead_letter.c.resolved_at < before)
