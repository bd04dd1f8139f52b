"""The signals that come of the workers' figures: too many failures, too slow a start, too little work done.

Each is a source for `watching.py`. Owns their formulas; thresholds come from the settings and from policies, figures
from the archive. It must not know how figures are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from celery_guardrails import clock
from celery_guardrails.alerts.finding import Finding, Scope
from celery_guardrails.figures.measure import failed_attempts
from celery_guardrails.figures.summary import TaskFigures
from celery_guardrails.policy.alert import Limits
from celery_guardrails.policy.threshold import (
    ErrorRateThreshold,
    FailedAttemptsThreshold,
    QueueLatencyThreshold,
    ThroughputThreshold,
)
from celery_guardrails.store import figure_query
from celery_guardrails.store.engine import Store
from celery_guardrails.store.figure import HOUR, bucket_of

__all__ = ["ErrorRate", "FailedAttempts", "QueueLatency", "TaskFacts", "Throughput"]

_DAY = timedelta(hours=24)
_HALF_HOUR = timedelta(minutes=30)
_LATENCY_SPAN = timedelta(minutes=2)
_SHARE = 0.95
_FEWEST_DAYS = 3
"""Days with figures from which on there is a usual number of completions."""


@dataclass(frozen=True)
class TaskFacts:
    """What a finding says of a task, from its policy."""

    owner: str | None = None
    runbook: str | None = None
    max_latency: timedelta = timedelta(minutes=5)


class _FigureSource:
    """A source of one signal for an environment's tasks.

    Args:
        store: the archive.
        environment: as in the settings.
        facts: what the policies say, by task.
    """

    signal = ""

    def __init__(self, store: Store, environment: str, facts: Callable[[str], TaskFacts]) -> None:
        self.scope = Scope(self.signal, environment)
        self._store = store
        self._facts = facts

    def _between(self, start: datetime, end: datetime) -> dict[str, TaskFigures]:
        with self._store.read() as conn:
            found = figure_query.between(conn, start, end, environment=self.scope.environment)
        return {task: figures for (_, task), figures in found.items()}

    def _finding(self, task: str, summary: str) -> Finding:
        facts = self._facts(task)
        return Finding(self.signal, self.scope.environment, task, summary, owner=facts.owner, runbook=facts.runbook)


class FailedAttempts(_FigureSource):
    """Finds tasks of which many attempts fail, retried or not."""

    signal = "failed_attempts"

    def __init__(
        self, store: Store, environment: str, facts: Callable[[str], TaskFacts], limits: Limits[FailedAttemptsThreshold]
    ) -> None:
        super().__init__(store, environment, facts)
        self._limits = limits

    def find(self, now: datetime) -> Sequence[Finding]:
        """One finding for each task."""
        found = []
        for span in {limit.within for limit in self._limits.different if limit.enabled}:
            for task, figures in self._between(now - span, now).items():
                limit, failed = self._limits.of(task), failed_attempts(figures)
                if limit is None or not limit.enabled or limit.within != span:
                    continue
                if failed >= limit.count and failed >= limit.ratio * figures.attempts:
                    words = f"{failed:,} of {figures.attempts:,} attempts failed in {clock.shown(span)}"
                    found.append(self._finding(task, words))
        return found


class ErrorRate(_FigureSource):
    """Finds tasks that fail much more often than usual, both lately and for an hour."""

    signal = "error_rate"

    def __init__(
        self, store: Store, environment: str, facts: Callable[[str], TaskFacts], limits: Limits[ErrorRateThreshold]
    ) -> None:
        super().__init__(store, environment, facts)
        self._limits = limits

    def find(self, now: datetime) -> Sequence[Finding]:
        """One finding for each task."""
        hour = self._between(now - HOUR, now)
        limits = {task: limit for task in hour if (limit := self._limits.of(task)) is not None}
        busy = [task for task, limit in limits.items() if hour[task].attempts >= limit.least]
        spans = {limits[task].within for task in busy}
        lately = {span: self._between(now - span, now) for span in spans}
        # without the hour that is looked at: what is unusual must not count as usual
        day = self._between(now - _DAY, bucket_of(now - HOUR, HOUR)) if busy else {}
        found = []
        for task in busy:
            limit = limits[task]
            rates = (_failing(lately[limit.within].get(task)), _failing(hour[task]))
            usual = _failing(day.get(task)) or 0.0
            least = max(limit.ratio, limit.times * usual)
            if None not in rates and all(rate is not None and rate >= least for rate in rates):
                words = (
                    f"{rates[0]:.0%} of its attempts failed in {clock.shown(limit.within)}, {rates[1]:.0%} in an hour; "
                    f"usually {usual:.0%} do"
                )
                found.append(self._finding(task, words))
        return found


class QueueLatency(_FigureSource):
    """Finds tasks that begin later than their policy's `max_latency` allows, at several looks in a row.

    Args:
        explained: whether a dead broker or absent workers explain it: nothing changes then.
    """

    signal = "queue_latency"

    def __init__(
        self,
        store: Store,
        environment: str,
        facts: Callable[[str], TaskFacts],
        limits: Limits[QueueLatencyThreshold],
        explained: Callable[[datetime], bool],
    ) -> None:
        super().__init__(store, environment, facts)
        self._limits = limits
        self._explained = explained
        self._slow: dict[str, int] = {}

    def find(self, now: datetime) -> Sequence[Finding] | None:
        """One finding for each task whose 95th percentile of the start delay is too large."""
        if self._explained(now):
            self._slow = {}
            return None
        slow: dict[str, float] = {}
        for task, figures in self._between(now - _LATENCY_SPAN, now).items():
            delay = figures.start_delay.quantile(_SHARE) if self._limits.of(task) is not None else None
            if delay is not None and delay > self._facts(task).max_latency.total_seconds():
                slow[task] = delay
        self._slow = {task: self._slow.get(task, 0) + 1 for task in slow}
        return [
            self._finding(task, f"It begins {_lasting(slow[task])} after it is due; {_promise(self._facts(task))}")
            for task, looks in self._slow.items()
            if (limit := self._limits.of(task)) is not None and looks >= limit.evaluations
        ]


class Throughput(_FigureSource):
    """Finds tasks of which much less is done than usually at this time of the day.

    Args:
        explained: whether a dead broker or absent workers explain it: nothing changes then.
    """

    signal = "throughput"

    def __init__(
        self,
        store: Store,
        environment: str,
        facts: Callable[[str], TaskFacts],
        limits: Limits[ThroughputThreshold],
        explained: Callable[[datetime], bool],
    ) -> None:
        super().__init__(store, environment, facts)
        self._limits = limits
        self._explained = explained

    def find(self, now: datetime) -> Sequence[Finding] | None:
        """One finding for each task."""
        return None if self._explained(now) else self.lacking(now)

    def lacking(self, now: datetime) -> list[Finding]:
        """As `find`, whatever explains it."""
        start = now - _HALF_HOUR
        lately = self._between(start, now)
        found = []
        for task, usual in self._usual(start, now).items():
            limit = self._limits.of(task)
            done = lately[task].attempts if task in lately else 0
            if limit is not None and usual >= limit.least and done < limit.ratio * usual:
                words = (
                    f"{done:,} attempts ended in {clock.shown(_HALF_HOUR)}; usually about {usual:,.0f} do at this time"
                )
                found.append(self._finding(task, words))
        return found

    def _usual(self, start: datetime, now: datetime) -> Mapping[str, float]:
        with self._store.read() as conn:
            known = figure_query.usual_by_task(conn, start, now, environment=self.scope.environment)
        return {task: usual.median for task, usual in known.items() if len(usual.days) >= _FEWEST_DAYS}


def _failing(figures: TaskFigures | None) -> float | None:
    """The share of attempts that failed; `None` without any."""
    if figures is None or not figures.attempts:
        return None
    return failed_attempts(figures) / figures.attempts


def _lasting(seconds: float) -> str:
    return clock.shown(timedelta(seconds=round(seconds)))


def _promise(facts: TaskFacts) -> str:
    return f"its policy allows {clock.shown(facts.max_latency)}"
