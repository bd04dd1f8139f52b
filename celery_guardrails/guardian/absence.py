"""The signal `no_worker`: work waits, and no worker reports. While it holds, its effects are no alerts of their own.

One message at night is better than twenty. Owns when workers are absent, and when nobody can know. It must not know how
waiting work is counted, nor what a report says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from celery_guardrails import clock
from celery_guardrails.alerts.condition import OWN_HEALTH
from celery_guardrails.alerts.finding import Finding, Scope
from celery_guardrails.store import worker_report
from celery_guardrails.store.engine import Store
from celery_guardrails.store.worker_report import SILENT

__all__ = ["Absence", "NoWorker"]


class Absence:
    """Whether figures can be trusted to say how much is done, and how late: not while nothing carries or makes them.

    Args:
        store: the archive.
        environment: as in the settings.
        away: whether the guardian's broker does not answer.
    """

    def __init__(self, store: Store, environment: str, away: Callable[[], bool]) -> None:
        self.environment = environment
        self.away = away
        self._store = store

    def explains(self, now: datetime) -> bool:
        """Whether a dead broker or absent workers explain late starts and too little work, now or lately."""
        with self._store.read() as conn:
            return self.away() or worker_report.is_muted(conn, self.environment, now)

    def note(self, now: datetime) -> None:
        """Note that the broker or the workers are away at this moment."""
        with self._store.begin() as conn:
            worker_report.mute(conn, self.environment, now)

    def last_report(self) -> datetime | None:
        """When a worker last reported; `None`: none ever did."""
        with self._store.read() as conn:
            return worker_report.last(conn, self.environment)


class NoWorker:
    """Finds that no worker has reported for 5 minutes though there is work.

    Args:
        absence: what the archive knows of it.
        listening_since: since when this guardian has received figures without a break; `None`: it does not.
        waiting: what waits in the queues of the tasks, in words; empty: nothing; `None`: nobody knows.
        missed: whether some tasks are done less than usual.
    """

    def __init__(
        self,
        absence: Absence,
        listening_since: Callable[[], datetime | None],
        waiting: Callable[[], str | None],
        missed: Callable[[datetime], bool],
    ) -> None:
        self.scope = Scope("no_worker", absence.environment)
        self._absence = absence
        self._listening_since = listening_since
        self._waiting = waiting
        self._missed = missed

    def find(self, now: datetime) -> Sequence[Finding] | None:
        """One finding at most."""
        if self._absence.away():
            self._absence.note(now)
            return None
        last = self._absence.last_report()
        if last is None or now - last < SILENT:
            return []
        since = self._listening_since()
        if since is None or now - since < SILENT:
            # reports may have come while nobody listened
            self._absence.note(now)
            return None
        waiting = self._waiting()
        if waiting is None:
            return None
        why = waiting or ("much less is done than usual" if self._missed(now) else "")
        if not why:
            return []
        self._absence.note(now)
        words = f"No worker has reported for {clock.shown(now - last)}, and {why}"
        return [Finding("no_worker", self._absence.environment, OWN_HEALTH, words)]
