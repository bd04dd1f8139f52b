"""What people ask of a task's figures: what share succeeded, how often a job is retried.

Owns the meaning of these words. Everything is computed from `TaskFigures`; it must not know where they come from.
"""

from __future__ import annotations

import math

from celery_guardrails.figures.summary import AttemptOutcome, TaskFigures

__all__ = ["failed_attempts", "of_outcome", "retries_average", "retries_quantile", "retry_rate", "success_rate"]

_ENDS_JOB = {
    AttemptOutcome.SUCCEEDED: True,
    AttemptOutcome.DEAD: True,
    AttemptOutcome.EXPECTED: True,
    AttemptOutcome.PLAIN: True,
    AttemptOutcome.RETRIED: False,
    AttemptOutcome.REPLACED: False,
    AttemptOutcome.NOT_TAKEN: False,
    AttemptOutcome.IGNORED: False,  # an end of which nobody says whether it is a success
}


def of_outcome(figures: TaskFigures, outcome: AttemptOutcome) -> int:
    """How many attempts ended in this way."""
    return figures.outcomes.get(outcome.value, 0)


def failed_attempts(figures: TaskFigures) -> int:
    """How many attempts failed: for good, or followed by a retry; without errors that their task expects."""
    failed = (AttemptOutcome.RETRIED, AttemptOutcome.DEAD, AttemptOutcome.PLAIN, AttemptOutcome.NOT_TAKEN)
    return sum(of_outcome(figures, outcome) for outcome in failed)


def success_rate(figures: TaskFigures) -> float | None:
    """Of the jobs that ended (succeeded or failed for good), the share that succeeded: 0 to 1; `None` without any.

    A retried attempt is no end of a job, so that a job that succeeds at its third attempt counts as one success.
    """
    number = sum(of_outcome(figures, outcome) for outcome, ends in _ENDS_JOB.items() if ends)
    return of_outcome(figures, AttemptOutcome.SUCCEEDED) / number if number else None


def retry_rate(figures: TaskFigures) -> float | None:
    """Of the attempts that ended, the share that is followed by a retry: 0 to 1; `None` without any."""
    number = figures.attempts
    return of_outcome(figures, AttemptOutcome.RETRIED) / number if number else None


def retries_average(figures: TaskFigures) -> float | None:
    """How many retries a job had when it ended, on average; `None` without any job that ended."""
    jobs = _jobs(figures)
    number = sum(jobs.values())
    return sum((attempt - 1) * count for attempt, count in jobs.items()) / number if number else None


def retries_quantile(figures: TaskFigures, share: float) -> int | None:
    """How many retries this share of the jobs (0 to 1) did not exceed; `None` without any job that ended."""
    jobs = _jobs(figures)
    rank, seen = math.ceil(share * sum(jobs.values())), 0
    for attempt in sorted(jobs):
        seen += jobs[attempt]
        if seen >= rank:
            return attempt - 1
    return None


def _jobs(figures: TaskFigures) -> dict[int, int]:
    """The jobs that ended, by the number of their last attempt."""
    jobs = dict(figures.succeeded_at_attempt)
    for attempt, count in figures.dead_at_attempt.items():
        jobs[attempt] = jobs.get(attempt, 0) + count
    return jobs
