"""The signals that a guardian looks for itself: each minute, what is true now, and what of it is new.

Owns the sources that need nothing but the archive, the poster and the spool. `alerts/finding.py` owns what a change is,
the alert engine what follows from it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from celery_guardrails.alerts.condition import OWN_HEALTH
from celery_guardrails.alerts.finding import Finding, Scope, changes
from celery_guardrails.alerts.outbox import Poster
from celery_guardrails.alerts.stored import every_group
from celery_guardrails.policy.alert import Limits
from celery_guardrails.policy.threshold import UnreconciledThreshold
from celery_guardrails.store import alert, reconcile
from celery_guardrails.store.engine import Store
from celery_guardrails.store.probe import raise_if_away
from celery_guardrails.text import count_of, one_line

__all__ = ["EACH_MINUTE", "SinkDown", "Source", "SpoolGrowing", "Unreconciled", "Watching"]

logger = logging.getLogger("celery_guardrails.guardian")

EACH_MINUTE = timedelta(seconds=60)
_LOOKS = 5
"""So many looks in a row, a minute apart, make the spool a growing one."""


class Source(Protocol):
    """Looks for one signal."""

    @property
    def scope(self) -> Scope:
        """What it speaks of."""

    def find(self, now: datetime) -> Sequence[Finding] | None:
        """All that is true now; `None`: it cannot know at present, and nothing changes."""


class Watching:
    """Looks for each signal every minute, and hands what has changed to the alert engine.

    Args:
        store: the archive.
        sources: what looks for the signals.
        name: for the log; two of one guardian need two names.
        every: how often it looks. Default each minute.
    """

    def __init__(
        self, store: Store, sources: Sequence[Source], *, name: str = "signals", every: timedelta = EACH_MINUTE
    ) -> None:
        self.name = name
        self.every = every
        self._store = store
        self._sources = sources
        self._failing: set[str] = set()

    def run_once(self, now: datetime, flush: bool) -> None:
        """Look for each signal; one that fails keeps no other from being found.

        Raises:
            StoreError: the archive cannot be read or written.
        """
        for source in self._sources:
            signal = source.scope.signal
            try:
                found = source.find(now)
                if found is not None:
                    self._record(source.scope, found, now)
                self._failing.discard(signal)
            except Exception as exc:  # noqa: BLE001 whatever it is, it concerns this signal alone
                raise_if_away(self._store, exc)
                if signal not in self._failing:
                    logger.warning("nobody looks for %s now: %s", signal, one_line(repr(exc)))
                self._failing.add(signal)

    def _record(self, scope: Scope, found: Sequence[Finding], now: datetime) -> None:
        with self._store.begin() as conn:
            known = [group for _, group in every_group(conn)]
            alert.record(conn, changes(found, known, scope, now))


class Unreconciled:
    """Finds the dead letters that workers counted, and that the archive lacks.

    Args:
        store: the archive.
        environment: as in the settings.
        limits: for each task, how long a letter may be under way.
    """

    def __init__(self, store: Store, environment: str, limits: Limits[UnreconciledThreshold]) -> None:
        self.scope = Scope("unreconciled", environment)
        self._store = store
        self._limits = limits

    def find(self, now: datetime) -> Sequence[Finding]:
        """One finding for each task."""
        with self._store.read() as conn:
            missing = reconcile.missing_deaths(conn, now, self._limits)
        return [
            Finding(
                "unreconciled",
                each.environment,
                each.task,
                f"Workers published {count_of(each.count, 'dead letter')} that the archive does not have, such as "
                f"{', '.join(each.ids[:3])}",
            )
            for each in missing
            if each.environment == self.scope.environment
        ]


class SinkDown:
    """Finds the sinks that do not take alerts.

    Args:
        poster: what delivers alerts; only the guardian that posts knows.
        environment: as in the settings.
    """

    def __init__(self, poster: Poster, environment: str) -> None:
        self.scope = Scope("sink_down", environment)
        self._poster = poster

    def find(self, now: datetime) -> Sequence[Finding] | None:
        """One finding for each sink."""
        if not self._poster.leads:
            return None
        down = [name for name, well in self._poster.well.items() if not well]
        return [
            Finding("sink_down", self.scope.environment, OWN_HEALTH, f"{name} does not take alerts", name)
            for name in down
        ]


class SpoolGrowing:
    """Finds that this host's spool has grown at each of the last looks: nothing ships it.

    Args:
        files: how many files are in the spool; `None`: it cannot be read.
        environment: as in the settings.
        host: this host's name.
    """

    def __init__(self, files: Callable[[], int | None], environment: str, host: str) -> None:
        self.scope = Scope("spool_growing", environment, host)
        self._files = files
        self._seen: deque[int] = deque(maxlen=_LOOKS)
        self._host = host

    def find(self, now: datetime) -> Sequence[Finding] | None:
        """One finding while the spool has more files than some minutes ago, and was never shipped meanwhile."""
        files = self._files()
        if files is None:
            return None
        self._seen.append(files)
        grows = len(self._seen) == _LOOKS and files > self._seen[0] and list(self._seen) == sorted(self._seen)
        if not grows:
            return []
        words = f"The spool of {self._host} grows: {count_of(files, 'file')} wait for the broker"
        return [Finding("spool_growing", self.scope.environment, OWN_HEALTH, words, self._host)]
