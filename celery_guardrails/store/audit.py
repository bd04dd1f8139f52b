"""The audit trail: who did what to which dead letter, why, and how it ended.

Owns: seq, at, actor, action, target, reason, before, after, outcome, operation_id. Append-only: the database itself
refuses to change a row, and to delete one except by retention. It must not know what the actions do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timezone
from typing import Any

from sqlalchemy import Connection, select

from celery_guardrails.store.column import clean, cut
from celery_guardrails.store.table import audit

__all__ = ["ACTIONS", "GUARDIAN", "REFUSED", "AuditEntry", "append", "append_all", "append_refused", "entries"]

ACTIONS = (
    "requeue", "recover", "die", "discard", "restore", "prune", "acknowledge", "unacknowledge", "silence", "unsilence",
    "idempotency.forget",
)  # fmt: skip
"""All actions, done or refused, that the trail keeps."""
GUARDIAN = "guardian"
"""The actor of every action that no person did."""
REFUSED = "refused"
"""The outcome of a report that is not believed."""
_MOST_REFUSED = 3
"""How many refused entries are kept for each target, kind and day. A flood of false reports must not fill the trail. It
must not hide that a report of another kind is refused, either."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that somebody did.

    `target` is the id of a dead letter, an alert or a silence, or the key of some work. `before` and `after` are what
    changed. `outcome` is `done`, `failed`, `finished` (a guardian ended what somebody else had begun) or `refused` (it
    did not believe a report). `operation_id` links the entries of one operation, `None` if there is only this entry.
    `seq` is 0 until the entry is stored.
    """

    at: datetime
    actor: str
    action: str
    target: str
    reason: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    outcome: str = "done"
    operation_id: str | None = None
    seq: int = 0


def append(conn: Connection, entry: AuditEntry) -> None:
    """Add an entry, in the same transaction as its action."""
    append_all(conn, [entry])


def append_all(conn: Connection, found: Sequence[AuditEntry]) -> None:
    """Add entries, in their order, in the same transaction as their actions."""
    if found:
        conn.execute(audit.insert(), [_row(entry) for entry in found])


def append_refused(conn: Connection, found: Sequence[AuditEntry]) -> None:
    """Add entries of refused reports; at most 3 for each target, kind (`action` and `before`) and day (UTC)."""
    if not found:
        return
    targets = sorted({cut(entry.target) for entry in found})
    days = {entry.at.astimezone(timezone.utc).date() for entry in found}
    since = datetime.combine(min(days), time(), timezone.utc)
    kind = (audit.c.target, audit.c.action, audit.c.before)
    wanted = (audit.c.target.in_(targets), audit.c.outcome == REFUSED, audit.c.at >= since)
    kept = Counter((tuple(row[:3]), row.at.date()) for row in conn.execute(select(*kind, audit.c.at).where(*wanted)))
    few = []
    for entry in found:
        same = (cut(entry.target), entry.action, _text(entry.before)), entry.at.astimezone(timezone.utc).date()
        kept[same] += 1
        if kept[same] <= _MOST_REFUSED:
            few.append(entry)
    append_all(conn, few)


def entries(
    conn: Connection,
    *,
    target: str | None = None,
    target_begins: str | None = None,
    action: str | None = None,
    limit: int = 100,
) -> list[AuditEntry]:
    """The trail, newest first.

    Args:
        conn: a transaction.
        target: only entries of this dead letter, or of `archive`; `None` for all.
        target_begins: only entries of letters whose id begins so; `None` for all.
        action: only of this kind, such as `requeue`; `None` for all.
        limit: at most so many.
    """
    statement = select(audit)
    if target is not None:
        statement = statement.where(audit.c.target == cut(target))
    if target_begins is not None:
        statement = statement.where(audit.c.target.startswith(cut(target_begins), autoescape=True))
    if action is not None:
        statement = statement.where(audit.c.action == action)
    rows = conn.execute(statement.order_by(audit.c.seq.desc()).limit(limit)).mappings()
    return [AuditEntry(**{**row, "before": _data(row["before"]), "after": _data(row["after"])}) for row in rows]


def _row(entry: AuditEntry) -> dict[str, Any]:
    return {
        "at": entry.at,
        "actor": cut(entry.actor),
        "action": entry.action,
        "target": cut(entry.target),
        "reason": clean(entry.reason),
        "before": _text(entry.before),
        "after": _text(entry.after),
        "outcome": entry.outcome,
        "operation_id": entry.operation_id,
    }


def _text(data: Mapping[str, Any] | None) -> str | None:
    return None if data is None else json.dumps(data, sort_keys=True, default=str)


def _data(text: str | None) -> Any:
    return None if text is None else json.loads(text)
