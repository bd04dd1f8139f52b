"""What `guardrails status` knows: read from the archive in one transaction, and from the broker.

Owns which questions are answered, and from what. `screen.py` shows the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from celery_guardrails.cli.overdue import Overdue, find_overdue
from celery_guardrails.cli.project import Project
from celery_guardrails.errors import GuardrailsError
from celery_guardrails.figures.measure import of_outcome, retries_average, retries_quantile, success_rate
from celery_guardrails.figures.summary import AttemptOutcome, TaskFigures
from celery_guardrails.redaction.process import shown
from celery_guardrails.store import figure_query, lease, sign, tally
from celery_guardrails.store.figure import HOUR, MINUTE, environment_of
from celery_guardrails.store.figure_beside import Beside, beside
from celery_guardrails.store.lease import GuardianSeen
from celery_guardrails.store.tally import Undecided

__all__ = ["BARS", "Driver", "Overdue", "Overview", "as_json", "overview"]

BARS = 24
"""Bars of a sparkline: two hours, five minutes each."""
_SHARE, _LEAST = 0.5, 10
_PAUSE = timedelta(minutes=10)
_FAR = 48 * 60 - 1


@dataclass(frozen=True, slots=True)
class Driver:
    """The task with most retries of the last hour, if it has at least half of all, and ten.

    `since` is when its retries began, without a pause of ten minutes until now; `None`: over 48 hours ago.
    """

    task: str
    share: float
    since: datetime | None


@dataclass(frozen=True)
class Overview:
    """All that is shown.

    Attributes:
        at: when it was read.
        environment: the application's; of other environments in the same archive nothing is counted.
        period: the period of `tasks`.
        undecided: tasks with letters that need a decision, those with the most first.
        came: letters that died in each twelfth of an hour of the last two hours, the earliest first.
        retries: attempts that were retried, likewise.
        driver: the task that drives the retries; `None`: no task does.
        tasks: the figures of each task that had attempts in the period, by name.
        overdue: what should have run and did not.
        waiting: messages that wait outside the workers; `None`: not known, `waiting_problem` says why.
        alerts: how many alerts are in each state.
        guardians: those that were seen, the last seen first, whether alive or not.
        counted_at: when figures of this environment were last counted; `None`: never.
        others: the environments of the archive that have figures, without this one.
    """

    at: datetime
    environment: str
    period: timedelta
    undecided: Sequence[Undecided]
    came: Sequence[int]
    retries: Sequence[int]
    driver: Driver | None
    tasks: Mapping[str, TaskFigures]
    overdue: Sequence[Overdue]
    waiting: int | None
    waiting_problem: str
    alerts: Mapping[str, int]
    guardians: Sequence[GuardianSeen]
    counted_at: datetime | None
    others: Sequence[str]
    beside: Beside

    @property
    def alive(self) -> list[GuardianSeen]:
        """The guardians that are alive."""
        return [each for each in self.guardians if each.seen_at >= self.at - lease.ALIVE]

    @property
    def last_hour(self) -> int:
        """Letters that died in the last hour."""
        return sum(self.came[BARS // 2 :])

    @property
    def previous_hour(self) -> int:
        """Letters that died in the hour before."""
        return sum(self.came[: BARS // 2])


def overview(project: Project, now: datetime, period: timedelta) -> Overview:
    """Read everything.

    Raises:
        StoreError: the archive cannot be read. (A broker that cannot be read leaves `waiting` unknown.)
    """
    environment = project.settings.environment
    now_second = now.replace(microsecond=0)
    with project.archive.read() as conn:
        found = figure_query.between(conn, now - period, now, environment=environment)
        minutes = figure_query.series(conn, now, 120, environment=environment)
        last = figure_query.between(conn, now - HOUR, now, environment=environment)
        known, counted = figure_query.environments(conn), beside(conn, environment)
        undecided = tally.undecided_by_task(conn, environment)
        came = tally.came_since(conn, now_second - 2 * HOUR, now_second, BARS, environment)
        alerts = sign.alerts_by_state(conn, environment)
        guardians = lease.guardians(conn)
        driver = _driver(conn, environment, {task: each for (_, task), each in last.items()}, now)
    waiting, problem = _waiting(project)
    retried = [of_outcome(bucket.figures, AttemptOutcome.RETRIED) for bucket in minutes]
    each = len(retried) // BARS
    return Overview(
        at=now,
        environment=environment,
        period=period,
        undecided=undecided,
        came=came,
        retries=[sum(retried[start : start + each]) for start in range(0, len(retried), each)],
        driver=driver,
        tasks={task: figures for (_, task), figures in sorted(found.items()) if figures.attempts},
        overdue=find_overdue(project.guardrails, project.archive, now),
        waiting=waiting,
        waiting_problem=problem,
        alerts=alerts,
        guardians=guardians,
        counted_at=known.get(environment_of(environment)),
        others=sorted(known.keys() - {environment_of(environment)}),
        beside=counted,
    )


def as_json(found: Overview) -> dict[str, Any]:
    """The overview in the form of `--json`, which programs rely on."""
    oldest = min((each.oldest_at for each in found.undecided), default=None)
    return {
        "at": found.at,
        "dead_letters": {
            "undecided": sum(each.count for each in found.undecided),
            "last_hour": found.last_hour,
            "previous_hour": found.previous_hour,
            "oldest_at": oldest,
        },
        "tasks": [_task_as_json(task, figures) for task, figures in found.tasks.items()],
        "overdue": [
            {
                "entry": each.entry,
                "task": each.task,
                "due_at": each.due_at,
                "last_started_at": each.last_started_at,
                "last_succeeded_at": each.last_succeeded_at,
                "why": each.why,
            }
            for each in found.overdue
        ],
        "waiting_retries": found.waiting,
        "cut_off": {"attempts": found.beside.attempts, "dead_letters": found.beside.dead_letters},
        "alerts": {state: found.alerts.get(state, 0) for state in ("open", "acknowledged", "silenced")},
        "guardians": [{"host": each.host, "pid": each.pid, "seen_at": each.seen_at} for each in found.alive],
    }


def _task_as_json(task: str, figures: TaskFigures) -> dict[str, Any]:
    return {
        "task": task,
        "attempts": figures.attempts,
        "succeeded": of_outcome(figures, AttemptOutcome.SUCCEEDED),
        "retried": of_outcome(figures, AttemptOutcome.RETRIED),
        "dead": of_outcome(figures, AttemptOutcome.DEAD),
        "success_rate": _rounded(success_rate(figures)),
        "retries_average": _rounded(retries_average(figures)),
        "retries_p95": retries_quantile(figures, 0.95),
        "time_to_succeed_p95": _rounded(figures.time_to_succeed.quantile(0.95)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _waiting(project: Project) -> tuple[int | None, str]:
    try:
        number = project.guardrails.waiting.count()
    except GuardrailsError as exc:
        return None, shown(str(exc))
    return number, "" if number is not None else "this broker does not say"


def _driver(conn: Any, environment: str, last: Mapping[str, TaskFigures], now: datetime) -> Driver | None:
    retried = {task: of_outcome(figures, AttemptOutcome.RETRIED) for task, figures in last.items()}
    most = max(retried, key=lambda task: (retried[task], task), default=None)
    if most is None or retried[most] < max(_LEAST, _SHARE * sum(retried.values())):
        return None
    began: datetime | None = None
    for bucket in reversed(figure_query.series(conn, now, _FAR, environment=environment, task=most)):
        if of_outcome(bucket.figures, AttemptOutcome.RETRIED):
            began = bucket.start_at
        elif began is not None and began - bucket.start_at > _PAUSE:
            return Driver(most, retried[most] / sum(retried.values()), began)
    is_older = began is not None and began <= now - _FAR * MINUTE + _PAUSE
    return Driver(most, retried[most] / sum(retried.values()), None if is_older else began)
