"""The metrics that a guardian exports, as Prometheus reads them: their names, labels and meaning.

Owns each metric. Everything comes from the archive, the broker and this guardian at the time of the scrape, so every
guardian of one archive says the same, and a restart resets no counter. What cannot be read is left out, and
`guardrails_archive_up` or `guardrails_broker_up` is 0. It must not know how metrics are served.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from celery_guardrails import clock
from celery_guardrails.alerts.complaint import Complaints
from celery_guardrails.errors import GuardrailsError
from celery_guardrails.figures.histogram import BOUNDS, Histogram
from celery_guardrails.figures.measure import retry_rate, success_rate
from celery_guardrails.figures.summary import TaskFigures
from celery_guardrails.guardian.health import Health
from celery_guardrails.guardian.label import Labels
from celery_guardrails.policy.alert import Limits
from celery_guardrails.policy.threshold import UnreconciledThreshold
from celery_guardrails.store import figure_query, reconcile, sign, tally
from celery_guardrails.store.engine import Store
from celery_guardrails.store.figure_beside import Beside, beside
from celery_guardrails.store.record import State

__all__ = ["GuardianMetrics", "Sources"]

logger = logging.getLogger("celery_guardrails.guardian")

_RECENT = timedelta(minutes=5)


def _none() -> None:
    """Not known."""


@dataclass(frozen=True)
class Sources:
    """What metrics are read from.

    Args:
        store: the archive.
        environment: of the figures that are exported; letters of every environment are.
        health: what the guardian's loop knows of itself.
        waiting: how many messages wait outside the workers; `None`: this broker does not say.
        spool_files: how many files are in the spool of this machine; `None`: it cannot be read.
        dropped: summaries that this guardian has dropped, by the reason.
        sinks: the sinks that alerts go to, and whether alerts reach each of them.
        missing: for each task, from when on a death that workers counted and the archive lacks is exported.
        overdue: the tasks that should have run and did not, each once for each entry that is overdue.
        now: the clock.
    """

    store: Store
    environment: str
    health: Health
    waiting: Callable[[], int | None] = _none
    spool_files: Callable[[], int | None] = _none
    dropped: Mapping[str, int] = field(default_factory=dict)
    sinks: Callable[[], Mapping[str, bool]] = dict
    missing: Limits[UnreconciledThreshold] = Limits(UnreconciledThreshold())  # noqa: RUF009 - frozen
    overdue: Callable[[], Iterable[str]] = tuple
    now: Callable[[], datetime] = clock.now


class GuardianMetrics:
    """A collector, as `prometheus_client` calls one.

    Args:
        sources: what metrics are read from.
        most_tasks: how many tasks have labels of their own; further ones are counted as `other`.
    """

    def __init__(self, sources: Sources, most_tasks: int = 500) -> None:
        self._sources = sources
        self._labels = Labels(most_tasks)
        self._complaints = Complaints(logger)

    def collect(self) -> Iterator[Metric]:
        """Every metric that can be read now."""
        now = self._sources.now()
        yield from self._of_this_guardian()
        yield from self._read("archive", lambda: self._of_the_archive(now))
        yield from self._read("broker", self._of_the_broker)

    def _read(self, what: str, read: Callable[[], Iterable[Metric]]) -> Iterator[Metric]:
        found: list[Metric] = []
        try:
            found = list(read())
        except GuardrailsError as exc:
            self._complaints.once(what, "metrics without those of the %s: %s", what, exc)
            up = 0
        else:
            up = 1
        yield _gauge(f"guardrails_{what}_up", f"1 while this guardian can read the {what}, else 0.", up)
        yield from found

    def _of_this_guardian(self) -> Iterator[Metric]:
        lag = self._sources.health.lag().total_seconds()
        words = "Seconds since this guardian last looked at its queues and archived what was there."
        yield _gauge("guardrails_guardian_lag_seconds", words, lag)
        dropped = CounterMetricFamily(
            "guardrails_summaries_dropped", "Summaries of figures that this guardian dropped.", labels=["reason"]
        )
        for reason in ("late", "refused", "unreadable"):
            dropped.add_metric([reason], self._sources.dropped.get(reason, 0))
        yield dropped
        if (files := self._sources.spool_files()) is not None:
            yield _gauge(
                "guardrails_spool_files", "Letters and retries in the spool of this guardian's machine.", files
            )

    def _of_the_broker(self) -> Iterator[Metric]:
        if (waiting := self._sources.waiting()) is not None:
            words = "Retries and delayed tasks that wait outside the workers."
            yield _gauge("guardrails_waiting_retries", words, waiting)

    def _of_the_archive(self, now: datetime) -> Iterator[Metric]:
        own = self._sources
        with own.store.read() as conn:
            standing, deaths = tally.standing(conn), tally.deaths_in_all(conn)
            totals = figure_query.totals(conn, environment=own.environment)
            recent = figure_query.between(conn, now - _RECENT, now, environment=own.environment)
            missing = reconcile.missing_deaths(conn, now, own.missing)
            alerts, counted = sign.open_alerts(conn), beside(conn, own.environment)
        yield from self._letters(standing, deaths, now)
        yield from self._tasks({each.task: each.figures for each in totals})
        yield from self._rates({task: figures for (_, task), figures in recent.items()})
        unreconciled = GaugeMetricFamily(
            "guardrails_unreconciled",
            "Dead letters that workers counted and the archive does not have.",
            labels=["environment", "task"],
        )
        yield self._labels.sums(unreconciled, {(each.environment, each.task): each.count for each in missing}, 1)
        yield from _beside(counted)
        overdue = GaugeMetricFamily("guardrails_overdue", "Entries that should have run and did not.", labels=["task"])
        yield self._labels.sums(overdue, {(task,): count for task, count in Counter(own.overdue()).items()}, 0)
        opened = GaugeMetricFamily("guardrails_alerts_open", "Alerts that are open.", labels=["severity"])
        for severity, number in {"critical": 0, "error": 0, "warning": 0, **alerts}.items():
            opened.add_metric([severity], number)
        yield opened
        up = GaugeMetricFamily("guardrails_sink_up", "1 while alerts reach the sink, else 0.", labels=["sink"])
        for sink, is_up in own.sinks().items():
            up.add_metric([sink], int(is_up))
        yield up

    def _letters(
        self, standing: Iterable[tally.Standing], deaths: Mapping[tuple[str, str, str], int], now: datetime
    ) -> Iterator[Metric]:
        labels = ["environment", "task", "reason"]
        depth = GaugeMetricFamily("guardrails_dead_letters", "Dead letters in the archive.", labels=[*labels, "state"])
        ages: dict[tuple[str, ...], float] = {}
        for one in standing:
            if one.state == State.DEAD:
                key = self._labels.key((one.environment, one.task, one.reason), 1)
                ages[key] = max(ages.get(key, 0.0), (now - one.oldest_at).total_seconds())
        counts = {(one.environment, one.task, one.reason, one.state): one.count for one in standing}
        yield self._labels.sums(depth, counts, 1)
        total = CounterMetricFamily("guardrails_dead_letters", "Deaths that were archived.", labels=labels)
        yield self._labels.sums(total, deaths, 1)
        oldest = GaugeMetricFamily(
            "guardrails_oldest_undecided_seconds", "Age of the oldest dead letter that nobody decided.", labels=labels
        )
        for key, age in ages.items():
            oldest.add_metric(list(key), age)
        yield oldest

    def _tasks(self, totals: Mapping[str, TaskFigures]) -> Iterator[Metric]:
        merged = self._labels.merged(totals)
        attempts = CounterMetricFamily("guardrails_attempts", "Attempts that ended.", labels=["task", "outcome"])
        for task, figures in merged.items():
            for outcome, count in figures.outcomes.items():
                attempts.add_metric([task, outcome], count)
        yield attempts
        for name, words, attribute in (
            ("start_delay", "From when an attempt was due to its start, in seconds.", "start_delay"),
            ("time_to_succeed", "From the publish of a task to its success, in seconds.", "time_to_succeed"),
            ("run_time", "How long the bodies of attempts ran, in seconds.", "run_time"),
        ):
            family = HistogramMetricFamily(f"guardrails_{name}_seconds", words, labels=["task"])
            for task, figures in merged.items():
                _add(family, task, getattr(figures, attribute))
            yield family

    def _rates(self, recent: Mapping[str, TaskFigures]) -> Iterator[Metric]:
        merged = self._labels.merged(recent)
        for name, words, measure in (
            ("retry_rate", "Share of the attempts of the last 5 minutes that are followed by a retry.", retry_rate),
            ("success_rate", "Share of the jobs that ended in the last 5 minutes that succeeded.", success_rate),
        ):
            family = GaugeMetricFamily(f"guardrails_{name}", words, labels=["task"])
            for task, figures in merged.items():
                if (share := measure(figures)) is not None:
                    family.add_metric([task], share)
            yield family


def _beside(counted: Beside) -> Iterator[Metric]:
    """What workers counted beside the figures of their tasks."""
    words = "Attempts that no task's figures have, and dead letters that nobody looks for: too many in one summary."
    cut = CounterMetricFamily("guardrails_figures_cut_off", words, labels=["what"])
    cut.add_metric(["attempts"], counted.attempts)
    cut.add_metric(["dead_letters"], counted.dead_letters)
    yield cut
    words = "How often a worker noticed that nobody had taken its figures for 5 minutes."
    yield CounterMetricFamily("guardrails_guardian_missed", words, value=counted.no_guardian)


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, value=value)


def _add(family: HistogramMetricFamily, task: str, histogram: Histogram) -> None:
    if not histogram.number:
        return
    buckets, below = [], 0
    for index, bound in enumerate(BOUNDS):
        below += histogram.counts.get(index, 0)
        buckets.append((str(bound), below))
    family.add_metric([task], [*buckets, ("+Inf", histogram.number)], histogram.total)
