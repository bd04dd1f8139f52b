"""The guardian's services for figures: counting what workers send, and looking for deaths that never arrive.

Owns what becomes of a summary that cannot be read or counted: it is dropped, counted and logged, once for each kind of
trouble. `store/figure.py` owns what a summary changes, `store/reconcile.py` what a missing death is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from celery_guardrails.alerts.complaint import Complaints
from celery_guardrails.errors import GuardrailsError
from celery_guardrails.figures.summary import Summary
from celery_guardrails.service import Patience
from celery_guardrails.store import figure_beside, reconcile, worker_report
from celery_guardrails.store.engine import Store
from celery_guardrails.store.figure import count
from celery_guardrails.store.probe import raise_if_away
from celery_guardrails.text import cut, one_line
from celery_guardrails.transport.consumer import ConsumerLost, ConsumerRefused, Delivery

__all__ = ["FigureCounting", "FigureSource", "Reconciliation"]

logger = logging.getLogger("celery_guardrails.guardian")

BATCH = 100
_WAIT, _ONCE_WAIT = 0.05, 0.5
_BATCHES_AT_ONCE = 20
"""Batches in one turn; between two turns the guardian archives dead letters."""
_BACKLOG = 200
"""Waiting letters from which a missing death may be among them: a guardian that keeps up takes as many at once."""
_LONGEST_WORDS = 300


class FigureSource(Protocol):
    """Where summaries come from; a `DeadLetterConsumer` of the queue for figures is one."""

    def receive(self, most: int, wait: float) -> list[Delivery]: ...
    def settle(self, deliveries: Sequence[Delivery]) -> None: ...
    def close(self) -> None: ...


class FigureCounting:
    """Counts the summaries that workers have sent, every 2 seconds.

    A broker that is away, or that refuses this queue, keeps no dead letter waiting: the service waits longer each time.

    Args:
        store: the archive.
        source: the queue for figures.

    Attributes:
        dropped: summaries that were not counted, by the reason: `unreadable`, `late`, `refused`.
        counted: how many were counted.
        listening_since: since when the queue has been read without a break; `None`: it is not.
    """

    name = "figures"
    every = timedelta(seconds=2)

    def __init__(self, store: Store, source: FigureSource) -> None:
        self._store = store
        self._source = source
        self._complaints = Complaints(logger)
        self._patience = Patience()
        self.dropped: Counter[str] = Counter()
        self.counted = 0
        self.listening_since: datetime | None = None

    def run_once(self, now: datetime, flush: bool) -> None:
        """Count what has come; with `flush`, until nothing comes for half a second.

        Raises:
            StoreError: the archive cannot be written; the summaries stay in their queue.
        """
        if not flush and not self._patience.allows(now):
            return
        since, self.listening_since = self.listening_since or now, None
        try:
            self._count_what_came(now, flush)
        except ConsumerRefused as exc:
            self._patience.fail(now)
            self._complaints.once("refused", "no figures: the broker refuses their queue to this guardian: %s", exc)
        except ConsumerLost:
            self._patience.fail(now)  # the loop, which has a connection of its own, says that the broker is away
        else:
            self._patience.succeed()
            self.listening_since = since
        if flush:
            self._source.close()

    def close(self) -> None:
        """Close the connection; summaries that are not counted go back to their queue."""
        self._source.close()

    def _count_what_came(self, now: datetime, flush: bool) -> None:
        for _ in range(_BATCHES_AT_ONCE):
            batch = self._source.receive(BATCH, _ONCE_WAIT if flush else _WAIT)
            if not batch:
                return
            try:
                self._count(self._read(batch), now)
            except Exception:
                self._source.close()  # the broker delivers them again
                raise
            self._source.settle(batch)

    def _read(self, batch: Sequence[Delivery]) -> list[Summary]:
        found = []
        for delivery in batch:
            try:
                found.append(Summary.decode(delivery.body))
            except Exception as exc:  # noqa: BLE001 a message may hold anything
                self._drop("unreadable", exc)
        return found

    def _count(self, summaries: Sequence[Summary], now: datetime) -> None:
        """Count summaries in one transaction; where the archive does not take all of them, each half by itself."""
        if not summaries:
            return
        try:
            with self._store.begin() as conn:
                counted = count(conn, summaries, now)
                reconcile.note_counted(conn, counted.fresh, now)
                figure_beside.add(conn, counted.fresh)
                worker_report.note(conn, (each.environment for each in counted.fresh), now)
        except Exception as exc:  # noqa: BLE001 unless the archive is away, one summary is the cause
            raise_if_away(self._store, exc)
            if len(summaries) == 1:
                self._drop("refused", exc)
                return
            half = len(summaries) // 2
            self._count(summaries[:half], now)
            self._count(summaries[half:], now)
            return
        self.counted += len(counted.fresh)
        if counted.late:
            self._drop("late", "the period is over for hours, or the clock of its worker is ahead", counted.late)

    def _drop(self, reason: str, why: object, number: int = 1) -> None:
        self.dropped[reason] += number
        words = cut(one_line(str(why)), _LONGEST_WORDS)
        self._complaints.once(
            reason, "a summary of figures is dropped, as are others of this kind (%s): %s", reason, words
        )


class Reconciliation:
    """Looks every 30 seconds for the deaths that workers counted and the archive does not have.

    Args:
        store: the archive.
        waiting: how many letters wait in the dead-letter queues.
    """

    name = "reconciliation"
    every = timedelta(seconds=30)

    def __init__(self, store: Store, waiting: Callable[[], int]) -> None:
        self._store = store
        self._waiting = waiting

    def run_once(self, now: datetime, flush: bool) -> None:
        """Forget the deaths that have arrived; while many letters wait in a queue, the wait for the others begins anew.

        Raises:
            StoreError: the archive cannot be written.
        """
        with self._store.begin() as conn:
            missing = reconcile.look_up(conn, now, backlog=False)
        if missing and self._has_backlog():
            with self._store.begin() as conn:
                reconcile.look_up(conn, now, backlog=True)

    def _has_backlog(self) -> bool:
        try:
            return self._waiting() >= _BACKLOG
        except GuardrailsError:
            return True  # nobody knows what waits in a broker that does not answer
