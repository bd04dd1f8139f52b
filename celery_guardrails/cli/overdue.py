"""Which tasks should have run and did not: entries of the beat schedule, and tasks whose policy expects a success.

Silence is the worst failure. Owns when an entry was due, by Celery's own schedule objects, so that crontab, solar and
time zones are theirs; and what keeps it from running. The workers' figures say when a task last began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Any

from celery import schedules

from celery_guardrails import clock
from celery_guardrails.alerts.finding import Finding, Scope
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.policy import Policy
from celery_guardrails.policy.alert import Limits, limits
from celery_guardrails.policy.threshold import OverdueThreshold
from celery_guardrails.store import expected, figure_query
from celery_guardrails.store.engine import Store
from celery_guardrails.store.figure_query import TaskTotals
from celery_guardrails.text import count_of, when
from celery_guardrails.transport.consumer import ConsumerLost, waiting
from celery_guardrails.transport.figures import carries_figures

__all__ = ["EXPECT_EVERY", "Overdue", "OverdueSource", "find_overdue", "overdue_entries", "queue_of"]

EXPECT_EVERY = "expect_every"
"""Stands in place of the entry where a policy's `expect_every` is overdue."""
NO_SUCCESS = "no_success"
_SKEW = timedelta(seconds=30)
"""How far a worker's clock may be behind beat's: a task that began so much before it was due has run."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """Something that should have run and did not. `why`: `not_sent`, `not_started` or `no_success`."""

    entry: str
    task: str
    due_at: datetime
    last_started_at: datetime | None
    last_succeeded_at: datetime | None
    why: str
    words: str = ""


class OverdueSource:
    """Looks for the signal `overdue`, for the guardian.

    Args:
        guardrails: those of the application, with its schedule and its policies.
        store: the archive.
        away: whether the broker does not answer, so that figures may only be late.
    """

    def __init__(self, guardrails: Guardrails, store: Store, away: Callable[[], bool]) -> None:
        tasks = frozenset(task.name for task in guardrails.guarded_tasks())
        self.scope = Scope("overdue", guardrails.settings.environment, tasks=tasks)
        self._guardrails = guardrails
        self._store = store
        self._away = away

    def find(self, now: datetime) -> Sequence[Finding] | None:
        """One finding for each entry."""
        if self._away():
            return None
        environment, plan = self.scope.environment, _Plan.of(self._guardrails)
        noted = {entry: task for entry, (task, _) in plan.entries().items()}
        noted |= {_expectation(task): task for task, _ in plan.expecting()}
        with self._store.begin() as conn:
            expected.note(conn, environment, noted, self.scope.tasks or (), now)
            gone = expected.gone(conn, environment, now) - (self.scope.tasks or frozenset())
        self.scope = replace(self.scope, gone=gone)
        return [
            Finding(
                "overdue",
                environment,
                each.task,
                each.words,
                each.entry,
                owner=plan.policies[each.task].owner,
                runbook=plan.policies[each.task].runbook,
            )
            for each in _explained(plan, self._store, now)
            if plan.limits.of(each.task) is not None
        ]


def find_overdue(guardrails: Guardrails, store: Store, now: datetime) -> list[Overdue]:
    """What is overdue now, by when it was due, and why. The broker is asked once for each queue, with a short timeout.

    Args:
        guardrails: those of the application.
        store: the archive, in which a guardian has noted since when it expects each entry.
        now: this instant.

    Raises:
        StoreError: the archive cannot be read.
    """
    return _explained(_Plan.of(guardrails), store, now)


def overdue_entries(guardrails: Guardrails, store: Store, now: datetime) -> list[Overdue]:
    """What is overdue now, without why an entry has not begun; otherwise as `find_overdue`, and without the broker.

    Only guarded tasks are looked at: of others nobody knows when they ran. A task whose policy wants no alert of it is
    overdue all the same. On a broker that carries no figures nobody knows of any task, so nothing is overdue.
    """
    return _unexplained(_Plan.of(guardrails), store, now)


@dataclass(frozen=True)
class _Plan:
    """What an application should run: the policies of its guarded tasks, and when each of them is overdue."""

    guardrails: Guardrails
    policies: Mapping[str, Policy]
    limits: Limits[OverdueThreshold]

    @classmethod
    def of(cls, guardrails: Guardrails) -> _Plan:
        policies = guardrails.policies()
        words = {name: policy.alert for name, policy in policies.items()}
        return cls(guardrails, policies, limits(guardrails.settings.alerts.thresholds.overdue, "overdue", words))

    def limit(self, task: str) -> OverdueThreshold:
        """When a task is overdue, even if that is no alert."""
        return self.limits.of(task) or self.limits.usual

    def entries(self) -> dict[str, tuple[str, Any]]:
        """The entries of the beat schedule whose tasks are guarded, with their tasks and schedules."""
        app = self.guardrails.app
        found = {}
        for name, entry in dict(app.conf.beat_schedule or {}).items():
            task = entry.get("task")
            if task not in self.policies or any(fnmatchcase(str(name), each) for each in self.limit(task).ignore):
                continue
            schedule = entry.get("schedule")
            if isinstance(schedule, (int, float, timedelta)):
                schedule = schedules.schedule(schedule)
            if schedule is not None:
                schedule.app = app  # as beat does
                found[str(name)] = (task, schedule)
        return found

    def expecting(self) -> Iterator[tuple[str, timedelta]]:
        """The tasks whose policies expect a success every so often."""
        for task, policy in self.policies.items():
            if policy.expect_every is not None:
                yield task, policy.expect_every


def _explained(plan: _Plan, store: Store, now: datetime) -> list[Overdue]:
    reason_of = cache(partial(_reason, plan.guardrails))
    found = []
    for each in _unexplained(plan, store, now):
        if each.why != NO_SUCCESS:
            why, words = reason_of(queue_of(plan.guardrails, each.task))
            each = replace(each, why=why, words=f"{each.words}: {words}")
        found.append(each)
    return found


def _unexplained(plan: _Plan, store: Store, now: datetime) -> list[Overdue]:
    if not carries_figures(plan.guardrails.app):
        return []
    environment = plan.guardrails.settings.environment
    with store.read() as conn:
        since = expected.known(conn, environment)
        totals = {each.task: each for each in figure_query.totals(conn, environment=environment)}
    found = []
    for entry, (task, schedule) in plan.entries().items():
        begun, known = since.get((entry, task)), totals.get(task)
        if begun is not None and (due := _due(schedule, begun, known, plan.limit(task), now)) is not None:
            found.append(_overdue(entry, task, due, known, "", f"{entry} was due at {when(due)} and has not begun"))
    for task, every in plan.expecting():
        begun, known = since.get((_expectation(task), task)), totals.get(task)
        if begun is None:
            continue
        last = max(begun, known.last_succeeded_at) if known and known.last_succeeded_at else begun
        if now > last + every + _grace(every, plan.limit(task)):
            text = f"It has not succeeded since {when(last)}; its policy expects a success every {clock.shown(every)}"
            found.append(_overdue(EXPECT_EVERY, task, last + every, known, NO_SUCCESS, text))
    return sorted(found, key=lambda each: (each.due_at, each.entry))


def _overdue(entry: str, task: str, due: datetime, known: TaskTotals | None, why: str, words: str) -> Overdue:
    started, succeeded = (known.last_started_at, known.last_succeeded_at) if known else (None, None)
    return Overdue(entry, task, due, started, succeeded, why, words)


def _expectation(task: str) -> str:
    """The entry under which the archive notes since when a success is expected."""
    return f"{EXPECT_EVERY} {task}"


def _due(
    schedule: Any, begun: datetime, known: TaskTotals | None, limit: OverdueThreshold, now: datetime
) -> datetime | None:
    """When an entry was due that has not begun since; `None`: it is not overdue."""
    started = known.last_started_at if known else None
    last = begun if started is None else max(begun, started + _SKEW)
    due = _next(schedule, last)
    return due if now > due + _grace(_next(schedule, due) - due, limit) else None


def _next(schedule: Any, last: datetime) -> datetime:
    """When a schedule is next due after an instant, by its own reckoning."""
    here = schedule.maybe_make_aware(last.astimezone(schedule.tz))
    now = schedule.maybe_make_aware(schedule.now())
    due: datetime = now + schedule.remaining_estimate(here)
    return due.astimezone(timezone.utc)


def _grace(period: timedelta, limit: OverdueThreshold) -> timedelta:
    return max(limit.grace, limit.ratio * period)


def queue_of(guardrails: Guardrails, task: str) -> str:
    """The queue to which the application sends a task."""
    route = guardrails.app.amqp.router.route({}, task)
    return getattr(route.get("queue"), "name", None) or str(guardrails.app.conf.task_default_queue)


def _reason(guardrails: Guardrails, queue: str) -> tuple[str, str]:
    """Why an entry has not begun, and in words: whether anything waits in its task's queue says it."""
    try:
        number = waiting(guardrails.app, [queue])
    except ConsumerLost:
        return "not_sent", "nobody knows whether it was sent, because the broker does not answer"
    if number:
        words = count_of(number, "message waits", "messages wait")
        return "not_started", f"{words} in {queue}, and no worker takes them"
    return "not_sent", f"nothing waits in {queue}, so beat has not sent it"
