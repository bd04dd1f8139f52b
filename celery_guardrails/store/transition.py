"""Moving one dead letter from state to state, each as one conditional UPDATE, so that there is a single winner.

Owns which state may follow which. The caller writes who asked and why into the audit trail, in the same transaction,
and decides who may ask.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, case, literal_column, or_, select, update

from celery_guardrails.store.column import LARGEST, clean, key_of
from celery_guardrails.store.record import State
from celery_guardrails.store.table import dead_letter, death

__all__ = [
    "claim",
    "confirm_recovered",
    "discard",
    "mark_failed",
    "mark_published",
    "restore",
    "take_over",
    "unpublished",
]


def claim(conn: Connection, letter_id: str, actor: str, reason: str, now: datetime) -> bool:
    """Claim a dead letter for a requeue: `dead` -> `requeued`, with the next generation.

    Returns:
        `False` if the letter is not `dead`, or somebody else was faster.
    """
    values = {
        "state": State.REQUEUED.value,
        "generation": dead_letter.c.generation + 1,
        "requeued_at": now,
        "requeued_by": clean(actor),
        "requeue_reason": clean(reason),
        "requeue_tried_at": now,
        "requeue_published_at": None,
    }
    return _move(conn, letter_id, State.DEAD, values)


def mark_published(conn: Connection, letter_id: str, generation: int, now: datetime) -> bool:
    """Note that the broker took the requeued message; `False` if the letter has another generation by now.

    The work may have recovered or died again in the meantime: the note is correct all the same.
    """
    statement = update(dead_letter).where(dead_letter.c.id == letter_id, dead_letter.c.generation == generation)
    return conn.execute(statement.values(requeue_published_at=now)).rowcount == 1


def mark_failed(conn: Connection, letter_id: str, generation: int) -> bool:
    """Undo a claim whose message the broker did not take: `dead` again, with the former generation.

    Returns:
        `False` if the letter is no longer `requeued` with this generation, or is known to be published: nothing is
        undone.
    """
    values = {
        "state": State.DEAD.value,
        "generation": generation - 1,
        "requeued_at": None,
        "requeued_by": None,
        "requeue_reason": None,
        "requeue_tried_at": None,
    }
    unpublished_yet = and_(dead_letter.c.generation == generation, dead_letter.c.requeue_published_at.is_(None))
    return _move(conn, letter_id, State.REQUEUED, values, unpublished_yet)


def confirm_recovered(conn: Connection, letter_id: str, generation: int, at: datetime) -> bool:
    """Note that requeued work succeeded: `requeued` -> `recovered`, or `dead` -> `recovered` after a lost confirmation.

    The broker may have taken a message whose confirmation got lost: the claim was given back (`mark_failed`), but the
    work ran. So a letter that is `dead` with the generation before recovers, too, with the reported generation. A
    `requeued` letter that somebody restored while its work was on its way also recovers, even if it was put back once
    more since then. A death of that later copy is still a further death.

    Args:
        conn: a transaction.
        letter_id: the dead letter's id.
        generation: which requeue succeeded.
        at: when.

    Returns:
        `True` if this call made the letter `recovered`. A confirmation that comes twice, or for another generation, or
        for an unknown or discarded letter, changes nothing.
    """
    if not 0 < generation <= LARGEST:
        return False  # not a requeue of ours, and perhaps a number that a database refuses
    at_work = and_(dead_letter.c.state == State.REQUEUED.value, dead_letter.c.generation == generation)
    given_back = and_(dead_letter.c.state == State.DEAD.value, dead_letter.c.generation == generation - 1)
    died = select(death.c.id).where(death.c.letter_id == dead_letter.c.id, death.c.generation == generation)
    restored = or_(
        and_(dead_letter.c.state == State.DEAD.value, dead_letter.c.generation == generation),
        and_(dead_letter.c.state == State.REQUEUED.value, dead_letter.c.generation > generation),
    )
    ends = or_(at_work, given_back, and_(restored, ~died.exists()))
    statement = update(dead_letter).where(dead_letter.c.id == key_of(letter_id), ends)
    latest = case((dead_letter.c.generation < generation, generation), else_=dead_letter.c.generation)
    values = {"state": State.RECOVERED.value, "generation": latest, "resolved_at": at}
    return conn.execute(statement.values(values)).rowcount == 1


def discard(conn: Connection, letter_id: str, now: datetime) -> bool:
    """`dead` -> `discarded`; `False` if the letter is not `dead`."""
    return _move(conn, letter_id, State.DEAD, {"state": State.DISCARDED.value, "resolved_at": now})


def restore(conn: Connection, letter_id: str, source: State) -> bool:
    """`discarded` or `requeued` -> `dead`, with its generation; `False` if the letter is not in the state `source`."""
    return _move(conn, letter_id, source, {"state": State.DEAD.value, "resolved_at": None})


def unpublished(conn: Connection, older_than: datetime, limit: int = 100) -> list[str]:
    """The ids of claims that nobody has tried to publish since `older_than`; the longest waiting first."""
    waiting = select(dead_letter.c.id).where(
        # as a literal: the database uses a partial index only if it sees the index's own condition
        dead_letter.c.state == literal_column(f"'{State.REQUEUED.value}'"),
        dead_letter.c.requeue_published_at.is_(None),
        dead_letter.c.requeue_tried_at < older_than,
    )
    return list(conn.execute(waiting.order_by(dead_letter.c.requeue_tried_at).limit(limit)).scalars())


def take_over(conn: Connection, letter_id: str, older_than: datetime, now: datetime) -> bool:
    """Take an unpublished claim over, so that only one guardian publishes it; `False` if another guardian did."""
    waiting = and_(dead_letter.c.requeue_published_at.is_(None), dead_letter.c.requeue_tried_at < older_than)
    return _move(conn, letter_id, State.REQUEUED, {"requeue_tried_at": now}, waiting)


def _move(conn: Connection, letter_id: str, source: State, values: dict[str, Any], also: Any = None) -> bool:
    statement = update(dead_letter).where(dead_letter.c.id == letter_id, dead_letter.c.state == source.value)
    if also is not None:
        statement = statement.where(also)
    return conn.execute(statement.values(values)).rowcount == 1
