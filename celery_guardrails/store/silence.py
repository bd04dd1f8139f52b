"""The table `silence`, and every query on it: what people do not want to hear of until when, and why.

silence: id, environment, task, fingerprint, queue, until, reason, created_by, created_at, ended_by, ended_at.
It must not know which alerts a silence covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Connection, String, Table, Text, and_, or_, select, update

from celery_guardrails.store.column import cut, cut_or_none
from celery_guardrails.store.metadata import UtcDateTime, metadata

__all__ = ["Silence", "add", "end", "ended_since", "lasting", "silence"]

silence = Table(
    "guardrails_silence",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("environment", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("fingerprint", Text),
    Column("queue", Text),
    Column("until", UtcDateTime, nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("ended_by", Text),
    Column("ended_at", UtcDateTime),
)


@dataclass(frozen=True)
class Silence:
    """One silence.

    `task` is a name or a pattern with `*`, `?` and `[...]`. `fingerprint` and `queue` narrow it, `None` does not.
    `until` is its end; somebody may have ended it before (`ended_at`, `ended_by`).
    """

    id: str
    environment: str
    task: str
    until: datetime
    reason: str
    created_by: str
    created_at: datetime
    fingerprint: str | None = None
    queue: str | None = None
    ended_by: str | None = None
    ended_at: datetime | None = None


def add(conn: Connection, new: Silence) -> None:
    """Store a new silence."""
    values = {name: getattr(new, name) for name in Silence.__dataclass_fields__}
    texts = {name: cut(values[name]) for name in ("environment", "task", "reason", "created_by")}
    narrowed = {name: cut_or_none(values[name]) for name in ("fingerprint", "queue")}
    conn.execute(silence.insert().values({**values, **texts, **narrowed}))


def lasting(conn: Connection, now: datetime) -> list[Silence]:
    """The silences that last now, those that end first come first."""
    query = select(silence).where(silence.c.until > now, silence.c.ended_at.is_(None))
    return [_silence(row) for row in conn.execute(query.order_by(silence.c.until, silence.c.id)).mappings()]


def ended_since(conn: Connection, since: datetime, now: datetime) -> list[Silence]:
    """The silences that ended after `since`, by themselves or by somebody."""
    over = and_(silence.c.ended_at.is_(None), silence.c.until > since, silence.c.until <= now)
    query = select(silence).where(or_(over, silence.c.ended_at > since)).order_by(silence.c.until, silence.c.id)
    return [_silence(row) for row in conn.execute(query).mappings()]


def end(conn: Connection, silence_id: str, by: str, now: datetime) -> bool:
    """End a silence before its time; `False` if it does not last any more."""
    lasts = and_(silence.c.id == silence_id, silence.c.until > now, silence.c.ended_at.is_(None))
    return conn.execute(update(silence).where(lasts).values(ended_by=cut(by), ended_at=now)).rowcount == 1


def _silence(row: object) -> Silence:
    return Silence(**{name: row[name] for name in Silence.__dataclass_fields__})  # type: ignore[index]
