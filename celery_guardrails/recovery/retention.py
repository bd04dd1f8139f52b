"""Retention: what the archive has kept long enough is removed, in passes of half a second, each with its audit entry.

Owns a pass and its books. Which rows are due is in `store/retention.py`; how often a pass is made is the caller's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from celery_guardrails.store import audit, lease, retention
from celery_guardrails.store.engine import Store

__all__ = ["PASS", "Pruned", "prune_pass"]

PASS = 0.5
"""Seconds that a pass may take before it ends with the batch in hand: so long the archive is locked on SQLite."""
_BATCH = 100
_GUARDIAN_GONE = timedelta(days=7)


@dataclass(frozen=True)
class Pruned:
    """What one pass removed, by kind, and whether it left something for the next one."""

    counts: Mapping[str, int] = field(default_factory=dict)
    more: bool = False

    @property
    def total(self) -> int:
        """How many rows of all kinds."""
        return sum(self.counts.values())


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
    """Remove what is due, in one transaction with its audit entry.

    Args:
        store: the archive.
        keep: how long each kind is kept: `dead`, `recovered`, `discarded`, `audit`; `None` is for ever.
        actor: who does it, for the audit entry.
        now: this instant.
        held: the lease under which it is done; where somebody has taken it over, nothing is removed.
        seconds: how long the pass may go on before it ends with the batch in hand.
        timer: counts the seconds.

    Raises:
        StoreError: the archive cannot be written; nothing was removed.
    """
    end = timer() + seconds
    with store.begin() as conn:
        if held is not None and not lease.holds(conn, held):
            return Pruned()
        lease.forget(conn, seen_before=now - _GUARDIAN_GONE)
        pruned = _removed(conn, keep, now, lambda: timer() > end)
        if pruned.counts:
            audit.append(conn, audit.AuditEntry(now, actor, "prune", "archive", "retention", None, pruned.counts))
    return pruned


def _removed(conn: Any, keep: Mapping[str, timedelta | None], now: datetime, is_over: Callable[[], bool]) -> Pruned:
    counts: dict[str, int] = {}
    for kind, age in keep.items():
        removed = _BATCH
        while age is not None and removed == _BATCH:
            if is_over():
                return Pruned(counts, more=True)
            removed = retention.remove(conn, kind, now - age, _BATCH)
            if removed:
                counts[kind] = counts.get(kind, 0) + removed
    return Pruned(counts)
