"""The guardian's service that keeps the archive as small as the setting `retention` says.

Owns how often a pass runs, and that only one of several guardians runs it. `recovery/retention.py` owns the pass.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta

from celery_guardrails.recovery.retention import Pruned, prune_pass
from celery_guardrails.recovery.transition import GUARDIAN
from celery_guardrails.store import lease
from celery_guardrails.store.engine import Store

__all__ = ["Pruning"]

logger = logging.getLogger("celery_guardrails.guardian")

_LEASE = "retention"
_LASTS = timedelta(minutes=5)
_SELDOM, _SOON = timedelta(hours=1), timedelta(seconds=2)
_PASSES_AT_ONCE = 20


class Pruning:
    """Prunes what was kept long enough: a pass once an hour, and every 2 seconds while there is more to prune.

    A pass takes half a second at most. Between two passes the guardian archives what has come meanwhile.

    Args:
        store: the archive.
        keep: the setting `retention`: how long each kind is kept; `None` is for ever.
        owner: this guardian's name, unique among guardians.
    """

    name = "retention"

    def __init__(self, store: Store, keep: Mapping[str, timedelta | None], owner: str) -> None:
        self._store = store
        self._keep = keep
        self._owner = owner
        self._more = False
        self._removed: dict[str, int] = {}

    @property
    def every(self) -> timedelta:
        """How often a pass runs."""
        return _SOON if self._more else _SELDOM

    def run_once(self, now: datetime, flush: bool) -> None:
        """Make a pass, or with `flush` up to 20, if this guardian holds the lease.

        Raises:
            StoreError: the archive cannot be written.
        """
        with self._store.begin() as conn:
            held = lease.acquire(conn, _LEASE, self._owner, _LASTS, now)
        self._more = False
        for _ in range(_PASSES_AT_ONCE if flush else 1):
            if held is None:
                return
            pruned = prune_pass(self._store, self._keep, GUARDIAN, now, held=held)
            self._more = pruned.more
            self._note(pruned)
            if not pruned.more:
                break
        if flush and held is not None:
            with self._store.begin() as conn:
                lease.release(conn, held, now)

    def _note(self, pruned: Pruned) -> None:
        for kind, count in pruned.counts.items():
            self._removed[kind] = self._removed.get(kind, 0) + count
        if self._removed and not pruned.more:
            what = ", ".join(f"{count:,} {kind}" for kind, count in self._removed.items())
            logger.info("retention: removed %s", what)
            self._removed = {}
