"""The table `alert_outbox`, and every query on it.

alert_outbox: id, group_key, period, kind, ordinal, notice, broadcast, facts, status (pending, sending, sent, unknown,
failed), post_uid, created_at, claimed_at, next_try_at, attempts, absent, fence, channel, ts, reason, notes.
It must not know what is sent, nor when; every change after the first checks the fence of the poster's lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    RowMapping,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    func,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from celery_guardrails.store.column import clean
from celery_guardrails.store.lease import Lease, holds
from celery_guardrails.store.metadata import UtcDateTime, metadata

__all__ = ["OutboxRow", "add", "alert_outbox", "change", "claim", "live", "of_group", "placed", "statuses", "sweep"]

alert_outbox = Table(
    "guardrails_alert_outbox",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("group_key", Text, nullable=False),
    Column("period", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("notice", String(32), nullable=False),
    Column("broadcast", Boolean, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("post_uid", String(64)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("claimed_at", UtcDateTime),
    Column("next_try_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("absent", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("channel", Text),
    Column("ts", Text),
    Column("reason", Text),
    Column("notes", JSON, nullable=False),
    UniqueConstraint("group_key", "period", "kind", "ordinal"),
)
Index("ix_guardrails_alert_outbox_status", alert_outbox.c.status)

_LIVE = ("pending", "unknown")
_MAY_BE_THERE = ("sent", "sending", "unknown")


@dataclass(frozen=True)
class OutboxRow:
    """One notification as stored. `id` is 0 for a notification that is not stored yet.

    `attempts` counts the tries that failed because of the sink. `absent` counts how often a message with an unknown end
    was searched for and not found. A row of the kind `fallback` hands the alert of another row, whose id is its
    `ordinal`, to the fallback sink. `notes` is what the poster has to remember: `place` (its sink and channel),
    `channel` (another one than the place's), `beside` (it is not the message that later edits change), `plain`,
    `repost`, `because`, `duplicate`, `fell` (it was handed to the fallback), `of` (the kind of the row that fell).
    """

    group_key: str
    period: int
    kind: str
    ordinal: int
    notice: str
    created_at: datetime
    next_try_at: datetime
    broadcast: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    status: str = "pending"
    post_uid: str | None = None
    claimed_at: datetime | None = None
    attempts: int = 0
    absent: int = 0
    fence: int = 0
    channel: str | None = None
    ts: str | None = None
    reason: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0


def add(conn: Connection, row: OutboxRow) -> bool:
    """Store a notification to be delivered.

    Returns:
        `False` if it is stored already, or if it is an edit and another edit of the same message still waits: a message
        is rendered when it is sent, so one edit shows both changes.
    """
    if row.kind == "edit":
        waiting = and_(
            alert_outbox.c.group_key == row.group_key,
            alert_outbox.c.period == row.period,
            alert_outbox.c.kind == "edit",
            alert_outbox.c.status == "pending",
        )
        # Locked, so that the poster cannot take the waiting edit and load the group before this change is committed.
        if conn.execute(select(alert_outbox.c.id).where(waiting).with_for_update()).first():
            return False
    values = {name: getattr(row, name) for name in OutboxRow.__dataclass_fields__ if name != "id"}
    values["facts"], values["notes"] = dict(row.facts), dict(row.notes)
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    new = insert(alert_outbox).values(values).on_conflict_do_nothing().returning(alert_outbox.c.id)
    return conn.execute(new).first() is not None


def live(conn: Connection, limit: int = 1000) -> list[OutboxRow]:
    """The notifications that are not delivered yet, due or not, the oldest first."""
    query = select(alert_outbox).where(alert_outbox.c.status.in_(_LIVE)).order_by(alert_outbox.c.id).limit(limit)
    return [_row(row) for row in conn.execute(query).mappings()]


def of_group(conn: Connection, group_key: str, period: int) -> list[OutboxRow]:
    """Every notification about one period of a group, delivered or not, the oldest first."""
    same = and_(alert_outbox.c.group_key == group_key, alert_outbox.c.period == period)
    return [_row(row) for row in conn.execute(select(alert_outbox).where(same).order_by(alert_outbox.c.id)).mappings()]


def claim(
    conn: Connection,
    row: OutboxRow,
    *,
    fence: int,
    post_uid: str,
    now: datetime,
    held: Lease | None = None,
    notes: Mapping[str, Any] | None = None,
) -> bool:
    """Mark a notification as being sent; commit this before you call the sink.

    Args:
        conn: a transaction.
        row: the notification to send.
        fence: the fence of the poster's lease.
        post_uid: the id that the message will carry.
        now: this instant.
        held: the lease, checked in this transaction; `None` for a poster that needs no lease.
        notes: the row's notes from now on; `None`: as they are.

    Returns:
        `False` if another poster has taken over, or the notification is no longer pending.
    """
    if held is not None and not holds(conn, held):
        return False
    mine = and_(
        alert_outbox.c.id == row.id,
        alert_outbox.c.status == "pending",
        alert_outbox.c.fence <= fence,
    )
    values: dict[str, Any] = {"status": "sending", "fence": fence, "post_uid": post_uid, "claimed_at": now}
    if notes is not None:
        values["notes"] = dict(notes)
    taken = update(alert_outbox).where(mine).values(**values)
    return conn.execute(taken).rowcount == 1


def change(conn: Connection, row: OutboxRow, *, fence: int, **values: Any) -> bool:
    """Set columns of one row; `False`, and nothing is written, if a poster with a higher fence has taken over."""
    mine = and_(alert_outbox.c.id == row.id, alert_outbox.c.fence <= fence)
    values = {name: clean(value) if isinstance(value, str) else value for name, value in values.items()}
    return conn.execute(update(alert_outbox).where(mine).values(**values, fence=fence)).rowcount == 1


def placed(conn: Connection, group_key: str, period: int) -> list[str | None] | None:
    """The place of the latest message of a period that was sent, or may have been; `None`: there is none."""
    query = (
        select(alert_outbox.c.notes)
        .where(
            alert_outbox.c.group_key == group_key,
            alert_outbox.c.period == period,
            alert_outbox.c.kind != "fallback",
            alert_outbox.c.status.in_(_MAY_BE_THERE),
        )
        .order_by(alert_outbox.c.id.desc())
    )
    for notes in conn.execute(query).scalars():
        if notes.get("place") and not notes.get("beside"):
            place: list[str | None] = notes["place"]
            return place
    return None


def sweep(conn: Connection, *, fence: int, now: datetime) -> int:
    """Mark notifications that a poster left while it sent them as `unknown`; returns how many.

    Only the poster that holds the lease may call it, and not while it sends a notification itself.
    """
    left = and_(alert_outbox.c.status == "sending", alert_outbox.c.fence <= fence)
    unknown = update(alert_outbox).where(left).values(status="unknown", fence=fence, next_try_at=now, absent=0)
    return conn.execute(unknown).rowcount


def statuses(conn: Connection) -> dict[str, int]:
    """How many notifications have each status."""
    query = select(alert_outbox.c.status, func.count()).group_by(alert_outbox.c.status)
    return {row[0]: row[1] for row in conn.execute(query)}


def _row(row: RowMapping) -> OutboxRow:
    return OutboxRow(**{name: row[name] for name in OutboxRow.__dataclass_fields__})
