"""The guardian's services that remove what was kept long enough, from the archive and from the ledger.

Owns how often a pass runs, and that only one of several guardians prunes the archive. `recovery/retention.py` owns a
pass over the archive, the ledger one over its entries.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from celery_guardrails.errors import LedgerError
from celery_guardrails.idempotency.ledger import Ledger
from celery_guardrails.idempotency.opening import open_ledger
from celery_guardrails.recovery.retention import PASS, Pruned, prune_pass
from celery_guardrails.recovery.transition import GUARDIAN
from celery_guardrails.store import lease
from celery_guardrails.store.engine import Store
from celery_guardrails.text import count_of

__all__ = ["LedgerPruning", "Pruning"]

logger = logging.getLogger("celery_guardrails.guardian")

_LEASE = "retention"
_LASTS = timedelta(minutes=5)
_SELDOM, _SOON = timedelta(hours=1), timedelta(seconds=2)
_PASSES_AT_ONCE = 20
_BATCH = 500


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


class LedgerPruning:
    """Removes what a ledger in a database need not remember any more: a pass once an hour, and every 2 seconds if more.

    A pass ends after half a second, with its present batch. Several guardians may do this at once. If the ledger does
    not answer, the guardian logs it once, and tries again an hour later.

    Args:
        url: where the ledger is. Entries of one in Redis end by themselves; there is nothing to do.
        timer: counts the seconds of a pass.
    """

    name = "ledger"

    def __init__(self, url: str, timer: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._timer = timer
        self._ledger: Ledger | None = None
        self._more = False
        self._away = False
        self._removed = 0

    @property
    def every(self) -> timedelta:
        """How often a pass runs."""
        return _SOON if self._more else _SELDOM

    def run_once(self, now: datetime, flush: bool) -> None:
        """Make a pass, or with `flush` up to 20; never raises `LedgerError`."""
        self._more = False
        try:
            for _ in range(_PASSES_AT_ONCE if flush else 1):
                self._more = self._pass()
                if not self._more:
                    break
        except LedgerError as exc:
            if not self._away:
                logger.warning("what is not needed any more stays in the ledger for now: %s", exc)
            self._away = True
            return
        self._away = False
        if self._removed and not self._more:
            logger.info("ledger: removed %s", count_of(self._removed, "entry", "entries"))
            self._removed = 0

    def close(self) -> None:
        """Give up the connections to the ledger."""
        if self._ledger is not None:
            self._ledger.close()

    def _pass(self) -> bool:
        """Remove batches for half a second; returns whether there may be more."""
        if self._ledger is None:
            self._ledger = open_ledger(self._url)
        end = self._timer() + PASS
        while True:
            removed = self._ledger.prune(_BATCH)
            self._removed += removed
            if removed < _BATCH or self._timer() >= end:
                return removed == _BATCH
