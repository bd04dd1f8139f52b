"""Retention: removing rows that the archive has kept long enough, in passes of half a second, each with an audit entry.

Owns a pass and its audit entry. `store/retention.py` knows which rows are due; the caller decides how often to run it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from celery_guardrails.store import audit, lease, retention
from celery_guardrails.store.engine import Store
from celery_guardrails.store.figure import COUNTED_FOR

__all__ = ["PASS", "Pruned", "kept", "prune_pass"]

PASS = 0.5
"""Seconds after which a pass ends with its present batch. On SQLite, the archive is locked for that long."""
_FIRST_BATCH, _LARGEST_BATCH = 50, 500
_QUICK, _SLOW = 0.05, 0.1
"""Seconds: after a batch that takes less than `_QUICK` the next has twice the rows, after more than `_SLOW` half."""
_ALWAYS = {
    retention.ALERT_EVENTS: timedelta(days=30),
    retention.NOTIFICATIONS: timedelta(days=30),
    retention.ALERT_GROUPS: timedelta(days=30),
    retention.GUARDIANS: timedelta(days=7),
    retention.MINUTE_FIGURES: timedelta(hours=48),
    retention.HOUR_FIGURES: timedelta(days=90),
    retention.SUMMARIES: COUNTED_FOR,
    retention.COUNTED_DEATHS: timedelta(days=7),
}
"""How long the archive keeps the rows for its own use. The setting `retention` does not change it."""


@dataclass(frozen=True)
class Pruned:
    """What one pass removed, by kind, and whether it left rows for the next pass."""

    counts: Mapping[str, int] = field(default_factory=dict)
    more: bool = False

    @property
    def total(self) -> int:
        """How many rows were removed, of all kinds."""
        return sum(self.counts.values())


def kept(keep: Mapping[str, timedelta | None]) -> dict[str, timedelta | None]:
    """How long each kind of row is kept: the kinds of the setting `retention`, and those for the archive's own use.

    Totals, and when a task last began and succeeded, are kept as long as the longest kind of the setting.
    """
    ages = [age for age in keep.values() if age is not None]
    longest = max(ages) if len(ages) == len(keep) and ages else None
    return {**keep, **_ALWAYS, retention.TASK_FIGURES: longest, retention.LETTER_FIGURES: longest}


def prune_pass(
    store: Store,
    keep: Mapping[str, timedelta | None],
    actor: str,
    now: datetime,
    *,
    held: lease.Lease | None = None,
    seconds: float = PASS,
    timer: Callable[[], float] = time.monotonic,
) -> Pruned:
    """Remove rows that are due, in one transaction with the audit entry. Figures alone leave no entry.

    Args:
        store: the archive.
        keep: how long each kind is kept: `dead`, `recovered`, `discarded`, `audit`; `None` is for ever.
        actor: who does it, for the audit entry.
        now: this instant.
        held: the lease that this guardian holds. If another guardian has taken it over, nothing is removed.
        seconds: how long the pass may run before it ends with its present batch.
        timer: counts the seconds.

    Raises:
        StoreError: the archive cannot be written; nothing was removed.
    """
    with store.begin() as conn:
        end = timer() + seconds  # counted from here: now the archive is locked, and the wait for the lock is over
        if held is not None and not lease.holds(conn, held):
            return Pruned()
        pruned = _removed(conn, kept(keep), now, end, timer)
        audited = {kind: count for kind, count in pruned.counts.items() if kind not in retention.FIGURES}
        if audited:
            audit.append(conn, audit.AuditEntry(now, actor, "prune", "archive", "retention", None, audited))
    return pruned


def _removed(
    conn: Any, keep: Mapping[str, timedelta | None], now: datetime, end: float, timer: Callable[[], float]
) -> Pruned:
    counts: dict[str, int] = {}
    size = _FIRST_BATCH
    for kind, age in keep.items():
        full = age is not None
        while age is not None and full:
            began = timer()
            if began > end:
                return Pruned(counts, more=True)
            removed = retention.remove(conn, kind, now - age, size)
            if removed:
                counts[kind] = counts.get(kind, 0) + removed
            full, size = removed == size, _next_size(size, timer() - began)
    return Pruned(counts)


def _next_size(size: int, seconds: float) -> int:
    if seconds < _QUICK:
        return min(2 * size, _LARGEST_BATCH)
    return max(1, size // 2) if seconds > _SLOW else size
