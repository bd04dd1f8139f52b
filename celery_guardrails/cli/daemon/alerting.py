"""What a guardian's alerts need of the application: its tasks' words on them, and the signals to look for.

A guardian reads the policies of the application that it was started with, so that a changed policy counts for old
letters, too. `assembly.py` decides when these are made.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta

from celery_guardrails.alerts.lease import PosterLease
from celery_guardrails.alerts.service import AlertService
from celery_guardrails.alerts.sinks.build import build_sinks
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.cli.daemon.metrics import files_of
from celery_guardrails.cli.overdue import OverdueSource, queue_of
from celery_guardrails.cli.project import Project
from celery_guardrails.guardian.absence import Absence, NoWorker
from celery_guardrails.guardian.figure_signals import (
    ErrorRate,
    FailedAttempts,
    QueueLatency,
    TaskFacts,
    Throughput,
)
from celery_guardrails.guardian.figures import FigureCounting
from celery_guardrails.guardian.watching import EACH_MINUTE, SinkDown, Source, SpoolGrowing, Unreconciled, Watching
from celery_guardrails.policy.alert import TaskAlerts, limits
from celery_guardrails.policy.schedule import retry_window
from celery_guardrails.store.engine import Store
from celery_guardrails.text import count_of
from celery_guardrails.transport.consumer import ConsumerLost, waiting

__all__ = ["alert_service", "task_alerts", "task_facts", "waiting_work", "watching"]

_MOST_QUEUES, _SHOWN_QUEUES = 20, 3
"""How many queues are asked what waits in them, and how many of those an alert names."""

_LEAST = timedelta(seconds=5)


def alert_service(project: Project, store: Store, lease: PosterLease) -> AlertService:
    """The alert service of this application's guardian."""
    settings = project.settings
    return AlertService(
        store,
        build_sinks(settings),
        settings.alerts,
        fallback_channel=settings.slack.fallback_channel,
        lease=lease,
        app=project.name,
        task_alerts=task_alerts(project.guardrails),
    )


def watching(
    project: Project, store: Store, alerts: AlertService, away: Callable[[], bool], figures: FigureCounting | None
) -> list[Watching]:
    """The services that look for signals which are no dead letter.

    What is overdue is looked for as often as `alerts.thresholds.overdue.grace` is long: each 5 seconds at most, each
    minute at least.

    Args:
        project: the application.
        store: the archive.
        alerts: the alert service of the same guardian.
        away: whether the guardian's broker does not answer.
        figures: what counts the workers' figures; `None`: this broker carries none.
    """
    settings, environment = project.settings, project.settings.environment
    usual, facts = settings.alerts.thresholds, task_facts(project.guardrails)
    words = {name: policy.alert for name, policy in project.guardrails.policies().items()}
    absence = Absence(store, environment, away)
    throughput = Throughput(store, environment, facts, limits(usual.throughput, "throughput", words), absence.explains)
    sources: list[Source] = [
        FailedAttempts(store, environment, facts, limits(usual.failed_attempts, "failed_attempts", words)),
        ErrorRate(store, environment, facts, limits(usual.error_rate, "error_rate", words)),
        QueueLatency(store, environment, facts, limits(usual.queue_latency, "queue_latency", words), absence.explains),
        throughput,
        Unreconciled(store, environment, limits(usual.unreconciled, "unreconciled", words)),
        SinkDown(alerts.poster, environment),
        SpoolGrowing(files_of(project.guardrails), environment, socket.gethostname()),
    ]
    if figures is not None:
        # first: while it holds, others say nothing
        missed = NoWorker(
            absence,
            lambda: figures.listening_since,
            lambda: waiting_work(project.guardrails),
            lambda now: bool(throughput.lacking(now)),
        )
        sources.insert(0, missed)
    often = max(_LEAST, min(usual.overdue.grace, EACH_MINUTE))
    overdue = Watching(store, [OverdueSource(project.guardrails, store, away)], name="overdue", every=often)
    return [Watching(store, sources), overdue]


def waiting_work(guardrails: Guardrails) -> str | None:
    """What waits in the queues of the guarded tasks, in words: empty if nothing does, `None` if nobody knows."""
    queues = sorted({queue_of(guardrails, task.name) for task in guardrails.guarded_tasks()})
    try:
        counts = {queue: waiting(guardrails.app, [queue]) for queue in queues[:_MOST_QUEUES]}
    except ConsumerLost:
        return None
    held = [queue for queue in counts if counts[queue]]
    if not held:
        return ""
    total = count_of(sum(counts.values()), "message waits", "messages wait")
    more = f" and {len(held) - _SHOWN_QUEUES} more" if len(held) > _SHOWN_QUEUES else ""
    return f"{total} in {', '.join(held[:_SHOWN_QUEUES])}{more}"


def task_alerts(guardrails: Guardrails) -> Callable[[str], tuple[TaskAlerts | None, timedelta]]:
    """A function from a task's name to its policy's `alert`, and how long its retries may take.

    Args:
        guardrails: those of the application. A task that it does not know has neither.
    """
    words = {name: (policy.alert, retry_window(policy)) for name, policy in guardrails.policies().items()}
    return lambda task: words.get(task, (None, timedelta(0)))


def task_facts(guardrails: Guardrails) -> Callable[[str], TaskFacts]:
    """A function from a task's name to what findings say of it; the defaults for one that the application has not."""
    facts = {
        name: TaskFacts(policy.owner, policy.runbook, policy.max_latency)
        for name, policy in guardrails.policies().items()
    }
    return lambda task: facts.get(task, TaskFacts())
