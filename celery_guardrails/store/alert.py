"""The tables `alert_event` and `alert_group`, and every query on them.

alert_event: ref_id, environment, task, at, recorded_at, group_key, processed, payload.
alert_group: key, environment, task, version, state, period, baseline, channel, message_ts, shown, updated_at, data.
It must not know what a payload means, nor when a group speaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    RowMapping,
    String,
    Table,
    Text,
    and_,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from celery_guardrails import clock
from celery_guardrails.store.column import cut
from celery_guardrails.store.metadata import UtcDateTime, metadata
from celery_guardrails.store.table import audit, dead_letter

__all__ = [
    "GroupRow",
    "RecordableEvent",
    "Requeued",
    "alert_event",
    "alert_group",
    "count_since",
    "events_since",
    "latest_audit_entry",
    "letter_states",
    "load_groups",
    "mark_processed",
    "record",
    "requeues",
    "save_group",
    "save_posted",
    "save_shown",
    "unprocessed",
]

alert_event = Table(
    "guardrails_alert_event",
    metadata,
    Column("ref_id", String(64), primary_key=True),
    Column("environment", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("group_key", Text),
    Column("processed", Boolean, nullable=False, default=False),
    Column("payload", JSON, nullable=False),
)
Index("ix_guardrails_alert_event_processed_recorded_at", alert_event.c.processed, alert_event.c.recorded_at)

alert_group = Table(
    "guardrails_alert_group",
    metadata,
    Column("key", Text, primary_key=True),
    Column("environment", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("period", Integer, nullable=False),
    Column("baseline", Integer, nullable=False),
    Column("channel", Text),
    Column("message_ts", Text),
    Column("shown", String(64)),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("data", JSON, nullable=False),
)


class RecordableEvent(Protocol):
    """What `record` takes; `alerts.event.AlertEvent` is one."""

    @property
    def ref_id(self) -> str: ...
    @property
    def environment(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def at(self) -> datetime: ...
    def as_payload(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class GroupRow:
    """An alert group as stored. `version` is 0 for a group that is not stored yet.

    `channel` and `message_ts` say where this period's message is (`None`: not posted). `shown` is the digest of the
    message's text. These three belong to the poster; `save_group` writes them only when a new period begins.
    """

    key: str
    environment: str
    task: str
    state: str
    period: int
    baseline: int
    data: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0
    channel: str | None = None
    message_ts: str | None = None
    shown: str | None = None


@dataclass(frozen=True)
class Requeued:
    """The dead letters that one person has requeued for one reason: how many, and when the first and the last."""

    by: str
    reason: str
    letters: int
    first_at: datetime
    last_at: datetime


def record(conn: Connection, events: Iterable[RecordableEvent]) -> int:
    """Keep events for the alert engine, inside the transaction that archives their letters.

    An event whose `ref_id` is already stored is left out.

    Returns:
        How many were new.
    """
    now = clock.now()
    # Always in the same order, so that two guardians that archive the same letters do not block each other.
    rows = [_event(event, now) for event in sorted(events, key=lambda event: event.ref_id)]
    if not rows:
        return 0
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    # as parameters of one statement, which SQLAlchemy compiles once and sends in portions
    statement = insert(alert_event).on_conflict_do_nothing().returning(alert_event.c.ref_id)
    # Counted by the returned rows: not every database knows the row count of an INSERT.
    return len(conn.execute(statement, rows).all())


def unprocessed(conn: Connection, limit: int = 1000) -> list[tuple[str, dict[str, Any]]]:
    """The oldest events that no group has counted yet: their `ref_id` and payload."""
    query = (
        select(alert_event.c.ref_id, alert_event.c.payload)
        .where(alert_event.c.processed.is_(False))
        .order_by(alert_event.c.recorded_at, alert_event.c.at, alert_event.c.ref_id)
        .limit(limit)
    )
    return [(row.ref_id, row.payload) for row in conn.execute(query)]


def events_since(conn: Connection, since: datetime, environment: str, page: int = 1000) -> Iterator[dict[str, Any]]:
    """The payloads of all events at or after `since`, counted or not, by their instant, read page by page."""
    after: tuple[datetime, str] | None = None
    names = (alert_event.c.at, alert_event.c.ref_id)
    wanted = (alert_event.c.at >= since, alert_event.c.environment == cut(environment))
    while True:
        query = select(*names, alert_event.c.payload).where(*wanted)
        if after is not None:
            query = query.where(or_(names[0] > after[0], and_(names[0] == after[0], names[1] > after[1])))
        rows = conn.execute(query.order_by(*names).limit(page)).all()
        yield from (row.payload for row in rows)
        if len(rows) < page:
            return
        after = (rows[-1].at, rows[-1].ref_id)


def count_since(conn: Connection, since: datetime, environment: str) -> int:
    """How many events `events_since` has."""
    wanted = (alert_event.c.at >= since, alert_event.c.environment == cut(environment))
    return conn.execute(select(func.count()).select_from(alert_event).where(*wanted)).scalar_one()


def mark_processed(conn: Connection, ref_ids: Sequence[str], group_key: str) -> int:
    """Mark these events as counted by a group; returns how many were not counted before."""
    statement = update(alert_event).where(alert_event.c.ref_id.in_(ref_ids), alert_event.c.processed.is_(False))
    return conn.execute(statement.values(processed=True, group_key=group_key)).rowcount


def load_groups(
    conn: Connection, *, keys: Sequence[str] = (), states: Sequence[str] = (), updated_since: datetime | None = None
) -> list[GroupRow]:
    """The groups with one of these keys, or in one of these states, or changed at or after `updated_since`."""
    wanted: list[ColumnElement[bool]] = [alert_group.c.key.in_(keys), alert_group.c.state.in_(states)]
    if updated_since is not None:
        wanted.append(alert_group.c.updated_at >= updated_since)
    rows = conn.execute(select(alert_group).where(or_(*wanted)).order_by(alert_group.c.key)).mappings()
    return [_group(row) for row in rows]


def save_group(conn: Connection, row: GroupRow, now: datetime) -> bool:
    """Store a group after a step; `row.version` is the version that was loaded.

    Returns:
        `False` if somebody else has stored the group since. Then nothing is written: load it and step again.
    """
    values = {
        "state": row.state,
        "period": row.period,
        "baseline": row.baseline,
        "updated_at": now,
        "data": dict(row.data),
    }
    if row.version == 0:
        insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
        names = {"environment": cut(row.environment), "task": cut(row.task)}
        first = {**values, **names, "key": row.key, "version": 1}
        new = insert(alert_group).values(first).on_conflict_do_nothing().returning(alert_group.c.key)
        return conn.execute(new).first() is not None
    old = and_(alert_group.c.key == row.key, alert_group.c.version == row.version)
    new_period = conn.execute(select(alert_group.c.period).where(old)).scalar() != row.period
    moved = {"channel": None, "message_ts": None, "shown": None} if new_period else {}
    return conn.execute(update(alert_group).where(old).values(**values, **moved, version=row.version + 1)).rowcount == 1


def save_posted(conn: Connection, key: str, period: int, channel: str, ts: str) -> bool:
    """Store where the message of this period is; `False` if the group is in another period by now."""
    same = and_(alert_group.c.key == key, alert_group.c.period == period)
    return conn.execute(update(alert_group).where(same).values(channel=channel, message_ts=ts)).rowcount == 1


def save_shown(conn: Connection, key: str, period: int, shown: str | None) -> bool:
    """Store the digest of the text that the message of this period shows; `None` if the text is not known."""
    same = and_(alert_group.c.key == key, alert_group.c.period == period)
    return conn.execute(update(alert_group).where(same).values(shown=shown)).rowcount == 1


def letter_states(
    conn: Connection,
    environment: str,
    *,
    task: str | None = None,
    reason: str | None = None,
    fingerprint: str | None = None,
) -> dict[str, int]:
    """How many dead letters of an environment are in each state; only those of a task, reason, fingerprint if given."""
    meant = _letters_of({"task": task, "reason": reason, "environment": environment, "fingerprint": fingerprint})
    query = select(dead_letter.c.state, func.count()).where(*meant).group_by(dead_letter.c.state)
    return {row[0]: row[1] for row in conn.execute(query)}


def latest_audit_entry(conn: Connection) -> int:
    """The number of the last entry of the audit trail; 0: it has none."""
    return conn.execute(select(func.max(audit.c.seq))).scalar() or 0


def requeues(
    conn: Connection,
    environment: str,
    *,
    after: int,
    task: str | None = None,
    reason: str | None = None,
    fingerprint: str | None = None,
) -> list[Requeued]:
    """Who has requeued dead letters of an environment, and why, by the audit trail; the earliest first.

    A requeue that is not published yet is left out; where a guardian publishes it later, the trail has another entry.

    Args:
        conn: a transaction.
        environment: of the letters.
        after: only entries after the one with this number.
        task: only letters of this task; `None`: of any.
        reason: only letters that died for this reason; `None`: for any.
        fingerprint: only letters with this error; `None`: with any.
    """
    meant = _letters_of({"task": task, "reason": reason, "environment": environment, "fingerprint": fingerprint})
    published = or_(dead_letter.c.requeue_published_at.is_not(None), audit.c.outcome == "finished")
    done = (audit.c.seq > after, audit.c.action == "requeue", audit.c.outcome.in_(("done", "finished")), published)
    figures = (func.count(audit.c.target.distinct()), func.min(audit.c.at), func.max(audit.c.at))
    query = select(audit.c.actor, audit.c.reason, *figures).join(dead_letter, dead_letter.c.id == audit.c.target)
    by = (audit.c.actor, audit.c.reason)
    found = conn.execute(query.where(*done, *meant).group_by(*by).order_by(func.min(audit.c.seq)))
    return [Requeued(*row) for row in found]


def _letters_of(wanted: Mapping[str, str | None]) -> list[ColumnElement[bool]]:
    return [dead_letter.c[name] == cut(value) for name, value in wanted.items() if value is not None]


def _event(event: RecordableEvent, now: datetime) -> dict[str, Any]:
    return {
        "ref_id": event.ref_id,
        "environment": cut(event.environment),
        "task": cut(event.task),
        "at": event.at,
        "recorded_at": now,
        "processed": False,
        "payload": event.as_payload(),
    }


def _group(row: RowMapping) -> GroupRow:
    return GroupRow(**{name: row[name] for name in GroupRow.__dataclass_fields__})
