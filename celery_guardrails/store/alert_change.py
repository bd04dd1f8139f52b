"""Storing alert groups after a step: groups, counted events and notifications change together or not at all.

It must not know why a group changed. If two guardians stepped the same group, the second writes nothing.
"""
# on its own: one transaction over two tables, each of which has a file of its own

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from celery_guardrails.store import alert, audit, outbox
from celery_guardrails.store.alert import GroupRow
from celery_guardrails.store.audit import AuditEntry
from celery_guardrails.store.engine import Store
from celery_guardrails.store.outbox import OutboxRow

__all__ = ["GroupChange", "apply_changes"]


@dataclass(frozen=True)
class GroupChange:
    """A group after a step (with the version that was loaded), the events that it counted, and its notifications."""

    group: GroupRow
    ref_ids: tuple[str, ...] = ()
    notifications: tuple[OutboxRow, ...] = ()


def apply_changes(
    store: Store, changes: Sequence[GroupChange], now: datetime, entries: Sequence[AuditEntry] = ()
) -> int | None:
    """Write all of these changes in one transaction, with their entries in the audit trail.

    Returns:
        How many notifications were stored. `None` if somebody else has counted one of the events, or stepped one of the
        groups, since they were loaded: then nothing is written; load them and step again.

    Raises:
        StoreError: the archive cannot be written.
    """
    queued = 0
    try:
        with store.begin() as conn:
            for change in changes:
                ref_ids = change.ref_ids
                if ref_ids and alert.mark_processed(conn, ref_ids, change.group.key) != len(ref_ids):
                    raise _Overtaken
                if not alert.save_group(conn, change.group, now):
                    raise _Overtaken
                queued += sum(outbox.add(conn, row) for row in change.notifications)
            audit.append_all(conn, entries)
    except _Overtaken:
        return None
    return queued


class _Overtaken(Exception):
    """Rolls the transaction back; never leaves this module."""
